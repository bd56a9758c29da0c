"""The critics' regression (Eq. 9)."""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.active import active_mean
from mamt_jax.returns import td_target


def soft_value(q: jax.Array, log_prob: jax.Array, alpha: jax.Array | float) -> jax.Array:
    """`Q(o', a') - alpha log pi(a'|o')` of a sampled a': what Eq. 9 bootstraps from; shapes equal."""
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
    """Eq. 9's y_i, the entropy term inside the discount; arrays (n, B)."""
    return td_target(reward, terminated, soft_value(next_q, next_log_prob, alpha), gamma)


def squared_error(value: jax.Array, target: jax.Array, active: jax.Array | None = None) -> jax.Array:
    """Sum over agents of the mean squared error; (n, B), `target` constant, `active` the rows that count (None: all)."""
    chex.assert_equal_shape([value, target])
    return active_mean(jnp.square(value - target), active).sum()


def critic_loss(
    q: jax.Array,
    target: jax.Array,
    squared_logits: jax.Array,
    logit_coef: jax.Array | float,
    active: jax.Array | None = None,
) -> jax.Array:
    """Eq. 9: sum over agents of the mean squared error, plus `logit_coef` times the squared attention logits.

    Args:
        q: (n, B) values of the actions taken.
        target: (n, B) `soft_td_target`, constant.
        squared_logits: (n, B), from the critic.
        logit_coef: 1e-3 of Table 1's critic regularisation coefficient.
        active: (n, B), the rows that count; None: all.
    """
    return squared_error(q, target, active) + logit_coef * active_mean(squared_logits, active).sum()


def clipped_value_loss(
    value: jax.Array, old_value: jax.Array, target: jax.Array, clip: jax.Array | float, active: jax.Array | None = None
) -> jax.Array:
    """PPO's value loss, the larger of the squared errors with and without a clipped step; (n, B) -> (n,).

    `active` (n, B) are the rows that count; None: all.
    """
    chex.assert_equal_shape([value, old_value, target])
    clipped = old_value + jnp.clip(value - old_value, -clip, clip)
    return 0.5 * active_mean(jnp.maximum(jnp.square(value - target), jnp.square(clipped - target)), active)
