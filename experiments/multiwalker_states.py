"""Converts states of PettingZoo's Multi-Walker to ours, with a batch of one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker.physics.world import Control, Solver, World, initial_world

GROUND_POINTS = 8


def column(array: Any) -> jax.Array:
    """Converts an array to float32 and adds a batch axis at the end."""
    return jnp.asarray(np.asarray(array), jnp.float32)[..., None]


def read_bodies(env: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Poses and velocities of the walkers, (3, 5, n) each, then of the package, (3,) each."""
    walkers = [[walker.hull, *walker.legs] for walker in env.walkers]
    pose = [[(*body.worldCenter, body.angle) for body in bodies] for bodies in walkers]
    velocity = [[(*body.linearVelocity, body.angularVelocity) for body in bodies] for bodies in walkers]
    package = env.package
    return (
        np.array(pose).transpose(2, 1, 0),
        np.array(velocity).transpose(2, 1, 0),
        np.array([*package.worldCenter, package.angle]),
        np.array([*package.linearVelocity, package.angularVelocity]),
    )


def read_world(env: Any, solver: Solver, impulses: Any = None) -> World:
    """The original's state as a `World`; `impulses` are those of the last step, if known."""
    world = initial_world(len(env.walkers), solver, 1)
    pose, velocity, package_pose, package_velocity = (column(array) for array in read_bodies(env))
    kept = world.impulses if impulses is None else impulses
    return World(pose, velocity, package_pose, package_velocity, kept)


def control(action: np.ndarray, push: float = 0.0) -> Control:
    """The control for actions (n, 4), with the same push on every walker."""
    n = len(action)
    return Control(column(action.T), jnp.full((n, 1), push), jnp.ones((n, 1), bool))


class Compared(NamedTuple):
    """Comparison of two states after a step.

    Attributes:
        pose: (5, n), largest difference in the pose of each body.
        flags: (2, n), whether the contact flag of each foot is equal.
    """

    pose: np.ndarray
    flags: np.ndarray


def feet_flags(env: Any) -> np.ndarray:
    """Contact flags of the original's feet, (2, n)."""
    return np.array([[leg.ground_contact for leg in walker.legs[1::2]] for walker in env.walkers]).T
