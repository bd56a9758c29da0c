"""Position correction of contacts and joints one after another, in Box2D's order, until all are within tolerance.

Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import model
from envs_jax.multiwalker.box2d.ground_contacts import FEET, OTHERS, Edges, num_edges
from envs_jax.multiwalker.model import INERTIA, MASS, NUM_BODIES, single
from envs_jax.multiwalker.physics.articulation import Limits, Part, correct_joints
from envs_jax.multiwalker.physics.contact_detection import ContactPoints, Contacts
from envs_jax.multiwalker.physics.contact_solver import BAUMGARTE, MIN_SEPARATION, Side, overlap, position_correction
from envs_jax.multiwalker.physics.manifold import Vector, cross
from envs_jax.multiwalker.physics.masked_loops import while_any

Place = tuple[jax.Array, jax.Array, jax.Array]
"""Displacement of a body: x, y and angle."""


class Point(NamedTuple):
    """Contact point of a first and a second body at the beginning of the step. Arrays have the same shape."""

    normal: Vector
    separation: jax.Array
    reference_is_second: jax.Array
    used: jax.Array
    first_r: Vector
    r: Vector


def part(point: Point, first_inv_mass: Vector, inv_mass: Vector, first: Place, second: Place) -> tuple[Place, Place, jax.Array]:
    """Displacements of both bodies after the correction of one contact point, and its separation before the correction."""
    found = overlap(
        point.normal, point.separation, point.reference_is_second, Side(first, point.first_r), Side(second, point.r)
    )
    first_torque, torque = cross(found.arms[0], found.normal), cross(found.arms[1], found.normal)
    inv_effective_mass = first_inv_mass[0] + first_inv_mass[1] * first_torque**2 + inv_mass[0] + inv_mass[1] * torque**2
    push = position_correction(found.separation, point.used, BAUMGARTE) / jnp.where(point.used, inv_effective_mass, 1.0)
    x, y = found.normal[0] * push, found.normal[1] * push
    first = (
        first[0] - first_inv_mass[0] * x,
        first[1] - first_inv_mass[0] * y,
        first[2] - first_inv_mass[1] * first_torque * push,
    )
    second = second[0] + inv_mass[0] * x, second[1] + inv_mass[0] * y, second[2] + inv_mass[1] * torque * push
    return first, second, jnp.where(point.used, found.separation, 0.0)


class Moved(NamedTuple):
    """Displacements since the beginning of the step.

    Attributes:
        bodies: (5, n, E) each.
        package: (E,) each.
        deepest: (n, E), lowest separation in this sweep.
    """

    bodies: Place
    package: Place
    deepest: jax.Array


def _from_ground(all_edges: list[Edges], moved: Moved) -> Moved:
    """Corrects contacts with the ground, from right to left."""
    zero, bodies, deepest = jnp.zeros(()), moved.bodies, moved.deepest
    for group, edges in zip((FEET, OTHERS), all_edges, strict=True):
        which = np.array(group)
        inv_mass = single(1 / MASS)[which, None, None], single(1 / INERTIA)[which, None, None]
        x, y, turn = (value[which] for value in bodies)
        place = x, y, turn
        for k in reversed(range(num_edges(group))):
            for p in (0, 1):
                r = edges.r[0][p, k], edges.r[1][p, k]
                normal = edges.normal[0][k], edges.normal[1][k]
                point = Point(normal, edges.separation[p, k], edges.by_body[k], edges.touching[p, k], (zero, zero), r)
                _, place, separation = part(point, (zero, zero), inv_mass, (zero, zero, zero), place)
                deepest = jnp.minimum(deepest, separation.min(0))
        x, y, turn = (value.at[which].set(new) for value, new in zip(bodies, place, strict=True))
        bodies = x, y, turn
    return moved._replace(bodies=bodies, deepest=deepest)


def _point(points: ContactPoints, first_r: Vector, p: int, w: int) -> Point:
    """Contact point `p` of walker `w`."""
    at = p, w
    return Point(
        (points.normal[0][at], points.normal[1][at]),
        points.separation[at],
        points.reference_is_second[at],
        points.feature_id[at] > 0,
        (first_r[0][at], first_r[1][at]),
        (points.r[0][at], points.r[1][at]),
    )


def _member(bodies: Place, one_hot: jax.Array, w: int) -> Place:
    x, y, turn = ((one_hot * value[:, w]).sum(0) for value in bodies)
    return x, y, turn


def _put(bodies: Place, one_hot: jax.Array, w: int, before: Place, after: Place) -> Place:
    x, y, turn = (value.at[:, w].add(one_hot * (new - old)) for value, old, new in zip(bodies, before, after, strict=True))
    return x, y, turn


def _from_package(contacts: Contacts, package: model.Package, moved: Moved) -> Moved:
    """Corrects contacts with the package, from the last walker to the first."""
    points, n = contacts.package, moved.deepest.shape[0]
    first_inv_mass = jnp.asarray(1 / package.mass), jnp.asarray(1 / package.inertia)

    bodies, its, deepest = moved
    for w in reversed(range(n)):
        for p in (0, 1):
            one_hot = points.one_hot[:, p, w]
            before = _member(bodies, one_hot, w)
            point, inv_mass = _point(points, contacts.package_arm, p, w), (points.inv_mass[p, w], points.inv_inertia[p, w])
            its, after, separation = part(point, first_inv_mass, inv_mass, its, before)
            bodies, deepest = _put(bodies, one_hot, w, before, after), deepest.at[w].min(separation)
    return Moved(bodies, its, deepest)


def _from_neighbours(contacts: Contacts, moved: Moved) -> Moved:
    """Corrects contacts of neighbours, from the last pair to the first."""
    left, right = contacts.neighbours
    bodies, its, deepest = moved
    for w in reversed(range(right.feature_id.shape[1])):
        for p in (0, 1):
            of_left, of_right = left.one_hot[:, p, w], right.one_hot[:, p, w]
            before = _member(bodies, of_left, w), _member(bodies, of_right, w + 1)
            lights = (left.inv_mass[p, w], left.inv_inertia[p, w]), (right.inv_mass[p, w], right.inv_inertia[p, w])
            first, second, separation = part(_point(right, left.r, p, w), *lights, *before)
            bodies = _put(bodies, of_left, w, before[0], first)
            bodies = _put(bodies, of_right, w + 1, before[1], second)
            deepest = deepest.at[w].min(separation).at[w + 1].min(separation)
    return Moved(bodies, its, deepest)


class Start(NamedTuple):
    """Beginning of the step: poses (3, 5, n, E) and (3, E), contacts, and limits. `entered` as in `correct_joints`."""

    pose: jax.Array
    package_pose: jax.Array
    contacts: Contacts
    edges: list[Edges]
    limits: Limits
    entered: jax.Array
    present: jax.Array


def correct_positions(
    start: Start, pose: jax.Array, package_pose: jax.Array, package: model.Package, sweeps: int
) -> tuple[jax.Array, jax.Array]:
    """Poses (3, 5, n, E) and (3, E) after at most `sweeps` sweeps of position correction.

    Walkers that touch the package or another walker are corrected until all of them are within tolerance. Each other walker is
    corrected until it is within tolerance.
    """
    contacts = start.contacts
    carrying = (contacts.package.feature_id > 0).any(0)
    meets = (contacts.neighbours[1].feature_id > 0).any(0)
    linked = carrying | jnp.pad(meets, ((0, 1), (0, 0))) | jnp.pad(meets, ((1, 0), (0, 0)))

    def sweep(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        pose, package_pose, active = carry
        bodies, its = tuple(pose - start.pose), tuple(package_pose - start.package_pose)
        moved = Moved((bodies[0], bodies[1], bodies[2]), (its[0], its[1], its[2]), jnp.zeros(active.shape))
        moved = _from_neighbours(contacts, _from_package(contacts, package, moved))
        moved = _from_ground(start.edges, moved)
        parts = start.pose + jnp.stack(moved.bodies)
        found, good, _ = correct_joints(
            [Part(*parts[:, b]) for b in range(NUM_BODIES)], start.limits, jnp.ones(active.shape, bool), start.entered
        )
        good &= moved.deepest >= MIN_SEPARATION
        together = (good | ~linked | ~start.present).all(0)
        new = jnp.stack([jnp.stack(each) for each in found], 1)
        still = active & jnp.where(linked, ~together, ~good)
        package_moves = (carrying & active).any(0)
        package_pose = jnp.where(package_moves, start.package_pose + jnp.stack(moved.package), package_pose)
        return jnp.where(active, new, pose), package_pose, still

    pose, package_pose, _ = while_any(sweeps, lambda carry: carry[2], sweep, (pose, package_pose, start.present))
    return pose, package_pose
