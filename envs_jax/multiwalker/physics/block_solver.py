"""Normal impulses of both points of a manifold: Box2D's block solver (b2ContactSolver::SolveVelocityConstraints)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

WORST_CONDITION = 1000.0


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
