"""The two points of a contact pressed at once: Box2D's block solver (b2ContactSolver::SolveVelocityConstraints)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

WORST_CONDITION = 1000.0


class Pair(NamedTuple):
    """What unit impulses at two points do to their speeds; any one shape.

    Attributes:
        own: of each point to its own, two arrays, 1 where it is not used.
        other: of one to the other.
        used: two bool arrays, the points that press.
        together: bool, both press and can be distinguished; else each is solved alone.
    """

    own: tuple[jax.Array, jax.Array]
    other: jax.Array
    used: tuple[jax.Array, jax.Array]
    together: jax.Array


def make_pair(touching: jax.Array, own: jax.Array, other: jax.Array) -> Pair:
    """Two points (2, ...) that touch or not; of two that are all but the same only the first presses."""
    both = touching[0] & touching[1]
    own = jnp.where(touching, own, 1.0)
    together = both & (own[0] ** 2 < WORST_CONDITION * (own[0] * own[1] - other**2))
    return Pair((own[0], own[1]), other, (touching[0], touching[1] & (together | ~both)), together)


def press(pair: Pair, old: tuple[jax.Array, jax.Array], speed: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Impulses after which neither point goes in and none is pulled, from the `old` ones and the speeds under those.

    The old impulse of a point that is not used is 0.
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
