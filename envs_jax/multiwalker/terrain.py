"""Rough ground: a polyline with points 0.47 m apart. Arrays have the batch as their last axis."""

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.model import SCALE, single

STEP = 14 / SCALE
HEIGHT = 400 / SCALE / 4
START = 20  # length of the flat start, in steps
ROUGHNESS = 1 / SCALE
LONGEST, SHORTEST = 9, 5


def heights(bump: jax.Array, stretch: jax.Array) -> jax.Array:
    """Heights of the ground points, as in the original's `_generate_terrain`.

    Args:
        bump: (T, E), from -1 to 1, random change of the slope at each point. It has no effect at the start, which is flat.
        stretch: (T, E) int32, number of points until the next flat step, used at points that begin a flat step.

    Returns:
        (T, E), in metres.
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
    """Bumps and stretches from random bits, uint32. The lowest byte determines the stretch, the others the bump."""
    bump = (bits >> 8).astype(jnp.float32) * single(2.0**-23) - 1.0
    stretch = SHORTEST + ((bits & 255) * (LONGEST - SHORTEST + 1) >> 8).astype(jnp.int32)
    return bump, stretch


def window(heights: jax.Array, left: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """Ground points from the one at or left of x = `left` on.

    Args:
        heights: (T, E).
        left: (..., E).
        count: number of points, k.

    Returns:
        x (k, ..., E); height (k, ..., E); whether the points exist, (k, ..., E) bool; number of the first, (..., E) int32.
    """
    first = jnp.floor(left / STEP).astype(jnp.int32)
    number = first[None] + jnp.arange(count).reshape(-1, *[1] * first.ndim)
    rows = jnp.clip(number, 0, len(heights) - 1)
    height = jnp.take_along_axis(heights, rows.reshape(-1, rows.shape[-1]), 0, mode="promise_in_bounds").reshape(rows.shape)
    return number * STEP, height, rows == number, first
