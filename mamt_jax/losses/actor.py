"""The policy gradient (Eq. 10) and the regularisers in which MAAC, MAMD and MAMT differ.

Arrays are (n, B, K), K own actions.
"""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.active import active_mean
from mamt_jax.distributions import tsallis_log


def counterfactual_advantage(q: jax.Array, probability: jax.Array) -> jax.Array:
    """`A_i = Q_i(o, a) - sum_a' pi_i(a') Q_i(o, (a', a_-i))` (Foerster et al. 2018b) for every candidate; (n, B, K)."""
    chex.assert_equal_shape([q, probability])
    return q - (probability * q).sum(-1, keepdims=True)


def entropy_penalty(log_prob: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """MAAC's R_i = alpha log pi_i(a_i)."""
    return alpha * log_prob


def trust_region_penalty(
    log_prob: jax.Array, old_log_prob: jax.Array, epsilon: jax.Array, tsallis_q: jax.Array | float
) -> jax.Array:
    """MAMD's R_i = (log_q pi_i(a_i) - log_q pi_i^old(a_i)) / eps_i (Eq. 10 with Eq. 2's sign); epsilon (n,)."""
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
    """R_i of MAMD, MAMD-OP and MAMT: the trust region where eps_i is finite, MAAC's entropy where it is infinite.

    `entropy_bonus` times MAAC's term is added to the trust region's (0 in Eq. 10).
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
    """Eq. 10 as a loss of each agent: `E[log pi_i(a) w_i] + 1e-3 mean(logits^2)`; (n,).

    Args:
        log_prob: (n, B, K), differentiable in the policy's parameters.
        weight: (n, B, K), w_i = R_i - A_i, constant in them.
        probability: (n, B, K), the law of a: the policy itself (expected gradient) or all mass on one sample (sampled).
        squared_norm: (n, B), mean square of the policy's outputs.
        active: (n, B), the rows that count; None: all.
    """
    chex.assert_equal_shape([log_prob, weight, probability])
    return active_mean((probability * log_prob * weight).sum(-1) + 1e-3 * squared_norm, active)


def deterministic_policy_loss(q: jax.Array, squared_norm: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """MADDPG's loss of each agent: `-E[Q_i(o, (mu_i(o_i), a_-i))] + 1e-3 mean(outputs^2)`.

    All (n, B), `active` the rows that count (None: all) -> (n,).
    """
    return active_mean(1e-3 * squared_norm - q, active)


def clipped_policy_loss(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    clip: jax.Array | float,
    active: jax.Array | None = None,
) -> jax.Array:
    """PPO's `-E[min(rho A, clip(rho, 1 - c, 1 + c) A)]` of each agent (Schulman et al. 2017, Eq. 7); (n, B) -> (n,).

    `active` (n, B) are the rows that count; None: all.
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    # Within bounds, since an infinite ratio has a gradient of nan even where it is clipped.
    ratio = jnp.exp(jnp.clip(log_prob - old_log_prob, -30.0, 30.0))
    return -active_mean(jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage), active)
