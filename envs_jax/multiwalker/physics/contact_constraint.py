"""Contact constraints as in Box2D's b2ContactSolver: friction at each point of a manifold, and both normal impulses at once.

A contact has one body that moves, on the ground, or two. Vectors and axes are as in `geometry`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.batching import fold
from envs_jax.multiwalker.physics.geometry import Motion, add_scaled, cross, dot, tangent

WORST_CONDITION = 1000.0

Velocities = tuple[Motion, ...]
"""Velocities of the bodies that move, the one to which the normal points last."""


class Block(NamedTuple):
    """Inverse effective mass matrix of two contact points along the normal. Arrays have the same shape."""

    own: tuple[jax.Array, jax.Array]  # diagonal entries, two arrays; 1 for unused points
    other: jax.Array  # off-diagonal entry
    used: tuple[jax.Array, jax.Array]  # two bool arrays, points that receive impulses
    together: jax.Array  # bool, whether both points are used and the matrix is well conditioned; else each is solved alone


def make_block(touching: jax.Array, own: jax.Array, other: jax.Array) -> Block:
    """Makes the matrix of the points that are `touching` (2, ...). If it is ill conditioned, only the first point is used."""
    both = touching[0] & touching[1]
    own = jnp.where(touching, own, 1.0)
    together = both & (own[0] ** 2 < WORST_CONDITION * (own[0] * own[1] - other**2))
    return Block((own[0], own[1]), other, (touching[0], touching[1] & (together | ~both)), together)


def solve_block(
    pair: Block, old: tuple[jax.Array, jax.Array], speed: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Accumulated normal impulses, from the `old` ones and the normal speeds under those.

    They solve a linear complementarity problem: no impulse is negative, no point approaches, and a point that separates has no
    impulse. The old impulse of an unused point must be 0.
    """
    (k1, k2), k12 = pair.own, pair.other
    rest1, rest2 = speed[0] - k1 * old[0] - k12 * old[1], speed[1] - k12 * old[0] - k2 * old[1]
    size = jnp.where(pair.together, k1 * k2 - k12**2, 1.0)
    x1, x2 = (k12 * rest2 - k2 * rest1) / size, (k12 * rest1 - k1 * rest2) / size
    alone1, alone2 = -rest1 / k1, -rest2 / k2
    cases = (
        ((x1 >= 0) & (x2 >= 0), x1, x2),
        ((alone1 >= 0) & (k12 * alone1 + rest2 >= 0), alone1, 0.0),
        ((alone2 >= 0) & (k12 * alone2 + rest1 >= 0), 0.0, alone2),
        ((rest1 >= 0) & (rest2 >= 0), 0.0, 0.0),
    )
    new1, new2 = old
    for holds, value1, value2 in reversed(cases):
        new1, new2 = jnp.where(holds, value1, new1), jnp.where(holds, value2, new2)
    new1 = jnp.where(pair.together, new1, jnp.maximum(alone1, 0.0))
    new2 = jnp.where(pair.together, new2, jnp.maximum(alone2, 0.0))
    return jnp.where(pair.used[0], new1, 0.0), jnp.where(pair.used[1], new2, 0.0)


class Body(NamedTuple):
    """A body in contact."""

    r: jax.Array  # (2, 2 points, ...), from its centre of mass to the points
    inv_mass: jax.Array  # 1 / mass
    inv_inertia: jax.Array  # 1 / moment of inertia
    sign: float = 1.0  # direction in which impulses act on it, -1 for the first of two bodies


class ContactConstraint(NamedTuple):
    """Constraints of a manifold."""

    direction: jax.Array  # (2, 2 rows, ...), tangent and normal
    bodies: tuple[Body, ...]  # the bodies that move
    torque: tuple[jax.Array, ...]  # of each body, its angular jacobian (2 rows, 2 points, ...)
    inv_tangent_mass: jax.Array  # (2 points, ...), inverse effective mass along the tangent, infinite for unused points
    friction: jax.Array  # coefficient of friction
    block: Block  # inverse effective mass matrix along the normal


def make_contact_constraint(
    normal: jax.Array, touching: jax.Array, bodies: tuple[Body, ...], friction: jax.Array
) -> ContactConstraint:
    """Makes the constraints of the two points of a manifold, of which `touching` (2 points, ...) are used."""
    direction = jnp.stack([tangent(normal), normal], 1)
    torque = tuple(body.sign * cross(body.r[:, None], direction[:, :, None]) for body in bodies)

    def inv_effective_mass(row: int, p: int, q: int) -> jax.Array:
        pairs = zip(bodies, torque, strict=True)
        return fold(jnp.add, (body.inv_mass + body.inv_inertia * of[row, p] * of[row, q] for body, of in pairs))

    own = jnp.stack([inv_effective_mass(1, 0, 0), inv_effective_mass(1, 1, 1)])
    block = make_block(touching, own, inv_effective_mass(1, 0, 1))
    along = jnp.stack([jnp.where(block.used[p], inv_effective_mass(0, p, p), jnp.inf) for p in (0, 1)])
    return ContactConstraint(direction, bodies, torque, along, friction, block)


class ContactImpulse(NamedTuple):
    """Accumulated impulses at the two points of a manifold, along the tangent and along the normal."""

    tangent: tuple[jax.Array, jax.Array]
    normal: tuple[jax.Array, jax.Array]


def apply_impulse(constraint: ContactConstraint, row: int, p: int, impulse: jax.Array, velocities: Velocities) -> Velocities:
    """Velocities after an impulse at point `p` along the tangent (`row` 0) or the normal (`row` 1)."""
    linear = constraint.direction[:, row] * impulse
    return tuple(
        add_scaled(velocity, body.sign * body.inv_mass, body.inv_inertia, linear, torque[row, p] * impulse)
        for velocity, body, torque in zip(velocities, constraint.bodies, constraint.torque, strict=True)
    )


def _speed(constraint: ContactConstraint, row: int, p: int, velocities: Velocities) -> jax.Array:
    """Speed at which the bodies separate along the normal, or slide along the tangent, at point `p`."""
    direction, parts = constraint.direction[:, row], zip(velocities, constraint.bodies, constraint.torque, strict=True)
    return fold(jnp.add, (body.sign * dot(direction, v.linear) + torque[row, p] * v.angular for v, body, torque in parts))


def warm_start_contact(constraint: ContactConstraint, impulse: ContactImpulse, velocities: Velocities) -> Velocities:
    """Velocities after the accumulated impulses."""
    for row in (0, 1):
        for p in (0, 1):
            velocities = apply_impulse(constraint, row, p, impulse[row][p], velocities)
    return velocities


def solve_contact(
    constraint: ContactConstraint, velocities: Velocities, impulse: ContactImpulse
) -> tuple[Velocities, ContactImpulse]:
    """One iteration over a manifold: friction at each point, then both normal impulses at once."""
    friction, old = [], impulse.normal
    for p in (0, 1):
        limit = constraint.friction * old[p]
        stop = impulse.tangent[p] - _speed(constraint, 0, p, velocities) / constraint.inv_tangent_mass[p]
        friction.append(jnp.clip(stop, -limit, limit))
        velocities = apply_impulse(constraint, 0, p, friction[p] - impulse.tangent[p], velocities)
    new = solve_block(constraint.block, old, (_speed(constraint, 1, 0, velocities), _speed(constraint, 1, 1, velocities)))
    for p in (0, 1):
        velocities = apply_impulse(constraint, 1, p, new[p] - old[p], velocities)
    return velocities, ContactImpulse((friction[0], friction[1]), new)
