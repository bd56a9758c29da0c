"""Exchangeable parts of learning the sizes of trust regions (Eq. 15), which MAMT takes as functions.

Each takes MAMT's config first, so that a new one can have hyperparameters of its own. Sizes are epsilon (n,).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mamt_jax.losses.trust_region import divergence_cost
from mamt_jax.types import Config

CostGradientFn = Callable[[Config, jax.Array, Callable[[jax.Array], jax.Array], jax.Array], jax.Array]
"""(config, log epsilon (n,), log epsilon -> the decomposition network's estimates (n, B), dKL_i / dlog epsilon_i (n,))
-> the gradient (n,) of what trust regions cost."""


def network_cost(
    config: Config, log_epsilon: jax.Array, estimate: Callable[[jax.Array], jax.Array], own: jax.Array
) -> jax.Array:
    """The cost is the decomposition network's estimate of the joint divergence (the paper's)."""
    return jax.grad(lambda log_epsilon: divergence_cost(estimate(log_epsilon)))(log_epsilon)


def policies_cost(
    config: Config, log_epsilon: jax.Array, estimate: Callable[[jax.Array], jax.Array], own: jax.Array
) -> jax.Array:
    """The cost is each policy's own divergence from the old one, whose sum is the mean-field decomposition."""
    return own


class EpsilonSteps(NamedTuple):
    """How an optimiser's step changes epsilon.

    Attributes:
        slope: (gradient in log epsilon (n,), log epsilon) -> the gradient that the optimiser descends.
        apply: (log epsilon, the optimiser's step (n,)) -> the new log epsilon, within its bounds.
    """

    slope: Callable[[jax.Array, jax.Array], jax.Array]
    apply: Callable[[jax.Array, jax.Array], jax.Array]


EpsilonSpaceFn = Callable[[Config], EpsilonSteps]


def log_steps(config: Config) -> EpsilonSteps:
    """Steps of log epsilon, which are in proportion to the size."""
    low, high = config.epsilon_min, config.epsilon_max
    return EpsilonSteps(
        slope=lambda gradient, log_epsilon: gradient,
        apply=lambda log_epsilon, step: jnp.clip(log_epsilon + step, jnp.log(low), jnp.log(high)),
    )


def linear_steps(config: Config) -> EpsilonSteps:
    """Steps of epsilon itself."""
    low, high = config.epsilon_min, config.epsilon_max
    return EpsilonSteps(
        slope=lambda gradient, log_epsilon: gradient / jnp.exp(log_epsilon),
        apply=lambda log_epsilon, step: jnp.log(jnp.clip(jnp.exp(log_epsilon) + step, low, high)),
    )


OptimizerFn = Callable[[Any], optax.GradientTransformation]
"""Learning rate or schedule -> optimiser."""

TimescaleFn = Callable[[Config, OptimizerFn, OptimizerFn], dict[Any, optax.GradientTransformation]]
"""(config, optimiser of log epsilon, optimiser of the network) -> both as {"slow": ..., "fast": ...}, such that the network
sees epsilon as almost constant."""


def delayed(config: Config, slow: OptimizerFn, fast: OptimizerFn) -> dict[Any, optax.GradientTransformation]:
    """`epsilon_delay` steps of the network for each step of epsilon, on the mean of its gradients (the paper's practice)."""
    steps = optax.MultiSteps(slow(config.epsilon_learning_rate), config.epsilon_delay)
    return {"slow": steps.gradient_transformation(), "fast": fast(config.decomposition_learning_rate)}


def decaying(config: Config, slow: OptimizerFn, fast: OptimizerFn) -> dict[Any, optax.GradientTransformation]:
    """Rates times `(1 + k / decay_horizon)^-1` and `^-0.6`, whose ratio falls to 0."""
    return {
        "slow": slow(lambda k: config.epsilon_learning_rate * (1.0 + k / config.decay_horizon) ** -1.0),
        "fast": fast(lambda k: config.decomposition_learning_rate * jnp.power(1.0 + k / config.decay_horizon, -0.6)),
    }


DIVERGENCES: dict[str, CostGradientFn] = {"network": network_cost, "policies": policies_cost}
EPSILON_SPACES: dict[str, EpsilonSpaceFn] = {"log": log_steps, "linear": linear_steps}
TIMESCALES: dict[str, TimescaleFn] = {"delayed": delayed, "decaying": decaying}
