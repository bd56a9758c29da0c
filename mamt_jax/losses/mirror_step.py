"""The exact mirror step, `pi_eps(a) ~ pi_old(a) exp(eps Q(a))` (Eq. 1-2), over the candidate actions of each agent."""

import chex
import jax
import jax.numpy as jnp


def mirror_step(old_log_prob: jax.Array, q: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Compute the policies after an exact mirror step.

    Args:
        old_log_prob: (n, B, K), logarithms of the old policies' probabilities of the candidates.
        q: (n, B, K), values of the candidates. A baseline makes no difference.
        epsilon: (n,), sizes of the trust regions.

    Returns:
        (n, B, K), probabilities of the candidates.
    """
    chex.assert_equal_shape([old_log_prob, q])
    return jax.nn.softmax(old_log_prob + epsilon[:, None, None] * q)


def covariance(probability: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the covariance of `x` and `y` over the last axis."""
    mean_x, mean_y = ((probability * each).sum(-1, keepdims=True) for each in (x, y))
    return (probability * (x - mean_x) * (y - mean_y)).sum(-1)


def value_slope(probability: jax.Array, q: jax.Array, value: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Compute the slope of the mean of `value` (n, B, K) over log epsilon, (n, B): eps Cov(value, Q) under pi_eps."""
    return epsilon[:, None] * covariance(probability, value, q)


def divergence_slope(probability: jax.Array, q: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Compute the slope of KL(pi_eps || pi_old) over log epsilon, (n, B): eps^2 Var(Q) under pi_eps."""
    return jnp.square(epsilon[:, None]) * covariance(probability, q, q)
