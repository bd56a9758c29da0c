"""MA-PPO (Schulman et al. 2017; Yu et al. 2022): PPO with one centralized critic per agent."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.active import active_mean, active_standardise
from mamt_jax.algorithms import on_policy, optimizers
from mamt_jax.algorithms import parameter_sharing as sharing
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.algorithms.on_policy import OnPolicy, OnPolicyConfig, OnPolicyState
from mamt_jax.distributions import entropy
from mamt_jax.divergence import policy_divergence
from mamt_jax.losses.actor import clipped_policy_loss
from mamt_jax.losses.critic import clipped_value_loss
from mamt_jax.sharding import split_rows
from mamt_jax.types import Metrics, Params, Trajectory
from mamt_jax.validation import BOUND, COUNT, number, static


@struct.dataclass
class MAPPOConfig(OnPolicyConfig):
    """Hyperparameters of MA-PPO."""

    clip_eps: float = number(0.2, BOUND)
    """Clip range of the probability ratio."""
    value_clip_eps: float = number(1.0, BOUND)
    """Clip range of the change of a value, in units of normalised returns."""
    num_epochs: int = static(4, COUNT)
    """Number of passes over each rollout."""
    num_minibatches: int = static(4, COUNT)
    """Number of minibatches in a pass. Each minibatch gives one gradient step."""
    share_policy: bool = static(False)
    """Whether agents with equal observation and action spaces share one policy."""


class Rows(NamedTuple):
    """Training data of one gradient step. All arrays are (n, B, ...)."""

    observation: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    active: jax.Array | None
    action_mask: jax.Array | None


def make(spec: EnvSpec) -> Algorithm:
    """Create MA-PPO for the agents of `spec`.

    Raises:
        ValueError: if some agents have discrete and others continuous actions.
    """
    return on_policy.algorithm(spec, MAPPOConfig, update, build)


def build(spec: EnvSpec, config: MAPPOConfig) -> OnPolicy:
    """Build the action distribution, the networks and the optimisers for `config`."""
    parts = on_policy.build(spec, config, config.num_epochs * config.num_minibatches)
    if not config.share_policy:
        return parts
    return parts._replace(
        policy=sharing.shared_network(spec, parts.policy),
        policy_optimizer=sharing.shared_optimizer(spec, parts.policy_optimizer),
    )


def value_rollout(config: MAPPOConfig, parts: OnPolicy, learner: OnPolicyState, trajectory: Trajectory) -> Rows:
    """Convert a rollout of T steps of E environments to training data with B = T x E rows."""
    batch = on_policy.prepare(config, learner, trajectory)
    value, advantage = on_policy.advantages(config, parts, learner, batch, trajectory.truncated)
    parameters = parts.policy.apply(learner.policy, batch.observation, batch.action_mask)
    log_prob = parts.distribution.log_prob(parameters, batch.action)
    return Rows(batch.observation, batch.action, log_prob, value, advantage, batch.active, batch.action_mask)


def step(
    spec: EnvSpec, config: MAPPOConfig, learner: OnPolicyState, rows: Rows, key: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Take one gradient step of every policy and critic on a minibatch. Advantages are standardised per agent."""
    parts = build(spec, config)
    advantage = active_standardise(rows.advantage, rows.active)

    def policy_loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        parameters = parts.policy.apply(params, rows.observation, rows.action_mask)
        log_prob = parts.distribution.log_prob(parameters, rows.action)
        losses = clipped_policy_loss(log_prob, rows.log_prob, advantage, config.clip_eps, rows.active)
        bonus = active_mean(entropy(parts.distribution.candidates(parameters, key)), rows.active)
        return (losses - config.entropy_coefficient * bonus).sum(), (losses, bonus)

    def value_loss(params: Params) -> jax.Array:
        value, target = parts.values(params, rows.observation), rows.value + rows.advantage
        return clipped_value_loss(value, rows.value, target, config.value_clip_eps, rows.active).sum()

    slope, (losses, bonus) = jax.grad(policy_loss, has_aux=True)(learner.policy)
    policy, policy_optimizer = optimizers.descend(parts.policy_optimizer, slope, learner.policy_optimizer, learner.policy)
    loss, slope = jax.value_and_grad(value_loss)(learner.critic)
    critic, critic_optimizer = optimizers.descend(parts.critic_optimizer, slope, learner.critic_optimizer, learner.critic)
    learner = dataclasses.replace(
        learner, policy=policy, critic=critic, policy_optimizer=policy_optimizer, critic_optimizer=critic_optimizer
    )
    return learner, {"critic_loss": loss, "policy_loss": losses, "entropy": bonus}


def update(
    spec: EnvSpec, config: MAPPOConfig, learner: OnPolicyState, trajectory: Trajectory, key: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Make `num_epochs` passes over a rollout, each in `num_minibatches` random minibatches.

    Raises:
        ValueError: if a rollout has fewer rows than `num_minibatches`.
    """
    parts, before = build(spec, config), learner
    rows = value_rollout(config, parts, learner, trajectory)
    total = rows.value.shape[1]
    if total < config.num_minibatches:
        raise ValueError(
            f"num_minibatches={config.num_minibatches} exceeds the {total} transitions of a rollout: "
            f"give at most {total}, or increase update_interval."
        )
    size = total // config.num_minibatches

    order_key, step_key = jax.random.split(key)

    def shuffle(key: jax.Array) -> jax.Array:
        return jax.random.permutation(key, total)[: size * config.num_minibatches].reshape(-1, size)

    def on_part(learner: OnPolicyState, part: tuple[jax.Array, jax.Array]) -> tuple[OnPolicyState, Metrics]:
        number, index = part
        chosen = split_rows(jax.tree.map(lambda leaf: leaf[:, index], rows), axis=1)
        return step(spec, config, learner, chosen, jax.random.fold_in(step_key, number))

    order = jax.vmap(shuffle)(jax.random.split(order_key, config.num_epochs)).reshape(-1, size)
    learner, metrics = jax.lax.scan(on_part, learner, (jnp.arange(len(order)), order))
    current, previous = (
        parts.policy.apply(params, rows.observation, rows.action_mask) for params in (learner.policy, before.policy)
    )
    metrics = jax.tree.map(lambda leaf: leaf.mean(0), metrics)
    metrics |= policy_divergence(parts.distribution.kl, current, previous, previous, rows.active)
    return on_policy.observe(learner, trajectory), metrics
