"""Bootstrapped targets; a termination ends the return, a truncation does not."""

import chex
import jax


def td_target(reward: jax.Array, terminated: jax.Array, bootstrap: jax.Array, gamma: jax.Array | float) -> jax.Array:
    """`r + gamma * V(o')`, without the second term where the task truly ended (Eq. 9's target; all arguments (n, B))."""
    chex.assert_equal_shape([reward, terminated, bootstrap])
    return reward + gamma * (1.0 - terminated) * bootstrap
