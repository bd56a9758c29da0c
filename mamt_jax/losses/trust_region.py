"""Loss of the decomposition network (Eq. 13), and the terms of the objective of the trust regions (Eq. 15)."""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.active import active_mean


def decomposition_loss(estimated_divergence: jax.Array, non_stationarity: jax.Array) -> jax.Array:
    """Compute the loss of the decomposition network: the mean over B of `(sum_i KLhat_i - sum_i D_i)^2` (Eq. 13).

    `estimated_divergence` is KLhat (n, B), and `non_stationarity` is D (n, B).
    """
    chex.assert_equal_shape([estimated_divergence, non_stationarity])
    return jnp.square(estimated_divergence.sum(0) - non_stationarity.sum(0)).mean()


def expected_value(probability: jax.Array, q: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Compute the value of each agent's policy: `V_i = E_o sum_a pi_i(a|o_i) Q_i(o, (a, a_-i))` (Eq. 15).

    `probability` and `q` are (n, B, K), the result is (n,). Only rows in `active` (n, B) count; None counts all rows.
    """
    chex.assert_equal_shape([probability, q])
    return active_mean((probability * q).sum(-1), active)


def divergence_cost(estimated_divergence: jax.Array) -> jax.Array:
    """Compute the second term of F (Eq. 15), `E_o sum_i KLhat_i`, from KLhat (n, B)."""
    return estimated_divergence.sum(0).mean()
