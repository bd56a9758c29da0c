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
from envs_jax.multiwalker.physics.articulation import Limits, Part, pull_together
from envs_jax.multiwalker.physics.contact_detection import Contacts, Touching
from envs_jax.multiwalker.physics.contact_solver import NEAR_ENOUGH, PUSH, Side, overlap, push_of
from envs_jax.multiwalker.physics.manifold import Vector, cross
from envs_jax.multiwalker.physics.masked_loops import while_any

Place = tuple[jax.Array, jax.Array, jax.Array]
"""Displacement of a body: x, y and angle."""


class Point(NamedTuple):
    """Contact point of a first and a second body at the beginning of the step. Arrays have the same shape."""

    normal: Vector
    separation: jax.Array
    by_second: jax.Array
    used: jax.Array
    its_arm: Vector
    arm: Vector


def part(point: Point, its_light: Vector, light: Vector, first: Place, second: Place) -> tuple[Place, Place, jax.Array]:
    """Displacements of both bodies after the correction of one contact point, and its separation before the correction."""
    found = overlap(point.normal, point.separation, point.by_second, Side(first, point.its_arm), Side(second, point.arm))
    its_torque, torque = cross(found.arms[0], found.normal), cross(found.arms[1], found.normal)
    gain = its_light[0] + its_light[1] * its_torque**2 + light[0] + light[1] * torque**2
    push = push_of(found.separation, point.used, PUSH) / jnp.where(point.used, gain, 1.0)
    x, y = found.normal[0] * push, found.normal[1] * push
    first = first[0] - its_light[0] * x, first[1] - its_light[0] * y, first[2] - its_light[1] * its_torque * push
    second = second[0] + light[0] * x, second[1] + light[0] * y, second[2] + light[1] * torque * push
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
        light = single(1 / MASS)[which, None, None], single(1 / INERTIA)[which, None, None]
        x, y, turn = (value[which] for value in bodies)
        place = x, y, turn
        for k in reversed(range(num_edges(group))):
            for p in (0, 1):
                arm = edges.arm[0][p, k], edges.arm[1][p, k]
                normal = edges.normal[0][k], edges.normal[1][k]
                point = Point(normal, edges.separation[p, k], edges.by_body[k], edges.touching[p, k], (zero, zero), arm)
                _, place, separation = part(point, (zero, zero), light, (zero, zero, zero), place)
                deepest = jnp.minimum(deepest, separation.min(0))
        x, y, turn = (value.at[which].set(new) for value, new in zip(bodies, place, strict=True))
        bodies = x, y, turn
    return moved._replace(bodies=bodies, deepest=deepest)


def _point(contacts: Contacts, its_arm: Vector, p: int, w: int) -> Point:
    """Contact point `p` of walker `w`."""
    at = p, w
    return Point(
        (contacts.normal[0][at], contacts.normal[1][at]),
        contacts.separation[at],
        contacts.by_second[at],
        contacts.code[at] > 0,
        (its_arm[0][at], its_arm[1][at]),
        (contacts.arm[0][at], contacts.arm[1][at]),
    )


def _member(bodies: Place, member: jax.Array, w: int) -> Place:
    x, y, turn = ((member * value[:, w]).sum(0) for value in bodies)
    return x, y, turn


def _put(bodies: Place, member: jax.Array, w: int, before: Place, after: Place) -> Place:
    x, y, turn = (value.at[:, w].add(member * (new - old)) for value, old, new in zip(bodies, before, after, strict=True))
    return x, y, turn


def _from_package(touch: Touching, package: model.Package, moved: Moved) -> Moved:
    """Corrects contacts with the package, from the last walker to the first."""
    contacts, n = touch.package, moved.deepest.shape[0]
    its_light = jnp.asarray(1 / package.mass), jnp.asarray(1 / package.inertia)

    bodies, its, deepest = moved
    for w in reversed(range(n)):
        for p in (0, 1):
            member = contacts.member[:, p, w]
            before = _member(bodies, member, w)
            point, light = _point(contacts, touch.package_arm, p, w), (contacts.light[p, w], contacts.light_turn[p, w])
            its, after, separation = part(point, its_light, light, its, before)
            bodies, deepest = _put(bodies, member, w, before, after), deepest.at[w].min(separation)
    return Moved(bodies, its, deepest)


def _from_neighbours(touch: Touching, moved: Moved) -> Moved:
    """Corrects contacts of neighbours, from the last pair to the first."""
    left, right = touch.neighbours
    bodies, its, deepest = moved
    for w in reversed(range(right.code.shape[1])):
        for p in (0, 1):
            of_left, of_right = left.member[:, p, w], right.member[:, p, w]
            before = _member(bodies, of_left, w), _member(bodies, of_right, w + 1)
            lights = (left.light[p, w], left.light_turn[p, w]), (right.light[p, w], right.light_turn[p, w])
            first, second, separation = part(_point(right, left.arm, p, w), *lights, *before)
            bodies = _put(bodies, of_left, w, before[0], first)
            bodies = _put(bodies, of_right, w + 1, before[1], second)
            deepest = deepest.at[w].min(separation).at[w + 1].min(separation)
    return Moved(bodies, its, deepest)


class Start(NamedTuple):
    """Beginning of the step: poses (3, 5, n, E) and (3, E), contacts, and limits. `entered` is as in `articulation.pull_together`."""

    pose: jax.Array
    package_pose: jax.Array
    touch: Touching
    edges: list[Edges]
    limits: Limits
    entered: jax.Array
    present: jax.Array


def settle(
    start: Start, pose: jax.Array, package_pose: jax.Array, package: model.Package, sweeps: int
) -> tuple[jax.Array, jax.Array]:
    """Poses (3, 5, n, E) and (3, E) after at most `sweeps` sweeps of position correction.

    Walkers that touch the package or another walker are corrected until all of them are within tolerance. Each other walker is
    corrected until it is within tolerance.
    """
    touch = start.touch
    carrying = (touch.package.code > 0).any(0)
    meets = (touch.neighbours[1].code > 0).any(0)
    linked = carrying | jnp.pad(meets, ((0, 1), (0, 0))) | jnp.pad(meets, ((1, 0), (0, 0)))

    def sweep(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        pose, package_pose, active = carry
        bodies, its = tuple(pose - start.pose), tuple(package_pose - start.package_pose)
        moved = Moved((bodies[0], bodies[1], bodies[2]), (its[0], its[1], its[2]), jnp.zeros(active.shape))
        moved = _from_neighbours(touch, _from_package(touch, package, moved))
        moved = _from_ground(start.edges, moved)
        parts = start.pose + jnp.stack(moved.bodies)
        found, good, _ = pull_together(
            [Part(*parts[:, b]) for b in range(NUM_BODIES)], start.limits, jnp.ones(active.shape, bool), start.entered
        )
        good &= moved.deepest >= NEAR_ENOUGH
        together = (good | ~linked | ~start.present).all(0)
        new = jnp.stack([jnp.stack(each) for each in found], 1)
        still = active & jnp.where(linked, ~together, ~good)
        package_moves = (carrying & active).any(0)
        package_pose = jnp.where(package_moves, start.package_pose + jnp.stack(moved.package), package_pose)
        return jnp.where(active, new, pose), package_pose, still

    pose, package_pose, _ = while_any(sweeps, lambda carry: carry[2], sweep, (pose, package_pose, start.present))
    return pose, package_pose
