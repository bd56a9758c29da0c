"""Position correction of contacts and joints one after another, in Box2D's order, until all are within tolerance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import model
from envs_jax.multiwalker.box2d.ground_contacts import FEET, OTHERS
from envs_jax.multiwalker.model import INERTIA, MASS, single
from envs_jax.multiwalker.physics.articulation import Limits, correct_joints, stack_poses
from envs_jax.multiwalker.physics.contact_detection import ContactPoints, Contacts
from envs_jax.multiwalker.physics.contact_solver import (
    BAUMGARTE,
    MIN_SEPARATION,
    Correction,
    Side,
    correct_contact,
    ground_side,
)
from envs_jax.multiwalker.physics.geometry import Motion, joined, motion
from envs_jax.multiwalker.physics.manifold import Manifold
from envs_jax.multiwalker.physics.masked_loops import while_any


class Moved(NamedTuple):
    """Displacements since the beginning of the step.

    Attributes:
        bodies: of the bodies (5, n, E).
        package: of the package (E,).
        deepest: (n, E), lowest separation in this iteration.
    """

    bodies: Motion
    package: Motion
    deepest: jax.Array


def _from_ground(manifolds: list[Manifold], moved: Moved) -> Moved:
    """Corrects contacts with the ground, from right to left."""
    bodies, deepest = moved.bodies, moved.deepest
    for group, manifold in zip((FEET, OTHERS), manifolds, strict=True):
        which = np.array(group)
        inv_mass, inv_inertia = (jnp.asarray(single(1 / of)[which, None, None]) for of in (MASS, INERTIA))
        own = jax.tree.map(lambda leaf, which=which: leaf[..., which, :, :], bodies)
        ground = ground_side(manifold.separation[0, 0])
        for k in reversed(range(manifold.separation.shape[1])):
            for p in (0, 1):
                at = manifold.normal[:, k], manifold.separation[p, k], manifold.reference_is_second[k], manifold.touching[p, k]
                found = correct_contact(*at, ground, Side(own, manifold.point[:, p, k], inv_mass, inv_inertia))
                own, deepest = jax.tree.map(jnp.add, own, found.second), jnp.minimum(deepest, found.separation.min(0))
        bodies = jax.tree.map(lambda leaf, new, which=which: leaf.at[..., which, :, :].set(new), bodies, own)
    return moved._replace(bodies=bodies, deepest=deepest)


def _correct(points: ContactPoints, p: int, w: int, first: Side, second: Side) -> Correction:
    """Corrects contact point `p` of walker `w`."""
    at = points.normal[:, p, w], points.separation[p, w], points.reference_is_second[p, w], points.used[p, w]
    return correct_contact(*at, first, second, BAUMGARTE)


def _side(points: ContactPoints, p: int, w: int, bodies: Motion, walker: int) -> Side:
    """The body of `walker` at contact point `p` of a pair, where all bodies have moved."""
    moved = jax.tree.map(lambda leaf: (points.one_hot[:, p, w] * leaf[..., walker, :]).sum(-2), bodies)
    return Side(moved, points.r[:, p, w], points.inv_mass[p, w], points.inv_inertia[p, w])


def _add(points: ContactPoints, p: int, w: int, bodies: Motion, walker: int, change: Motion) -> Motion:
    """Displacements of all bodies after that of the body of `walker` at contact point `p` of a pair has changed."""
    one_hot = points.one_hot[:, p, w]
    return jax.tree.map(lambda leaf, new: leaf.at[..., walker, :].add(one_hot * new[..., None, :]), bodies, change)


def _from_package(contacts: Contacts, package: model.Package, moved: Moved) -> Moved:
    """Corrects contacts with the package, from the last walker to the first."""
    points, (bodies, its, deepest) = contacts.package, moved
    inv_mass, inv_inertia = jnp.asarray(1 / package.mass), jnp.asarray(1 / package.inertia)
    for w in reversed(range(len(deepest))):
        for p in (0, 1):
            first = Side(its, contacts.package_r[:, p, w], inv_mass, inv_inertia)
            found = _correct(points, p, w, first, _side(points, p, w, bodies, w))
            bodies, its = _add(points, p, w, bodies, w, found.second), jax.tree.map(jnp.add, its, found.first)
            deepest = deepest.at[w].min(found.separation)
    return Moved(bodies, its, deepest)


def _from_neighbours(contacts: Contacts, moved: Moved) -> Moved:
    """Corrects contacts of neighbours, from the last pair to the first."""
    (left, right), (bodies, its, deepest) = contacts.neighbours, moved
    for w in reversed(range(right.used.shape[1])):
        for p in (0, 1):
            found = _correct(right, p, w, _side(left, p, w, bodies, w), _side(right, p, w, bodies, w + 1))
            bodies = _add(left, p, w, bodies, w, found.first)
            bodies = _add(right, p, w, bodies, w + 1, found.second)
            deepest = deepest.at[w].min(found.separation).at[w + 1].min(found.separation)
    return Moved(bodies, its, deepest)


class PositionProblem(NamedTuple):
    """Beginning of the step: poses (3, 5, n, E) and (3, E), contacts, and limits. `entered` as in `correct_joints`."""

    pose: jax.Array
    package_pose: jax.Array
    contacts: Contacts
    manifolds: list[Manifold]
    limits: Limits
    entered: jax.Array
    present: jax.Array


def correct_positions(
    problem: PositionProblem, pose: jax.Array, package_pose: jax.Array, package: model.Package, iterations: int
) -> tuple[jax.Array, jax.Array]:
    """Poses (3, 5, n, E) and (3, E) after at most `iterations` iterations of position correction.

    Walkers that touch the package or another walker are corrected until all of them are within tolerance. Each other walker is
    corrected until it is within tolerance.
    """
    contacts = problem.contacts
    carrying, meets = contacts.package.used.any(0), contacts.neighbours[1].used.any(0)
    linked = carrying | jnp.pad(meets, ((0, 1), (0, 0))) | jnp.pad(meets, ((1, 0), (0, 0)))

    def iteration(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        pose, package_pose, active = carry
        moves = motion(pose - problem.pose), motion(package_pose - problem.package_pose)
        moved = Moved(*moves, jnp.zeros(active.shape))
        moved = _from_neighbours(contacts, _from_package(contacts, package, moved))
        moved = _from_ground(problem.manifolds, moved)
        everyone = jnp.ones(active.shape, bool)
        parts, good, _ = correct_joints(problem.pose + joined(moved.bodies), problem.limits, everyone, problem.entered)
        good &= moved.deepest >= MIN_SEPARATION
        together = (good | ~linked | ~problem.present).all(0)
        still = active & jnp.where(linked, ~together, ~good)
        package_moves = (carrying & active).any(0)
        package_pose = jnp.where(package_moves, problem.package_pose + joined(moved.package), package_pose)
        return jnp.where(active, stack_poses(parts), pose), package_pose, still

    pose, package_pose, _ = while_any(iterations, lambda carry: carry[2], iteration, (pose, package_pose, problem.present))
    return pose, package_pose
