"""A step of the world: contacts, velocities, positions, and landings of legs. Arrays have the batch as their last axis."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.batching import separately
from envs_jax.multiwalker import model
from envs_jax.multiwalker.box2d import island
from envs_jax.multiwalker.model import HULL, LEGS
from envs_jax.multiwalker.physics import solver as generalized
from envs_jax.multiwalker.physics.clearance import WITHIN_STEP, hull_on_ground, package_on_ground
from envs_jax.multiwalker.physics.contact_detection import NO_CONTACT, Contacts, detect_contacts
from envs_jax.multiwalker.physics.continuous_collision import resolve_impacts
from envs_jax.multiwalker.physics.world import Control, Solver, World

FAST = Solver(generalized.solve, generalized.impulse_shapes, velocity_iterations=30, position_iterations=8)
ORIGINAL = Solver(island.solve, island.impulse_shapes, velocity_iterations=180, position_iterations=60)
SOLVERS = {"fast": FAST, "original": ORIGINAL}


class StepContacts(NamedTuple):
    """Contacts during a step."""

    feet: jax.Array  # (k, 2, n, E) int32, what lower legs touched at the beginning, as in `Contacts`
    feet_after: jax.Array  # (k, 2, n, E) int32, the same after landings within the step
    fallen: jax.Array  # (n, E) bool, whether the hull touched the ground or another walker
    dropped: jax.Array  # (E,) bool, whether the package touched the ground or a leg


def _step_contacts(
    world: World, contacts: Contacts, edges: jax.Array, present: jax.Array, heights: jax.Array, package: model.Package
) -> StepContacts:
    """Contacts of a step that ends in `world` and in which legs landed on `edges`."""
    feet, edges = contacts.feet, edges[:, 1::2]
    on_ground = jnp.where((edges == NO_CONTACT).all(0), feet[: len(edges)], edges)
    fell = hull_on_ground(world.pose[:, HULL], heights, WITHIN_STEP) & present
    dropped = package_on_ground(package, world.package_pose, heights, WITHIN_STEP)
    feet_after = jnp.concatenate([on_ground, feet[len(edges) :]])
    return StepContacts(feet, feet_after, contacts.fallen | fell, contacts.dropped | dropped)


def step(
    world: World, control: Control, heights: jax.Array, package: model.Package, solver: Solver
) -> tuple[World, StepContacts]:
    """World after 1/50 s, and the contacts in this time. `heights` (T, E) are those of the ground."""
    contacts = detect_contacts(package, world.pose, world.package_pose, control.present, heights)
    after = solver.solve(world, control, contacts, package, solver)
    ways = world.pose[:, LEGS], after.pose[:, LEGS], after.velocity[:, LEGS]
    legs = separately(resolve_impacts, heights, control.present, *ways)
    pose, velocity = after.pose.at[:, LEGS].set(legs.pose), after.velocity.at[:, LEGS].set(legs.velocity)
    after = dataclasses.replace(after, pose=pose, velocity=velocity)
    return after, _step_contacts(after, contacts, legs.edges, control.present, heights, package)
