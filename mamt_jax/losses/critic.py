"""Losses of critics: the soft TD error of Eq. 9, the squared error, and the clipped value loss of PPO."""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.active import active_mean
from mamt_jax.returns import td_target


def soft_value(q: jax.Array, log_prob: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """Compute the soft value `Q(o', a') - alpha log pi(a'|o')` of a sampled action a', from which Eq. 9 bootstraps.

    `q` and `log_prob` have equal shapes.
    """
    chex.assert_equal_shape([q, log_prob])
    return q - alpha * log_prob


def soft_td_target(
    reward: jax.Array,
    terminated: jax.Array,
    next_q: jax.Array,
    next_log_prob: jax.Array,
    gamma: jax.Array | float,
    alpha: jax.Array | float,
) -> jax.Array:
    """Compute the target y_i of Eq. 9, in which the discount also applies to the entropy term. Arrays are (n, B)."""
    return td_target(reward, terminated, soft_value(next_q, next_log_prob, alpha), gamma)


def squared_error(value: jax.Array, target: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Sum the mean squared error over agents. Arrays are (n, B), and `target` is constant.

    Only rows in `active` (n, B) count; None counts all rows.
    """
    chex.assert_equal_shape([value, target])
    return active_mean(jnp.square(value - target), active).sum()


def critic_loss(
    q: jax.Array,
    target: jax.Array,
    squared_logits: jax.Array,
    logit_coef: jax.Array | float,
    active: jax.Array | None = None,
) -> jax.Array:
    """Compute the critic loss (Eq. 9): the squared error plus weighted squared attention logits, summed over agents.

    Args:
        q: (n, B), values of the actions taken.
        target: (n, B), `soft_td_target`, constant.
        squared_logits: (n, B), squared attention logits of the critic.
        logit_coef: weight of the squared logits, 1e-3 times the critic regularisation coefficient of Table 1.
        active: (n, B) bool, rows that count. None counts all rows.
    """
    return squared_error(q, target, active) + logit_coef * active_mean(squared_logits, active).sum()


def clipped_value_loss(
    value: jax.Array, old_value: jax.Array, target: jax.Array, clip: jax.Array | float, active: jax.Array | None = None
) -> jax.Array:
    """Compute the value loss of each agent in PPO: half the larger squared error of the value and of the clipped value.

    The clipped value differs from `old_value` by at most `clip`. Arrays are (n, B), the result is (n,). Only rows in `active`
    (n, B) count; None counts all rows.
    """
    chex.assert_equal_shape([value, old_value, target])
    clipped = old_value + jnp.clip(value - old_value, -clip, clip)
    return 0.5 * active_mean(jnp.maximum(jnp.square(value - target), jnp.square(clipped - target)), active)
