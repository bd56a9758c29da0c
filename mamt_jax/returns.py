"""Returns and bootstrapped targets. They end at a termination, and bootstrap at a truncation."""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.types import LaterRewards


def td_target(reward: jax.Array, terminated: jax.Array, bootstrap: jax.Array, gamma: jax.Array | float) -> jax.Array:
    """Compute the target `r + gamma * V(o')`, without the second term at a termination (Eq. 9). Arrays are (n, B)."""
    chex.assert_equal_shape([reward, terminated, bootstrap])
    return reward + gamma * (1.0 - terminated) * bootstrap


def n_step_return(
    reward: jax.Array, later: LaterRewards | None, gamma: jax.Array | float
) -> tuple[jax.Array, jax.Array | float]:
    """Compute the n-step sum `sum_k gamma^k r_(t+k)` and the discount of the bootstrap value (Sutton & Barto 2018, Eq. 7.1).

    There is no off-policy correction for the later actions. Arrays are (n, B).
    """
    if later is None:
        return reward, gamma
    chex.assert_equal_shape_prefix([reward, later.reward], reward.ndim)
    discounts = jnp.power(gamma, jnp.arange(1, later.reward.shape[-1] + 1))
    earned = jnp.einsum("...k,k->...", jnp.where(later.counts, later.reward, 0.0), discounts)
    return reward + earned, jnp.power(gamma, 1 + later.counts.sum(-1))


def generalised_advantage(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: jax.Array | float,
    gae_lambda: jax.Array | float,
) -> jax.Array:
    """Compute the generalised advantage `A_t = sum_k (gamma lambda)^k delta_(t+k)` (Schulman et al. 2016, Eq. 16).

    Arrays are (T, ...), and the sum ends with the episode. `next_value` is the value of the true successor. A truncation
    therefore bootstraps, and a termination does not.
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, truncated])
    delta = td_target(reward, terminated, next_value, gamma) - value
    carried = gamma * gae_lambda * ~(terminated | truncated)

    def back(advantage: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, carried = step
        advantage = delta + carried * advantage
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(delta[0]), (delta, carried), reverse=True)[1]
