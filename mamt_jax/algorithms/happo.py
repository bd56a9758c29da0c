"""HAPPO (Kuba et al. 2022): PPO for one agent after another, each with the compound ratio of those before it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.active import active_standardise
from mamt_jax.algorithms import on_policy, ppo
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.algorithms.on_policy import OnPolicy, OnPolicyState
from mamt_jax.algorithms.ppo import PPOConfig, Rows
from mamt_jax.losses.actor import compound_ratio
from mamt_jax.types import Metrics, Params, Trajectory


@struct.dataclass
class HAPPOConfig(PPOConfig):
    """Hyperparameters of HAPPO."""


def make(spec: EnvSpec) -> Algorithm:
    """Create HAPPO for the agents of `spec`.

    Raises:
        ValueError: if some agents have discrete and others continuous actions.
    """
    return on_policy.algorithm(spec, HAPPOConfig, update, build)


def build(spec: EnvSpec, config: HAPPOConfig) -> OnPolicy:
    """Build the action distribution, the networks and the optimisers for `config`."""
    return on_policy.build(spec, config, config.num_epochs * config.num_minibatches)


def ratio_of_others(parts: OnPolicy, policy: Params, rows: Rows) -> jax.Array:
    """Compute the compound ratio (B,) of the agents whose policies have changed since the rollout."""
    parameters = ppo.outputs(parts, policy, rows)
    return compound_ratio(parts.distribution.log_prob(parameters, rows.action), rows.log_prob, rows.active)


def only(agent: jax.Array, new: Params, old: Params) -> Params:
    """Take the leaves of `new` (n, ...) for one agent and those of `old` for all others."""
    return jax.tree.map(lambda after, before: before.at[agent].set(after[agent]), new, old)


def turn(
    config: HAPPOConfig, parts: OnPolicy, rows: Rows, order: jax.Array, key: jax.Array, learner: OnPolicyState, agent: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Make all passes over the rollout for the policy of one agent. Returns metrics of this agent alone."""
    ratio = jnp.broadcast_to(ratio_of_others(parts, learner.policy, rows), rows.advantage.shape)

    def step(learner: OnPolicyState, part: Rows, key: jax.Array) -> tuple[OnPolicyState, Metrics]:
        assert part.ratio is not None
        advantage = part.ratio * active_standardise(part.advantage, part.active)
        after, metrics = ppo.policy_step(config, parts, learner, part, advantage, key)
        policy, optimizer = (
            only(agent, getattr(after, name), getattr(learner, name)) for name in ("policy", "policy_optimizer")
        )
        return dataclasses.replace(learner, policy=policy, policy_optimizer=optimizer), metrics

    learner, metrics = ppo.over_minibatches(step, learner, rows._replace(ratio=ratio), order, key)
    return learner, jax.tree.map(lambda leaf: leaf[agent], metrics)


def update(
    spec: EnvSpec, config: HAPPOConfig, learner: OnPolicyState, trajectory: Trajectory, key: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Update the policies one after another in random order, and then all critics, on one rollout.

    Each policy and each critic makes `num_epochs` passes, each in `num_minibatches` random minibatches.

    Raises:
        ValueError: if a rollout has fewer rows than `num_minibatches`.
    """
    parts, before = build(spec, config), learner
    rows = ppo.value_rollout(config, parts, learner, trajectory)
    order_key, step_key, turns_key = jax.random.split(key, 3)
    order = ppo.shuffled(config, rows, order_key)

    turns = jax.random.permutation(turns_key, spec.num_agents)
    learner, metrics = ppo.in_turn(functools.partial(turn, config, parts, rows, order, step_key), learner, turns)

    learner, value_metrics = ppo.value_passes(config, parts, learner, rows, order, step_key)
    learner, divergence = ppo.finish(parts, before, learner, rows, trajectory)
    return learner, metrics | value_metrics | divergence
