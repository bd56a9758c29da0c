"""Contact constraints as in Box2D's b2ContactSolver: friction and normal impulses at the two points of a manifold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.physics.block_solver import Block, make_block, solve_block
from envs_jax.multiwalker.physics.manifold import Vector, cross
from envs_jax.multiwalker.physics.world import Velocity


class ContactConstraint(NamedTuple):
    """Constraints of a manifold of a first body, which may be the ground, and a second body. Arrays have the same shape.

    Attributes:
        normal: unit normal from the first to the second body.
        torque: angular jacobian of the second body, along the tangent and along the normal, at each point.
        inv_mass: 1 / mass and 1 / inertia of the second body.
        first_torque: angular jacobian of the first body, 0 for the ground.
        first_inv_mass: 1 / mass and 1 / inertia of the first body, 0 for the ground.
        tangent: inverse effective mass along the tangent at each point, infinite for unused points.
        friction: coefficient of friction.
        pair: inverse effective mass matrix along the normal.
    """

    normal: Vector
    torque: tuple[Vector, Vector]
    inv_mass: Vector
    first_torque: tuple[Vector, Vector]
    first_inv_mass: Vector
    tangent: Vector
    friction: jax.Array
    pair: Block


def make_contact_constraint(
    normal: Vector,
    touching: jax.Array,
    r: Vector,
    inv_mass: Vector,
    first_r: Vector,
    first_inv_mass: Vector,
    friction: jax.Array,
) -> ContactConstraint:
    """Makes the constraints of two points (2, ...), at `first_r` from the first and `r` from the second centre of mass."""
    directions = (normal[1], -normal[0]), normal

    def torques(r: Vector) -> tuple[Vector, Vector]:
        (a, b), (c, d) = ([cross((r[0][p], r[1][p]), direction) for p in (0, 1)] for direction in directions)
        return (a, b), (c, d)

    def inv_effective_mass(row: int, one: int, other: int) -> jax.Array:
        own, its = torque[row], first_torque[row]
        return inv_mass[0] + first_inv_mass[0] + inv_mass[1] * own[one] * own[other] + first_inv_mass[1] * its[one] * its[other]

    torque, first_torque = torques(r), torques(first_r)
    pair = make_block(
        touching, jnp.stack([inv_effective_mass(1, 0, 0), inv_effective_mass(1, 1, 1)]), inv_effective_mass(1, 0, 1)
    )
    tangent = tuple(jnp.where(pair.used[p], inv_effective_mass(0, p, p), jnp.inf) for p in (0, 1))
    return ContactConstraint(normal, torque, inv_mass, first_torque, first_inv_mass, (tangent[0], tangent[1]), friction, pair)


def apply_impulse(
    constraint: ContactConstraint, row: int, p: int, impulse: jax.Array, first: Velocity, second: Velocity
) -> tuple[Velocity, Velocity]:
    """Velocities of both bodies after an impulse at point `p` along the tangent (`row` 0) or the normal (`row` 1)."""
    normal = constraint.normal
    x, y = (normal[1], -normal[0]) if row == 0 else normal
    x, y = x * impulse, y * impulse
    turned, its_turned = constraint.torque[row][p] * impulse, constraint.first_torque[row][p] * impulse
    (inv_mass, turning), (first_inv_mass, its_turning) = constraint.inv_mass, constraint.first_inv_mass
    first = first[0] - first_inv_mass * x, first[1] - first_inv_mass * y, first[2] - its_turning * its_turned
    return first, (second[0] + inv_mass * x, second[1] + inv_mass * y, second[2] + turning * turned)


def _speed(constraint: ContactConstraint, row: int, p: int, first: Velocity, second: Velocity) -> jax.Array:
    x, y = second[0] - first[0], second[1] - first[1]
    along = (
        constraint.normal[1] * x - constraint.normal[0] * y if row == 0 else constraint.normal[0] * x + constraint.normal[1] * y
    )
    return along + constraint.torque[row][p] * second[2] - constraint.first_torque[row][p] * first[2]


class ContactImpulse(NamedTuple):
    """Accumulated impulses at the two points of a manifold: friction, and normal."""

    tangent: Vector
    push: Vector


def warm_start_contact(
    constraint: ContactConstraint, pressed: ContactImpulse, first: Velocity, second: Velocity
) -> tuple[Velocity, Velocity]:
    """Velocities of both bodies after all accumulated impulses, for warm starts."""
    for row in (0, 1):
        for p in (0, 1):
            first, second = apply_impulse(constraint, row, p, pressed[row][p], first, second)
    return first, second


def solve_contact(
    constraint: ContactConstraint, first: Velocity, second: Velocity, pressed: ContactImpulse
) -> tuple[Velocity, Velocity, ContactImpulse]:
    """One sweep over a manifold: friction at each point, then both normal impulses at once."""
    rubs, old = [], pressed.push
    for p in (0, 1):
        limit = constraint.friction * old[p]
        new = jnp.clip(pressed.tangent[p] - _speed(constraint, 0, p, first, second) / constraint.tangent[p], -limit, limit)
        first, second = apply_impulse(constraint, 0, p, new - pressed.tangent[p], first, second)
        rubs.append(new)
    new = solve_block(constraint.pair, old, (_speed(constraint, 1, 0, first, second), _speed(constraint, 1, 1, first, second)))
    for p in (0, 1):
        first, second = apply_impulse(constraint, 1, p, new[p] - old[p], first, second)
    return first, second, ContactImpulse((rubs[0], rubs[1]), new)
