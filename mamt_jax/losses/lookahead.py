"""Learning with opponent-learning awareness: LOLA (Foerster et al. 2018a) on DiCE's estimates (Foerster et al. 2018b)."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from mamt_jax.types import Params

Value = Callable[[Params, Params], jax.Array]
"""(an agent's own parameters, the other's) -> its value, a scalar that is differentiable in both."""


def lookahead_value(own_value: Value, other_value: Value, own: Params, other: Params, step: jax.Array | float) -> jax.Array:
    """`V_i(theta_i, theta_j + eta grad_j V_j)`, what theta_i is worth once the other has taken a naive step (LOLA, Eq. 4.1).

    Differentiable in `own`, through the other's step as well: LOLA's cross term, exact. `other_value` takes its own
    parameters first, too.
    """
    gradient = jax.grad(other_value)(other, own)
    return own_value(own, jax.tree.map(lambda theta, slope: theta + step * slope, other, gradient))


def magic_box(x: jax.Array) -> jax.Array:
    """`exp(x - stop(x))`: 1, with the derivatives of a likelihood ratio, of any order (DiCE, Eq. 7)."""
    return jnp.exp(x - jax.lax.stop_gradient(x))


def dice_value(
    log_prob: jax.Array, reward: jax.Array, baseline: jax.Array, done: jax.Array, gamma: jax.Array | float
) -> jax.Array:
    """DiCE's estimate of a discounted return with a baseline, whose every derivative estimates that of the return.

    Args:
        log_prob: (T, E), of the joint action, differentiable in all policies.
        reward: (T, E), of one agent.
        baseline: (T, E), what the state before the step is thought to be worth; constant.
        done: (T, E) bool, the episode is over after the step.
        gamma: discount.

    Returns:
        () the mean over E of the sum of discounted rewards, each counted from the start of its episode.
    """
    chex.assert_equal_shape([log_prob, reward, baseline, done])

    def add(carry: tuple[jax.Array, jax.Array], step: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        so_far, discount = carry
        log_prob, reward, baseline, done = step
        dependent = so_far + log_prob
        # The last term is zero, and so are the means of its derivatives of any order (Mao et al. 2019).
        value = discount * (magic_box(dependent) * reward + (magic_box(so_far) - magic_box(dependent)) * baseline)
        carry = jnp.where(done, 0.0, dependent), jnp.where(done, 1.0, discount * gamma)
        return carry, value

    start = jnp.zeros_like(reward[0]), jnp.ones_like(reward[0])
    return jax.lax.scan(add, start, (log_prob, reward, jax.lax.stop_gradient(baseline), done))[1].sum(0).mean()
