"""Loss of the modelling policies h_ij, and the non-stationarity D_i (Eq. 12)."""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.active import active_mean


def opponent_loss(
    log_prob: jax.Array, squared_norm: jax.Array, regularisation: jax.Array | float, active: jax.Array | None = None
) -> jax.Array:
    """Compute the loss of each h_ij: its cross-entropy on the actions of j, plus an L2 penalty on its outputs.

    Args:
        log_prob: (pairs, B), log-probability of the action of j under h_ij.
        squared_norm: (pairs, B), mean square of the outputs of h_ij.
        regularisation: coefficient of the L2 penalty.
        active: (pairs, B) bool, rows in which both agents act. None counts all rows.

    Returns:
        Losses (pairs,).
    """
    return active_mean(regularisation * squared_norm - log_prob, active)


def non_stationarity(coordination: jax.Array, divergence: jax.Array, clip: jax.Array | float) -> jax.Array:
    """Compute the non-stationarity of each agent: `D_i = clip(sum_j C_ij KL[h_ij(o_i) || pi_j(o_j)], 0, clip)` (Eq. 12).

    `coordination` and `divergence` are (n, n, B) with axes [i, j], and C_ii must be 0. The result is (n, B).
    """
    chex.assert_equal_shape([coordination, divergence])
    return jnp.clip((coordination * divergence).sum(1), 0.0, clip)
