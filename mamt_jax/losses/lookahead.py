"""Objective of LOLA (Foerster et al. 2018a), estimated with DiCE (Foerster et al. 2018b)."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from mamt_jax.types import Params

Value = Callable[[Params, Params], jax.Array]
"""Function (parameters of an agent, parameters of the other agent) -> value of the agent, a scalar, differentiable in both."""


def lookahead_value(own_value: Value, other_value: Value, own: Params, other: Params, step: jax.Array | float) -> jax.Array:
    """Compute an agent's value after a naive step of the other agent: `V_i(theta_i, theta_j + eta grad_j V_j)` (LOLA, Eq. 4.1).

    The result is differentiable in `own`, also through the step of the other agent. The cross term of LOLA is therefore exact.

    Args:
        own_value: V_i, function (own, other) -> value of the agent.
        other_value: V_j, function (other, own) -> value of the other agent.
        own: theta_i, parameters of the agent.
        other: theta_j, parameters of the other agent.
        step: eta, step size of the naive step.
    """
    gradient = jax.grad(other_value)(other, own)
    return own_value(own, jax.tree.map(lambda theta, slope: theta + step * slope, other, gradient))


def magic_box(x: jax.Array) -> jax.Array:
    """Compute `exp(x - stop_gradient(x))` (DiCE, Eq. 7).

    Its value is 1, and its derivatives of any order are those of a likelihood ratio.
    """
    return jnp.exp(x - jax.lax.stop_gradient(x))


def dice_value(
    log_prob: jax.Array, reward: jax.Array, baseline: jax.Array, done: jax.Array, gamma: jax.Array | float
) -> jax.Array:
    """Estimate a discounted return with a baseline (DiCE). Its derivatives of any order estimate those of the return.

    Args:
        log_prob: (T, E), log-probability of the joint action, differentiable in all policies.
        reward: (T, E), reward of one agent.
        baseline: (T, E), estimated value of the state before the step, constant.
        done: (T, E) bool, whether the episode ends after the step.
        gamma: discount factor.

    Returns:
        Scalar, the mean over E of the sum of rewards, each discounted from the start of its episode.
    """
    chex.assert_equal_shape([log_prob, reward, baseline, done])

    def add(carry: tuple[jax.Array, jax.Array], step: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        so_far, discount = carry
        log_prob, reward, baseline, done = step
        dependent = so_far + log_prob
        # The baseline term is zero, and its derivatives of any order have zero mean (Mao et al. 2019).
        value = discount * (magic_box(dependent) * reward + (magic_box(so_far) - magic_box(dependent)) * baseline)
        carry = jnp.where(done, 0.0, dependent), jnp.where(done, 1.0, discount * gamma)
        return carry, value

    start = jnp.zeros_like(reward[0]), jnp.ones_like(reward[0])
    return jax.lax.scan(add, start, (log_prob, reward, jax.lax.stop_gradient(baseline), done))[1].sum(0).mean()
