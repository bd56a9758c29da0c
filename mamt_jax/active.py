"""Statistics over the rows in which an agent is active. An agent learns nothing from the steps after the end of its task."""

import chex
import jax
import jax.numpy as jnp


def active_mean(x: jax.Array, active: jax.Array | None) -> jax.Array:
    """Compute the mean of each agent over its active rows.

    Args:
        x: (n, B).
        active: (n, B) bool, rows that count. None counts all rows.

    Returns:
        Means (n,), 0 for an agent without active rows.
    """
    if active is None:
        return x.mean(1)
    chex.assert_equal_shape([x, active])
    return jnp.where(active, x, 0.0).sum(1) / jnp.maximum(active.sum(1), 1)


def active_standardise(x: jax.Array, active: jax.Array | None) -> jax.Array:
    """Standardise `x` (n, B) per agent, with the mean and standard deviation over its active rows."""
    centred = x - active_mean(x, active)[:, None]
    return centred / (jnp.sqrt(active_mean(jnp.square(centred), active))[:, None] + 1e-8)
