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
from mamt_jax.networks.memory import History, remember
from mamt_jax.running_statistics import standardise
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
    """Training data of one gradient step. All arrays are (n, B, ...), except the hidden states of the history.

    With a memory, rows are sequences in order of time. `critic_input` has the hidden states of the policies that played the
    rollout.
    """

    observation: jax.Array
    critic_input: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array
    active: jax.Array | None
    action_mask: jax.Array | None
    history: History | None
    ratio: jax.Array | None = None

    @property
    def sequences(self) -> int:
        """Number of sequences. Without a memory each row is one."""
        return self.value.shape[1] if self.history is None else self.history.hidden_state.shape[1]


def value_rollout(config: OnPolicyConfig, parts: OnPolicy, learner: OnPolicyState, trajectory: Trajectory) -> Rows:
    """Convert a rollout of T steps of E environments to training data with B = T x E rows."""
    batch, history = on_policy.prepare(config, learner, trajectory), on_policy.history(trajectory)
    inputs = remember(parts.memory, learner.policy, batch.observation, history)
    value, advantage = on_policy.advantages(config, parts, learner, batch, inputs, trajectory.truncated)
    log_prob = parts.distribution.log_prob(parts.policy.apply(learner.policy, inputs, batch.action_mask), batch.action)
    return Rows(
        observation=batch.observation,
        critic_input=inputs,
        action=batch.action,
        log_prob=log_prob,
        value=value,
        advantage=advantage,
        active=batch.active,
        action_mask=batch.action_mask,
        history=history,
    )


def outputs(parts: OnPolicy, policy: Params, rows: Rows) -> jax.Array:
    """Compute the parameters of the action distributions (n, B, P) of `policy`."""
    return on_policy.parameters(parts, policy, rows.observation, rows.action_mask, rows.history)


def policy_step(
    config: PPOConfig, parts: OnPolicy, learner: OnPolicyState, rows: Rows, advantage: jax.Array, key: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Take one gradient step of every policy on a minibatch, with the given advantages (n, B)."""

    def loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        parameters = outputs(parts, params, rows)
        log_prob = parts.distribution.log_prob(parameters, rows.action)
        losses = clipped_policy_loss(log_prob, rows.log_prob, advantage, config.clip_eps, rows.active)
        bonus = active_mean(entropy(parts.distribution.candidates(parameters, key)), rows.active)
        return (losses - config.entropy_coefficient * bonus).sum(), (losses, bonus)

    gradient, (losses, bonus) = jax.grad(loss, has_aux=True)(learner.policy)
    policy, state = optimizers.descend(parts.policy_optimizer, gradient, learner.policy_optimizer, learner.policy)
    return dataclasses.replace(learner, policy=policy, policy_optimizer=state), {"policy_loss": losses, "entropy": bonus}


def value_step(config: ValueConfig, parts: OnPolicy, learner: OnPolicyState, rows: Rows) -> tuple[OnPolicyState, Metrics]:
    """Take one gradient step of every critic on a minibatch."""
    old_value, target = (standardise(learner.value_statistics, x) for x in (rows.value, rows.value + rows.advantage))

    def loss(params: Params) -> jax.Array:
        value = parts.critic.apply(params, rows.critic_input)
        return clipped_value_loss(value, old_value, target, config.value_clip_eps, rows.active).sum()

    value, gradient = jax.value_and_grad(loss)(learner.critic)
    critic, state = optimizers.descend(parts.critic_optimizer, gradient, learner.critic_optimizer, learner.critic)
    return dataclasses.replace(learner, critic=critic, critic_optimizer=state), {"critic_loss": value}


def shuffled(config: ValueConfig, rows: Rows, key: jax.Array) -> jax.Array:
    """Draw the sequences of all minibatches of `num_epochs` passes: indices (minibatches, sequences of one).

    Raises:
        ValueError: if there are fewer sequences than `num_minibatches`.
    """
    total = rows.sequences
    if total < config.num_minibatches:
        what, option = ("transitions", "update_interval") if rows.history is None else ("environments", "num_envs")
        raise ValueError(
            f"num_minibatches={config.num_minibatches} exceeds the {total} {what} of a rollout: "
            f"give at most {total}, or increase {option}."
        )
    size = total // config.num_minibatches

    def one_pass(key: jax.Array) -> jax.Array:
        return jax.random.permutation(key, total)[: size * config.num_minibatches].reshape(-1, size)

    return jax.vmap(one_pass)(jax.random.split(key, config.num_epochs)).reshape(-1, size)


def take(rows: Rows, index: jax.Array) -> Rows:
    """Take the sequences `index` (I,) of `rows`."""

    def of_leaf(leaf: jax.Array) -> jax.Array:
        by_time = leaf.reshape(len(leaf), -1, rows.sequences, *leaf.shape[2:])
        return by_time[:, :, index].reshape(len(leaf), -1, *leaf.shape[2:])

    return jax.tree.map(of_leaf, rows)


def over_minibatches(
    step: Callable[[OnPolicyState, Rows, jax.Array], tuple[OnPolicyState, Metrics]],
    learner: OnPolicyState,
    rows: Rows,
    order: jax.Array,
    key: jax.Array,
) -> tuple[OnPolicyState, Metrics]:
    """Take `step` (learner, minibatch, key) on all minibatches of `order`; returns the mean of its metrics."""

    def on_part(learner: OnPolicyState, part: tuple[jax.Array, jax.Array]) -> tuple[OnPolicyState, Metrics]:
        number, index = part
        return step(learner, split_rows(take(rows, index), axis=1), jax.random.fold_in(key, number))

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
    current, previous = (outputs(parts, params, rows) for params in (learner.policy, before.policy))
    divergence = policy_divergence(parts.distribution.kl, current, previous, previous, rows.active)
    learner = on_policy.observe_values(learner, rows.value + rows.advantage, rows.active)
    return on_policy.observe(learner, trajectory), divergence
