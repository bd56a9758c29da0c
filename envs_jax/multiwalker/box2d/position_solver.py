"""Position correction of contacts and joints one after another, in Box2D's order, until all are within tolerance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.box2d.contacts import ContactSet, Motions
from envs_jax.multiwalker.model import NUM_BODIES
from envs_jax.multiwalker.physics.articulation import Limits, correct_joints, stack_poses
from envs_jax.multiwalker.physics.contact_solver import MIN_SEPARATION, Side, correct_contact, ground_side
from envs_jax.multiwalker.physics.geometry import joined, motion
from envs_jax.multiwalker.physics.masked_loops import while_any


class PositionProblem(NamedTuple):
    """What position correction reads."""

    pose: jax.Array  # (3, 5, n, E), at the beginning of the step
    package_pose: jax.Array  # (3, E), likewise
    contacts: list[ContactSet]  # all contacts
    limits: Limits  # active limits of joints
    entered: jax.Array  # as in `correct_joints`
    present: jax.Array  # (n, E) bool, walkers that have not been removed
    linked: jax.Array  # (n, E) bool, walkers that touch the package or another walker
    carrying: jax.Array  # (n, E) bool, walkers that touch the package


def _correct_contacts(all_contacts: list[ContactSet], moved: Motions, deepest: jax.Array) -> tuple[Motions, jax.Array]:
    """Corrects contacts after displacements `moved`; returns displacements, and the lowest separation of each walker (n, E)."""
    for places, bodies, manifold, _ in all_contacts:
        before = after = [place.read(moved) for place in places]
        ground, lowest = ground_side(manifold.separation[0, 0]), jnp.zeros_like(manifold.separation[0, 0])
        for k in reversed(range(manifold.separation.shape[1])):
            for p in (0, 1):
                at = manifold.normal[:, k], manifold.separation[p, k], manifold.reference_is_second[k], manifold.touching[p, k]
                bodies_at = zip(after, bodies, strict=True)
                sides = [Side(each, body.r[:, p, k], body.inv_mass, body.inv_inertia) for each, body in bodies_at]
                first, second = sides if len(sides) == 2 else (ground, *sides)
                found = correct_contact(*at, first, second)
                changes = (found.first, found.second)[-len(sides) :]
                after = [jax.tree.map(jnp.add, each, change) for each, change in zip(after, changes, strict=True)]
                lowest = jnp.minimum(lowest, found.separation)
        for place, new, old in zip(places, after, before, strict=True):
            moved = place.add(moved, jax.tree.map(jnp.subtract, new, old))
            if place.walkers is not None:
                own = deepest[place.walkers]
                deepest = deepest.at[place.walkers].min(lowest.reshape(-1, *own.shape).min(0))
    return moved, deepest


def correct_positions(
    problem: PositionProblem, pose: jax.Array, package_pose: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
    """Poses (3, 5, n, E) and (3, E) after at most `iterations` iterations of position correction.

    Walkers that touch the package or another walker are corrected until all of them are within tolerance. Each other walker is
    corrected until it is within tolerance.
    """
    linked, everyone = problem.linked, jnp.ones(problem.present.shape, bool)

    def iteration(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        pose, package_pose, active = carry
        moves, package_moves = pose - problem.pose, package_pose - problem.package_pose
        moved = Motions(tuple(motion(moves[:, b]) for b in range(NUM_BODIES)), motion(package_moves))
        moved, deepest = _correct_contacts(problem.contacts, moved, jnp.zeros(active.shape))
        corrected = problem.pose + jnp.stack([joined(body) for body in moved.bodies], 1)
        parts, good, _ = correct_joints(corrected, problem.limits, everyone, problem.entered)
        good &= deepest >= MIN_SEPARATION
        together = (good | ~linked | ~problem.present).all(0)
        still = active & jnp.where(linked, ~together, ~good)
        carried = (problem.carrying & active).any(0)
        package_pose = jnp.where(carried, problem.package_pose + joined(moved.package), package_pose)
        return jnp.where(active, stack_poses(parts), pose), package_pose, still

    pose, package_pose, _ = while_any(iterations, lambda carry: carry[2], iteration, (pose, package_pose, problem.present))
    return pose, package_pose
