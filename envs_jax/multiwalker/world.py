"""What moves, and how well it is solved. Arrays have the batch as their last axis; a body is where its centre of mass is."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import body, terrain
from envs_jax.multiwalker.body import GRAVITY, MASS, NUM_BODIES, TIME_STEP, single

FASTEST_MOVE, FASTEST_TURN = 2.0, np.pi / 2
Velocity = tuple[jax.Array, jax.Array, jax.Array]
"""Along x, along y, and spin."""


class Solver(NamedTuple):
    """How well a step is solved.

    Attributes:
        sequential: whether impulses go from joint to contact to joint as in Box2D (`sequential`), or in coordinates in which
            joints hold (`reduced`).
        velocity_sweeps: passes over motors and contacts.
        position_sweeps: passes that put bodies back together, at most.
        most_position_sweeps: as many where joints are still far apart then; `reduced` alone.
        slots: contacts of one walker with the ground, at most; `reduced` alone.
    """

    sequential: bool
    velocity_sweeps: int
    position_sweeps: int
    most_position_sweeps: int = 60
    slots: int = 6


FAST = Solver(sequential=False, velocity_sweeps=30, position_sweeps=8)
ORIGINAL = Solver(sequential=True, velocity_sweeps=180, position_sweeps=60)
SOLVERS = {"fast": FAST, "original": ORIGINAL}


@flax.struct.dataclass
class World:
    """Everything that moves.

    Attributes:
        pose: (3, 5, n, E), x, y and angle of every body of the walkers.
        velocity: (3, 5, n, E).
        package_pose: (3, E).
        package_velocity: (3, E).
        impulses: of the last step, the solver's own.
    """

    pose: jax.Array
    velocity: jax.Array
    package_pose: jax.Array
    package_velocity: jax.Array
    impulses: Any


class Control(NamedTuple):
    """What is done in a step.

    Attributes:
        action: (4, n, E), hip and knee of the two sides, from -1 to 1.
        push: (n, E), a force on the hulls along x.
        present: (n, E) bool; other walkers stay where they are and touch nothing.
    """

    action: jax.Array
    push: jax.Array
    present: jax.Array


def at_start(num_walkers: int, batch: int, impulses: Any) -> World:
    """How every episode begins: walkers hang over the start, the package over them."""
    x = terrain.START / 2 * terrain.STEP * (1 + np.arange(num_walkers))
    y = terrain.HEIGHT + 2 * body.LEG_HEIGHT
    drop = np.array([0.0, *[-body.LEG_HEIGHT * part - body.LEG_DOWN for _ in range(2) for part in (0.5, 1.5)]])
    pose = np.zeros((3, NUM_BODIES, num_walkers))
    pose[0], pose[1], pose[2] = x, y + drop[:, None], body.START_ANGLE[:, None]
    pose[:2, 0] += body.HULL_CENTRE[:, None]
    package = np.array([x.mean(), terrain.HEIGHT + 3 * body.LEG_HEIGHT, 0.0])

    def spread(array: np.ndarray) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(array, jnp.float32)[..., None], (*array.shape, batch))

    return World(spread(pose), spread(np.zeros_like(pose)), spread(package), spread(np.zeros(3)), impulses)


def move(pose: jax.Array, velocity: jax.Array) -> jax.Array:
    """(3, ..., E) a step later; Box2D lets nothing move or turn further than this in one."""
    way = TIME_STEP * velocity
    far = jnp.sqrt(way[0] ** 2 + way[1] ** 2)
    slower = jnp.minimum(1.0, FASTEST_MOVE / jnp.maximum(far, 1e-9))
    return pose + jnp.stack([way[0] * slower, way[1] * slower, jnp.clip(way[2], -FASTEST_TURN, FASTEST_TURN)])


def fall(world: World, push: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Velocities of bodies and package after gravity and a push (n, E) on the hulls."""
    velocity = world.velocity.at[1].add(TIME_STEP * GRAVITY).at[0, 0].add(push * single(TIME_STEP / MASS[0]))
    return velocity, world.package_velocity.at[1].add(TIME_STEP * GRAVITY)
