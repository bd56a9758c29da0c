"""Means over the steps in which an agent acts. An agent whose task has ended learns nothing from later steps."""

import chex
import jax
import jax.numpy as jnp


def active_mean(x: jax.Array, active: jax.Array | None) -> jax.Array:
    """Mean over the rows of each agent that are `active`: (n, B) -> (n,), 0 where none is.

    Args:
        x: (n, B).
        active: (n, B) bool; None: all rows.
    """
    if active is None:
        return x.mean(1)
    chex.assert_equal_shape([x, active])
    return jnp.where(active, x, 0.0).sum(1) / jnp.maximum(active.sum(1), 1)


def active_standardise(x: jax.Array, active: jax.Array | None) -> jax.Array:
    """`x` (n, B) minus each agent's mean over its `active` rows, over its deviation there."""
    centred = x - active_mean(x, active)[:, None]
    return centred / (jnp.sqrt(active_mean(jnp.square(centred), active))[:, None] + 1e-8)
