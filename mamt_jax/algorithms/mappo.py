"""MA-PPO (Yu et al. 2022): PPO with one centralized critic per agent."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.active import active_standardise
from mamt_jax.algorithms import on_policy, ppo
from mamt_jax.algorithms import parameter_sharing as sharing
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.algorithms.on_policy import OnPolicy, OnPolicyState
from mamt_jax.algorithms.ppo import PPOConfig, Rows
from mamt_jax.types import Metrics, Trajectory
from mamt_jax.validation import static


@struct.dataclass
class MAPPOConfig(PPOConfig):
    """Hyperparameters of MA-PPO and IPPO."""

    share_policy: bool = static(False)
    """Whether agents with equal observation and action spaces share one policy."""


def make(spec: EnvSpec) -> Algorithm:
    """Create MA-PPO for the agents of `spec`.

    Raises:
        ValueError: if some agents have discrete and others continuous actions.
    """
    return on_policy.algorithm(spec, MAPPOConfig, functools.partial(update, build), build)


def build(spec: EnvSpec, config: MAPPOConfig) -> OnPolicy:
    """Build the action distribution, the networks and the optimisers for `config`."""
    parts = on_policy.build(spec, config, config.num_epochs * config.num_minibatches)
    if not config.share_policy:
        return parts
    return parts._replace(
        policy=sharing.shared_network(spec, parts.policy),
        policy_optimizer=sharing.shared_optimizer(spec, parts.policy_optimizer),
    )


def step(
    config: PPOConfig, parts: OnPolicy, learner: OnPolicyState, rows: Rows, key: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Take one gradient step of every policy and critic on a minibatch. Advantages are standardised per agent."""
    advantage = active_standardise(rows.advantage, rows.active)
    learner, policy_metrics = ppo.policy_step(config, parts, learner, rows, advantage, key)
    learner, value_metrics = ppo.value_step(config, parts, learner, rows)
    return learner, policy_metrics | value_metrics


def update(
    build: Callable[[EnvSpec, Any], OnPolicy],
    spec: EnvSpec,
    config: MAPPOConfig,
    learner: OnPolicyState,
    trajectory: Trajectory,
    key: jax.Array,
) -> tuple[OnPolicyState, Metrics]:
    """Make `num_epochs` passes over a rollout, each in `num_minibatches` random minibatches.

    Raises:
        ValueError: if a rollout has fewer rows than `num_minibatches`.
    """
    parts, before = build(spec, config), learner
    rows = ppo.value_rollout(config, parts, learner, trajectory)
    order_key, step_key = jax.random.split(key)
    order = ppo.shuffled(config, rows, order_key)
    learner, metrics = ppo.over_minibatches(functools.partial(step, config, parts), learner, rows, order, step_key)
    learner, divergence = ppo.finish(parts, before, learner, rows, trajectory)
    return learner, metrics | divergence
