"""Contact constraints as in Box2D's b2ContactSolver: friction and normal impulses at the two points of a manifold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.physics.block_solver import Pair, make_pair, press
from envs_jax.multiwalker.physics.manifold import Vector, cross
from envs_jax.multiwalker.physics.world import Velocity


class Meeting(NamedTuple):
    """Constraints of a manifold of a first body, which may be the ground, and a second body. Arrays have the same shape.

    Attributes:
        normal: unit normal from the first to the second body.
        torque: angular jacobian of the second body, along the tangent and along the normal, at each point.
        light: 1 / mass and 1 / inertia of the second body.
        its_torque: angular jacobian of the first body, 0 for the ground.
        its_light: 1 / mass and 1 / inertia of the first body, 0 for the ground.
        rub: inverse effective mass along the tangent at each point, infinite for unused points.
        friction: coefficient of friction.
        pair: inverse effective mass matrix along the normal.
    """

    normal: Vector
    torque: tuple[Vector, Vector]
    light: Vector
    its_torque: tuple[Vector, Vector]
    its_light: Vector
    rub: Vector
    friction: jax.Array
    pair: Pair


def meet(
    normal: Vector, touching: jax.Array, arm: Vector, light: Vector, its_arm: Vector, its_light: Vector, friction: jax.Array
) -> Meeting:
    """Makes the constraints of two points (2, ...), at `its_arm` from the first and `arm` from the second centre of mass."""
    directions = (normal[1], -normal[0]), normal

    def torques(arm: Vector) -> tuple[Vector, Vector]:
        (a, b), (c, d) = ([cross((arm[0][p], arm[1][p]), direction) for p in (0, 1)] for direction in directions)
        return (a, b), (c, d)

    def gain(row: int, one: int, other: int) -> jax.Array:
        own, its = torque[row], its_torque[row]
        return light[0] + its_light[0] + light[1] * own[one] * own[other] + its_light[1] * its[one] * its[other]

    torque, its_torque = torques(arm), torques(its_arm)
    pair = make_pair(touching, jnp.stack([gain(1, 0, 0), gain(1, 1, 1)]), gain(1, 0, 1))
    rub = tuple(jnp.where(pair.used[p], gain(0, p, p), jnp.inf) for p in (0, 1))
    return Meeting(normal, torque, light, its_torque, its_light, (rub[0], rub[1]), friction, pair)


def give(
    meeting: Meeting, row: int, p: int, impulse: jax.Array, first: Velocity, second: Velocity
) -> tuple[Velocity, Velocity]:
    """Velocities of both bodies after an impulse at point `p` along the tangent (`row` 0) or the normal (`row` 1)."""
    normal = meeting.normal
    x, y = (normal[1], -normal[0]) if row == 0 else normal
    x, y = x * impulse, y * impulse
    turned, its_turned = meeting.torque[row][p] * impulse, meeting.its_torque[row][p] * impulse
    (light, turning), (its_light, its_turning) = meeting.light, meeting.its_light
    first = first[0] - its_light * x, first[1] - its_light * y, first[2] - its_turning * its_turned
    return first, (second[0] + light * x, second[1] + light * y, second[2] + turning * turned)


def _speed(meeting: Meeting, row: int, p: int, first: Velocity, second: Velocity) -> jax.Array:
    x, y = second[0] - first[0], second[1] - first[1]
    along = meeting.normal[1] * x - meeting.normal[0] * y if row == 0 else meeting.normal[0] * x + meeting.normal[1] * y
    return along + meeting.torque[row][p] * second[2] - meeting.its_torque[row][p] * first[2]


class Pressed(NamedTuple):
    """Accumulated impulses at the two points of a manifold: friction, and normal."""

    rub: Vector
    push: Vector


def push_on(meeting: Meeting, pressed: Pressed, first: Velocity, second: Velocity) -> tuple[Velocity, Velocity]:
    """Velocities of both bodies after all accumulated impulses, for warm starts."""
    for row in (0, 1):
        for p in (0, 1):
            first, second = give(meeting, row, p, pressed[row][p], first, second)
    return first, second


def sweep_meeting(meeting: Meeting, first: Velocity, second: Velocity, pressed: Pressed) -> tuple[Velocity, Velocity, Pressed]:
    """One sweep over a manifold: friction at each point, then both normal impulses at once."""
    rubs, old = [], pressed.push
    for p in (0, 1):
        limit = meeting.friction * old[p]
        new = jnp.clip(pressed.rub[p] - _speed(meeting, 0, p, first, second) / meeting.rub[p], -limit, limit)
        first, second = give(meeting, 0, p, new - pressed.rub[p], first, second)
        rubs.append(new)
    new = press(meeting.pair, old, (_speed(meeting, 1, 0, first, second), _speed(meeting, 1, 1, first, second)))
    for p in (0, 1):
        first, second = give(meeting, 1, p, new[p] - old[p], first, second)
    return first, second, Pressed((rubs[0], rubs[1]), new)
