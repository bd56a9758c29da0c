"""The steps of PPO (Schulman et al. 2017) for all agents at once: training data, gradient steps, and minibatches."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from mamt_jax.active import active_mean
from mamt_jax.algorithms import on_policy, optimizers
from mamt_jax.algorithms.on_policy import OnPolicy, OnPolicyConfig, OnPolicyState, PolicyGradientConfig
from mamt_jax.distributions import entropy
from mamt_jax.divergence import policy_divergence
from mamt_jax.losses.actor import clipped_policy_loss
from mamt_jax.losses.critic import clipped_value_loss
from mamt_jax.sharding import split_rows
from mamt_jax.types import Metrics, Params, Trajectory
from mamt_jax.validation import BOUND, COUNT, number, static


@struct.dataclass
class ValueConfig(OnPolicyConfig):
    """Hyperparameters of the value functions of PPO."""

    value_clip_eps: float = number(1.0, BOUND)
    """Clip range of the change of a value, in units of normalised returns."""
    num_epochs: int = static(4, COUNT)
    """Number of passes over each rollout."""
    num_minibatches: int = static(4, COUNT)
    """Number of minibatches in a pass. Each minibatch gives one gradient step."""


@struct.dataclass
class PPOConfig(ValueConfig, PolicyGradientConfig):
    """Hyperparameters of PPO."""

    clip_eps: float = number(0.2, BOUND)
    """Clip range of the probability ratio."""


class Rows(NamedTuple):
    """Training data of one gradient step. All arrays are (n, B, ...)."""

    observation: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    active: jax.Array | None
    action_mask: jax.Array | None


def value_rollout(config: OnPolicyConfig, parts: OnPolicy, learner: OnPolicyState, trajectory: Trajectory) -> Rows:
    """Convert a rollout of T steps of E environments to training data with B = T x E rows."""
    batch = on_policy.prepare(config, learner, trajectory)
    value, advantage = on_policy.advantages(config, parts, learner, batch, trajectory.truncated)
    parameters = parts.policy.apply(learner.policy, batch.observation, batch.action_mask)
    log_prob = parts.distribution.log_prob(parameters, batch.action)
    return Rows(batch.observation, batch.action, log_prob, value, advantage, batch.active, batch.action_mask)


def policy_step(
    config: PPOConfig, parts: OnPolicy, learner: OnPolicyState, rows: Rows, advantage: jax.Array, key: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Take one gradient step of every policy on a minibatch, with the given advantages (n, B)."""

    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        parameters = parts.policy.apply(params, rows.observation, rows.action_mask)
        log_prob = parts.distribution.log_prob(parameters, rows.action)
        losses = clipped_policy_loss(log_prob, rows.log_prob, advantage, config.clip_eps, rows.active)
        bonus = active_mean(entropy(parts.distribution.candidates(parameters, key)), rows.active)
        return (losses - config.entropy_coefficient * bonus).sum(), (losses, bonus)

    gradient, (losses, bonus) = jax.grad(loss, has_aux=True)(learner.policy)
    policy, state = optimizers.descend(parts.policy_optimizer, gradient, learner.policy_optimizer, learner.policy)
    return dataclasses.replace(learner, policy=policy, policy_optimizer=state), {"policy_loss": losses, "entropy": bonus}


def value_step(config: ValueConfig, parts: OnPolicy, learner: OnPolicyState, rows: Rows) -> tuple[OnPolicyState, Metrics]:
    """Take one gradient step of every critic on a minibatch."""

    def loss(params: Params) -> jax.Array:
        value, target = parts.critic.apply(params, rows.observation), rows.value + rows.advantage
        return clipped_value_loss(value, rows.value, target, config.value_clip_eps, rows.active).sum()

    value, gradient = jax.value_and_grad(loss)(learner.critic)
    critic, state = optimizers.descend(parts.critic_optimizer, gradient, learner.critic_optimizer, learner.critic)
    return dataclasses.replace(learner, critic=critic, critic_optimizer=state), {"critic_loss": value}


def shuffled(config: ValueConfig, total: int, key: jax.Array) -> jax.Array:
    """Draw the rows of all minibatches of `num_epochs` passes over `total` rows: indices (minibatches, rows of one).

    Raises:
        ValueError: if there are fewer rows than `num_minibatches`.
    """
    if total < config.num_minibatches:
        raise ValueError(
            f"num_minibatches={config.num_minibatches} exceeds the {total} transitions of a rollout: "
            f"give at most {total}, or increase update_interval."
        )
    size = total // config.num_minibatches

    def one_pass(key: jax.Array) -> jax.Array:
        return jax.random.permutation(key, total)[: size * config.num_minibatches].reshape(-1, size)

    return jax.vmap(one_pass)(jax.random.split(key, config.num_epochs)).reshape(-1, size)


def over_minibatches(
    step: Callable[[OnPolicyState, Any, jax.Array], tuple[OnPolicyState, Metrics]],
    learner: OnPolicyState,
    rows: Any,
    order: jax.Array,
    key: jax.Array,
) -> tuple[OnPolicyState, Metrics]:
    """Take `step` (learner, minibatch, key) on all minibatches of `order`; returns the mean of its metrics.

    The leaves of `rows` and of minibatches are (n, B, ...).
    """

    def on_part(learner: OnPolicyState, part: tuple[jax.Array, jax.Array]) -> tuple[OnPolicyState, Metrics]:
        number, index = part
        chosen = split_rows(jax.tree.map(lambda leaf: leaf[:, index], rows), axis=1)
        return step(learner, chosen, jax.random.fold_in(key, number))

    learner, metrics = jax.lax.scan(on_part, learner, (jnp.arange(len(order)), order))
    return learner, jax.tree.map(lambda leaf: leaf.mean(0), metrics)


def value_passes(
    config: ValueConfig, parts: OnPolicy, learner: OnPolicyState, rows: Rows, order: jax.Array, key: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Take the steps of all critics alone on all minibatches of `order`; returns the mean of their metrics."""

    def step(learner: OnPolicyState, part: Rows, key: jax.Array) -> tuple[OnPolicyState, Metrics]:
        del key
        return value_step(config, parts, learner, part)

    return over_minibatches(step, learner, rows, order, key)


def in_turn(turn: Callable[[Any, jax.Array], tuple[Any, Metrics]], state: Any, agents: jax.Array) -> tuple[Any, Metrics]:
    """Call `turn` (state, agent) -> (state, metrics of this agent) for one agent after another; returns metrics (n,)."""
    state, metrics = jax.lax.scan(turn, state, agents)
    return state, jax.tree.map(lambda leaf: jnp.zeros_like(leaf).at[agents].set(leaf), metrics)


def finish(
    parts: OnPolicy, before: OnPolicyState, learner: OnPolicyState, rows: Rows, trajectory: Trajectory
) -> tuple[OnPolicyState, Metrics]:
    """Update the running statistics, and measure how far the policies moved in the update."""
    current, previous = (
        parts.policy.apply(params, rows.observation, rows.action_mask) for params in (learner.policy, before.policy)
    )
    divergence = policy_divergence(parts.distribution.kl, current, previous, previous, rows.active)
    return on_policy.observe(learner, trajectory), divergence
