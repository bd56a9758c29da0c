"""A step of the world: contacts, speeds, places, and legs that land. Arrays have the batch as their last axis."""

import dataclasses

import jax

from envs_jax.batching import separately
from envs_jax.multiwalker import body, reduced, sequential
from envs_jax.multiwalker.body import LEGS
from envs_jax.multiwalker.impact import land
from envs_jax.multiwalker.touching import Touching, touching
from envs_jax.multiwalker.world import Control, Solver, World, at_start


def start(num_walkers: int, solver: Solver, batch: int) -> World:
    """How every episode begins."""
    if solver.sequential:
        return at_start(num_walkers, batch, sequential.no_impulses(num_walkers, batch))
    return at_start(num_walkers, batch, reduced.no_impulses(num_walkers, solver.slots, batch))


def step(world: World, control: Control, heights: jax.Array, package: body.Package, solver: Solver) -> tuple[World, Touching]:
    """A fiftieth of a second.

    Args:
        world: before.
        control: what is done.
        heights: (T, E), of the ground.
        package: what is carried.
        solver: how well to solve.

    Returns:
        The world after, and what touched at the beginning.
    """
    touch = touching(package, world.pose, world.package_pose, control.present, heights)
    after = (sequential if solver.sequential else reduced).solve(world, control, touch, package, solver)
    ways = world.pose[:, LEGS], after.pose[:, LEGS], after.velocity[:, LEGS]
    legs, speeds = separately(land, heights, control.present, *ways)
    pose, velocity = after.pose.at[:, LEGS].set(legs), after.velocity.at[:, LEGS].set(speeds)
    return dataclasses.replace(after, pose=pose, velocity=velocity), touch
