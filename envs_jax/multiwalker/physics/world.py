"""State of the world, solver settings, and integration. Arrays have the batch as their last axis.

Poses are those of centres of mass.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import GRAVITY, MASS, NUM_BODIES, TIME_STEP, single

MAX_TRANSLATION, MAX_ROTATION = 2.0, np.pi / 2


ImpulseShapes = tuple[tuple[int, ...], list[tuple[int, ...]]]
"""Shapes of the impulses of joints, and of each kind of contact points, without the batch axis."""


class Solver(NamedTuple):
    """A solver and its settings."""

    solve: Callable[..., "World"]  # (world, control, contacts, package, solver) -> world without landings
    impulse_shapes: Callable[[int, "Solver"], ImpulseShapes]  # (number of walkers, solver) -> shapes of its impulses
    velocity_iterations: int  # number of velocity iterations per step
    position_iterations: int  # largest number of position iterations per step
    max_position_iterations: int = 60  # largest number of them where joints are still far apart, only in `physics.solver`
    ground_points: int = 6  # largest number of contact points of one walker with the ground, only in `physics.solver`


@flax.struct.dataclass
class Impulses:
    """Accumulated impulses of a step and feature ids of its contacts, for the warm start of the next one."""

    joints: jax.Array  # (4, ..., n, E), in the form of the solver
    contacts: tuple[jax.Array, ...]  # of each kind of contacts, (K points, 2, ..., E), along the tangent and along the normal
    feature_ids: tuple[jax.Array, ...]  # of each kind, (K, ..., E)


@flax.struct.dataclass
class World:
    """Poses and velocities of all bodies."""

    pose: jax.Array  # (3, 5, n, E), x, y and angle of every body of the walkers
    velocity: jax.Array  # (3, 5, n, E)
    package_pose: jax.Array  # (3, E)
    package_velocity: jax.Array  # (3, E)
    impulses: Impulses  # accumulated impulses of the last step


class Control(NamedTuple):
    """Inputs of a step."""

    action: jax.Array  # (4, n, E), from -1 to 1, for the hip and the knee of each side
    push: jax.Array  # (n, E), force on each hull along x, in newtons
    present: jax.Array  # (n, E) bool. Other walkers do not move and touch nothing.


def initial_world(num_walkers: int, solver: Solver, batch: int) -> World:
    """World at the start of an episode. Walkers begin at rest above the ground, and the package above them."""
    x = terrain.START / 2 * terrain.STEP * (1 + np.arange(num_walkers))
    y = terrain.HEIGHT + 2 * model.LEG_HEIGHT
    drop = np.array([0.0, *[-model.LEG_HEIGHT * part - model.LEG_DOWN for _ in range(2) for part in (0.5, 1.5)]])
    pose = np.zeros((3, NUM_BODIES, num_walkers))
    pose[0], pose[1], pose[2] = x, y + drop[:, None], model.START_ANGLE[:, None]
    pose[:2, 0] += model.HULL_CENTRE[:, None]
    package = np.array([x.mean(), terrain.HEIGHT + 3 * model.LEG_HEIGHT, 0.0])

    def spread(array: np.ndarray) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(array, jnp.float32)[..., None], (*array.shape, batch))

    def zeros(*shape: int) -> jax.Array:
        return spread(np.zeros(shape))

    joints, points = solver.impulse_shapes(num_walkers, solver)
    contacts, ids = (zeros(shape[0], 2, *shape[1:]) for shape in points), (zeros(*shape) for shape in points)
    impulses = Impulses(zeros(*joints), tuple(contacts), tuple(ids))
    return World(spread(pose), zeros(*pose.shape), spread(package), zeros(3), impulses)


def integrate_positions(pose: jax.Array, velocity: jax.Array) -> jax.Array:
    """Integrates poses (3, ..., E) over a step. As in Box2D, the displacement and the rotation in one step are bounded."""
    x, y, angle = TIME_STEP * velocity
    distance = jnp.sqrt(x**2 + y**2)
    scale = jnp.minimum(1.0, MAX_TRANSLATION / jnp.maximum(distance, 1e-9))
    return pose + jnp.stack([x * scale, y * scale, jnp.clip(angle, -MAX_ROTATION, MAX_ROTATION)])


def integrate_velocities(world: World, push: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Velocities of bodies and package after a step of gravity and of a force `push` (n, E) on the hulls."""
    velocity = world.velocity.at[1].add(TIME_STEP * GRAVITY).at[0, 0].add(push * single(TIME_STEP / MASS[0]))
    return velocity, world.package_velocity.at[1].add(TIME_STEP * GRAVITY)
