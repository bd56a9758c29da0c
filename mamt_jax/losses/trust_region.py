"""Learning the decomposition and the trust regions (Eq. 13 and 15)."""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.active import active_mean


def decomposition_loss(estimated_divergence: jax.Array, non_stationarity: jax.Array) -> jax.Array:
    """Eq. 13: mean over the batch of `(sum_i KLhat_i - sum_i D_i)^2`; both (n, B)."""
    chex.assert_equal_shape([estimated_divergence, non_stationarity])
    return jnp.square(estimated_divergence.sum(0) - non_stationarity.sum(0)).mean()


def expected_value(probability: jax.Array, q: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """`V_i = E_o sum_a pi_i(a|o_i) Q_i(o, (a, a_-i))`; both (n, B, K) -> (n,), over the rows that are `active` (None: all)."""
    chex.assert_equal_shape([probability, q])
    return active_mean((probability * q).sum(-1), active)


def divergence_cost(estimated_divergence: jax.Array) -> jax.Array:
    """The second term of F (Eq. 15), `E_o sum_i KLhat_i`; (n, B) -> ()."""
    return estimated_divergence.sum(0).mean()
