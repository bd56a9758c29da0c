"""Rough ground: a line of points 0.47 m apart. Arrays have the batch as their last axis."""

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.body import SCALE, single

STEP = 14 / SCALE
HEIGHT = 400 / SCALE / 4
START = 20  # points of flat ground
ROUGHNESS = 1 / SCALE
LONGEST, SHORTEST = 9, 5


def heights(bump: jax.Array, stretch: jax.Array) -> jax.Array:
    """The ground's height at every point.

    Args:
        bump: (T, E), from -1 to 1, how the slope changes at each point; the start is flat all the same.
        stretch: (T, E) int32, how many points after this one the next flat step comes, if this one is a flat step's.

    Returns:
        (T, E) metres.
    """

    def point(carry: tuple[jax.Array, ...], drawn: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], jax.Array]:
        height, slope, counter, flat = carry
        number, bump, stretch = drawn
        steeper = 0.8 * slope + 0.01 * jnp.sign(HEIGHT - height) + jnp.where(number > START, ROUGHNESS, 0.0) * bump
        slope = jnp.where(flat, slope, steeper)
        height = jnp.where(flat, height, height + slope)
        flat = counter == 1
        return (height, slope, jnp.where(flat, stretch, counter - 1), flat), height

    height = jnp.full_like(bump[0], HEIGHT)
    start = (height, jnp.zeros_like(height), jnp.full_like(stretch[0], START), jnp.zeros(height.shape, bool))
    return jax.lax.scan(point, start, (jnp.arange(len(bump)), bump, stretch))[1]


def draws(bits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Bumps and stretches from random bits, uint32: the lower byte makes the stretch, the rest the bump."""
    bump = (bits >> 8).astype(jnp.float32) * single(2.0**-23) - 1.0
    stretch = SHORTEST + ((bits & 255) * (LONGEST - SHORTEST + 1) >> 8).astype(jnp.int32)
    return bump, stretch


def window(heights: jax.Array, left: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """The points of the ground from the one at or left of x = `left` on.

    Args:
        heights: (T, E).
        left: (..., E).
        count: how many points, k.

    Returns:
        Their x (k, ..., E), their height, whether they are on the ground, and the number of the first (..., E) int32.
    """
    first = jnp.floor(left / STEP).astype(jnp.int32)
    number = first[None] + jnp.arange(count).reshape(-1, *[1] * first.ndim)
    rows = jnp.clip(number, 0, len(heights) - 1)
    height = jnp.take_along_axis(heights, rows.reshape(-1, rows.shape[-1]), 0, mode="promise_in_bounds").reshape(rows.shape)
    return number * STEP, height, rows == number, first
