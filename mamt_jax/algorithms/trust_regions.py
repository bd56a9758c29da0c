"""Selectable functions of MAMT that learn the sizes of trust regions (Eq. 15).

The first argument of each function is the config of MAMT. A new function can therefore have its own hyperparameters. Sizes are
epsilon (n,).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from envs_jax.environment import EnvSpec
from mamt_jax.losses.trust_region import divergence_cost
from mamt_jax.types import Config, Metrics


class TrustRegions(NamedTuple):
    """Learning of the sizes of trust regions, as pure functions of its state.

    Attributes:
        init: key -> state. `state.log_epsilon` (n,) holds the logarithms of the sizes.
        update: (actor-critic, its learner state, state, batch (n, B, ...), key) -> (state, metrics).
    """

    init: Callable[[jax.Array], Any]
    update: Callable[..., tuple[Any, Metrics]]


VariantFn = Callable[[EnvSpec, Config], TrustRegions]
"""Function (spec, config) -> the learning of trust regions."""


def initial_log_epsilon(spec: EnvSpec, config: Config) -> jax.Array:
    """Logarithms of the initial sizes, (n,): `config.epsilon`, clipped to its bounds."""
    start = jnp.full(spec.num_agents, config.epsilon, jnp.float32)
    return jnp.log(jnp.clip(start, config.epsilon_min, config.epsilon_max))


CostGradientFn = Callable[[Config, jax.Array, Callable[[jax.Array], jax.Array], jax.Array], jax.Array]
"""Function (config, log_epsilon (n,), estimate, own) -> gradient (n,) of the cost with respect to log epsilon.

`estimate` maps log epsilon to the estimates of the decomposition network (n, B). `own` is dKL_i / dlog epsilon_i (n,).
"""


def network_cost(
    config: Config, log_epsilon: jax.Array, estimate: Callable[[jax.Array], jax.Array], own: jax.Array
) -> jax.Array:
    """Gradient of the decomposition network's estimate of the joint divergence, the cost of the paper."""
    return jax.grad(lambda log_epsilon: divergence_cost(estimate(log_epsilon)))(log_epsilon)


def policies_cost(
    config: Config, log_epsilon: jax.Array, estimate: Callable[[jax.Array], jax.Array], own: jax.Array
) -> jax.Array:
    """Gradient of the divergence of each policy from its old policy. The sum over agents is the mean-field decomposition."""
    return own


class EpsilonSteps(NamedTuple):
    """Functions that apply the step of an optimiser to epsilon.

    Attributes:
        slope: (gradient with respect to log epsilon (n,), log epsilon (n,)) -> gradient that the optimiser receives (n,).
        apply: (log epsilon (n,), step of the optimiser (n,)) -> new log epsilon (n,), clipped to its bounds.
    """

    slope: Callable[[jax.Array, jax.Array], jax.Array]
    apply: Callable[[jax.Array, jax.Array], jax.Array]


EpsilonSpaceFn = Callable[[Config], EpsilonSteps]


def log_steps(config: Config) -> EpsilonSteps:
    """Update log epsilon. Steps are in proportion to the size of the trust region."""
    low, high = config.epsilon_min, config.epsilon_max
    return EpsilonSteps(
        slope=lambda gradient, log_epsilon: gradient,
        apply=lambda log_epsilon, step: jnp.clip(log_epsilon + step, jnp.log(low), jnp.log(high)),
    )


def linear_steps(config: Config) -> EpsilonSteps:
    """Update epsilon itself."""
    low, high = config.epsilon_min, config.epsilon_max
    return EpsilonSteps(
        slope=lambda gradient, log_epsilon: gradient / jnp.exp(log_epsilon),
        apply=lambda log_epsilon, step: jnp.log(jnp.clip(jnp.exp(log_epsilon) + step, low, high)),
    )


OptimizerFn = Callable[[Any], optax.GradientTransformation]
"""Function (learning rate or schedule) -> optimiser."""

TimescaleFn = Callable[[Config, OptimizerFn, OptimizerFn], dict[Any, optax.GradientTransformation]]
"""Function (config, optimiser of log epsilon, optimiser of the network) -> {"slow": ..., "fast": ...}, the two optimisers.

Epsilon must change slowly enough to be almost constant for the network.
"""


def delayed(config: Config, slow: OptimizerFn, fast: OptimizerFn) -> dict[Any, optax.GradientTransformation]:
    """Take `epsilon_delay` steps of the network for each step of epsilon, as the paper does.

    The step of epsilon uses the mean of its gradients since the last step.
    """
    steps = optax.MultiSteps(slow(config.epsilon_learning_rate), config.epsilon_delay)
    return {"slow": steps.gradient_transformation(), "fast": fast(config.decomposition_learning_rate)}


def decaying(config: Config, slow: OptimizerFn, fast: OptimizerFn) -> dict[Any, optax.GradientTransformation]:
    """Multiply the learning rates by `(1 + k / decay_horizon)^-1` for epsilon and `^-0.6` for the network at step k.

    The ratio of the rates falls to 0.
    """
    return {
        "slow": slow(lambda k: config.epsilon_learning_rate * (1.0 + k / config.decay_horizon) ** -1.0),
        "fast": fast(lambda k: config.decomposition_learning_rate * jnp.power(1.0 + k / config.decay_horizon, -0.6)),
    }


DIVERGENCES: dict[str, CostGradientFn] = {"network": network_cost, "policies": policies_cost}
EPSILON_SPACES: dict[str, EpsilonSpaceFn] = {"log": log_steps, "linear": linear_steps}
TIMESCALES: dict[str, TimescaleFn] = {"delayed": delayed, "decaying": decaying}
