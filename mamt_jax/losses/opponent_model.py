"""Modelling the others, and the non-stationarity that it reveals (Eq. 12)."""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.active import active_mean


def opponent_loss(
    log_prob: jax.Array, squared_norm: jax.Array, regularisation: jax.Array | float, active: jax.Array | None = None
) -> jax.Array:
    """Cross-entropy of each h_i^j on j's actions, plus L2 on its outputs; (pairs, B) both -> (pairs,).

    `active` (pairs, B) are the rows in which both act; None: all.
    """
    return active_mean(regularisation * squared_norm - log_prob, active)


def non_stationarity(coordination: jax.Array, divergence: jax.Array, clip: jax.Array | float) -> jax.Array:
    """Eq. 12: `D_i = clip(sum_j C_ij KL[h_i^j(o_i) || pi_j(o_j)], 0, clip)`; both (n, n, B), diagonals ignored -> (n, B)."""
    chex.assert_equal_shape([coordination, divergence])
    return jnp.clip((coordination * divergence).sum(1), 0.0, clip)
