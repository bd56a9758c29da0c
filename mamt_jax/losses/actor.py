"""Policy losses: the policy gradient (Eq. 10), the regularisers of MAAC, MAMD and MAMT, and the losses of MADDPG, PPO and TRPO.

Unless stated otherwise, arrays are (n, B, K), with K candidate actions per agent.
"""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.active import active_mean
from mamt_jax.distributions import tsallis_log


def counterfactual_advantage(q: jax.Array, probability: jax.Array) -> jax.Array:
    """Compute the counterfactual advantage of every candidate action (COMA, Foerster et al. 2018).

    `A_i = Q_i(o, a) - sum_a' pi_i(a') Q_i(o, (a', a_-i))`, (n, B, K).
    """
    chex.assert_equal_shape([q, probability])
    return q - (probability * q).sum(-1, keepdims=True)


def entropy_penalty(log_prob: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """Regulariser of MAAC: R_i = alpha log pi_i(a_i)."""
    return alpha * log_prob


def trust_region_penalty(
    log_prob: jax.Array, old_log_prob: jax.Array, epsilon: jax.Array, tsallis_q: jax.Array | float
) -> jax.Array:
    """Regulariser of MAMD: R_i = (log_q pi_i(a_i) - log_q pi_i^old(a_i)) / epsilon_i (Eq. 10, with the sign of Eq. 2).

    `epsilon` is (n,).
    """
    divergence = tsallis_log(log_prob, tsallis_q) - tsallis_log(old_log_prob, tsallis_q)
    return divergence / epsilon[:, None, None]


def mixed_penalty(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    epsilon: jax.Array,
    tsallis_q: jax.Array | float,
    alpha: jax.Array | float,
    entropy_bonus: jax.Array | float,
) -> jax.Array:
    """Regulariser R_i of MAMD, MAMD-OP and MAMT.

    It is the trust region penalty where epsilon_i is finite, and MAAC's entropy penalty where epsilon_i is infinite.
    `entropy_bonus` times the entropy penalty is added to the trust region penalty (0 in Eq. 10).
    """
    constrained = jnp.isfinite(epsilon)[:, None, None]
    mirror = trust_region_penalty(log_prob, old_log_prob, jnp.where(jnp.isfinite(epsilon), epsilon, 1.0), tsallis_q)
    soft = entropy_penalty(log_prob, alpha)
    return jnp.where(constrained, mirror + entropy_bonus * soft, soft)


def policy_loss(
    log_prob: jax.Array,
    weight: jax.Array,
    probability: jax.Array,
    squared_norm: jax.Array,
    active: jax.Array | None = None,
) -> jax.Array:
    """Compute the policy loss of each agent (Eq. 10): `E[log pi_i(a) w_i] + 1e-3 mean(outputs^2)`.

    Args:
        log_prob: (n, B, K), differentiable in the policy's parameters.
        weight: (n, B, K), w_i = R_i - A_i, constant in the policy's parameters.
        probability: (n, B, K), distribution of a: the policy (expected gradient), or one-hot for one sample (sampled gradient).
        squared_norm: (n, B), mean square of the policy's outputs.
        active: (n, B) bool, rows that count. None counts all rows.

    Returns:
        Losses (n,).
    """
    chex.assert_equal_shape([log_prob, weight, probability])
    return active_mean((probability * log_prob * weight).sum(-1) + 1e-3 * squared_norm, active)


def deterministic_policy_loss(q: jax.Array, squared_norm: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Compute the policy loss of each agent in MADDPG: `-E[Q_i(o, (mu_i(o_i), a_-i))] + 1e-3 mean(outputs^2)`.

    Args:
        q: (n, B), Q_i with the action of agent i from its policy.
        squared_norm: (n, B), mean square of the policy's outputs.
        active: (n, B) bool, rows that count. None counts all rows.

    Returns:
        Losses (n,).
    """
    return active_mean(1e-3 * squared_norm - q, active)


def clipped_policy_loss(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    clip: jax.Array | float,
    active: jax.Array | None = None,
) -> jax.Array:
    """Compute the policy loss of each agent in PPO (Schulman et al. 2017, Eq. 7).

    The loss is `-E[min(rho A, clip(rho, 1 - c, 1 + c) A)]`, where rho is the probability ratio. Arrays are (n, B), the result
    is (n,). Only rows in `active` (n, B) count; None counts all rows.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    rho = probability_ratio(log_prob - old_log_prob)
    return -active_mean(jnp.minimum(rho * advantage, jnp.clip(rho, 1.0 - clip, 1.0 + clip) * advantage), active)


def surrogate(log_prob: jax.Array, old_log_prob: jax.Array, advantage: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Compute the surrogate objective of each agent in TRPO, `E[rho A]` (Schulman et al. 2015, Eq. 14).

    Arrays are (n, B), the result is (n,). Only rows in `active` (n, B) count; None counts all rows.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    return active_mean(probability_ratio(log_prob - old_log_prob) * advantage, active)


def compound_ratio(log_prob: jax.Array, old_log_prob: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Compute the product of the probability ratios of all agents (Kuba et al. 2022).

    Agents that were not updated yet have a ratio of 1. Arrays are (n, B), the result is (B,). An agent counts only in its
    active rows; None counts all rows.
    """
    chex.assert_equal_shape([log_prob, old_log_prob])
    change = log_prob - old_log_prob
    return probability_ratio((change if active is None else jnp.where(active, change, 0.0)).sum(0))


def probability_ratio(change: jax.Array) -> jax.Array:
    """Compute the ratio of two probabilities from the difference of their logarithms."""
    # An infinite ratio has a nan gradient even where it is clipped. The exponent is therefore bounded.
    return jnp.exp(jnp.clip(change, -30.0, 30.0))
