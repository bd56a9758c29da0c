"""Functions that all algorithms share: normalise observations, make batches agent-major, and act.

Agent-major arrays are (n, B, ...). In batches from the replay memory and in actions for the environment, the agent axis follows
the batch axes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from envs_jax.environment import EnvSpec
from mamt_jax.networks.memory import History, remember
from mamt_jax.running_statistics import RewardNormalisation, RunningStatistics, normalise, normalise_reward
from mamt_jax.types import Config, LearnerState, Transition

Batch = Transition
"""A `Transition` with agent-major arrays, (n, B, ...)."""

Build = Callable[[EnvSpec, Config], Any]
"""Function (spec, config) -> parts, which include a Network `policy` and a `distribution` with `sample` and `mode`."""


def prepare(
    observations: RunningStatistics, rewards: RunningStatistics, reward_normalisation: RewardNormalisation, batch: Transition
) -> Batch:
    """Normalise a batch (B, n, ...) with the running statistics, and make it agent-major.

    Inactive agents receive a reward of 0, also where the normalisation of rewards subtracts a mean.
    """
    chex.assert_rank([batch.observation, batch.reward], [3, 2])
    reward, later = normalise_reward(reward_normalisation, rewards, batch.reward), batch.later
    if later is not None:
        by_step = normalise_reward(reward_normalisation, rewards, later.reward.swapaxes(-1, -2))
        later = later._replace(reward=by_step.swapaxes(-1, -2))
    normalised = batch._replace(
        observation=normalise(observations, batch.observation),
        reward=reward if batch.active is None else jnp.where(batch.active, reward, 0.0),
        next_observation=normalise(observations, batch.next_observation),
        later=later,
    )
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), normalised)


def act(
    build: Build,
    spec: EnvSpec,
    config: Config,
    learner: LearnerState,
    observation: jax.Array,
    key: jax.Array,
    action_mask: jax.Array | None = None,
    hidden_state: jax.Array | None = None,
) -> Any:
    """Sample the action of each agent from its policy, among the allowed actions.

    Args:
        build: function (spec, config) -> networks and action distribution.
        spec: spec of the environment.
        config: hyperparameters.
        learner: learner state.
        observation: (..., n, d).
        key: random key, consumed.
        action_mask: (..., n, A) bool, allowed actions. None allows all actions.
        hidden_state: (..., n, h), hidden states of policies with a memory.

    Returns:
        Actions (..., n), or (..., n, k) where actions are continuous. If `hidden_state` is given, also the new hidden states.
    """
    parts = build(spec, config)
    choose = functools.partial(parts.distribution.sample, key=key)
    return _act(parts, choose, learner, observation, action_mask, hidden_state)


def greedy(
    build: Build,
    spec: EnvSpec,
    config: Config,
    learner: LearnerState,
    observation: jax.Array,
    action_mask: jax.Array | None = None,
    hidden_state: jax.Array | None = None,
) -> Any:
    """Return the mode of each agent's policy, among the allowed actions. Arguments and shapes are those of `act`."""
    parts = build(spec, config)
    return _act(parts, parts.distribution.mode, learner, observation, action_mask, hidden_state)


def policy(learner: LearnerState) -> LearnerState:
    """Select the policies and the statistics that normalise their inputs; all other leaves of the learner state become None."""
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(learner))
    statistics = dataclasses.replace(learner.observation_statistics, count=None)
    return type(learner)(**nothing | {"policy": learner.policy, "observation_statistics": statistics})


def _act(
    parts: Any,
    choose: Callable[[jax.Array], jax.Array],
    learner: LearnerState,
    observation: jax.Array,
    action_mask: jax.Array | None,
    hidden_state: jax.Array | None,
) -> Any:
    """Apply the policies, and convert their outputs to actions.

    `choose` maps the parameters of action distributions (n, B, P) to actions (n, B) or (n, B, k).
    """

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[-2:]).swapaxes(0, 1)

    def as_given(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(*observation.shape[:-1], *x.shape[2:])

    inputs, mask = jax.tree.map(flat, (normalise(learner.observation_statistics, observation), action_mask))
    if hidden_state is None:
        return as_given(choose(parts.policy.apply(learner.policy, inputs, mask)))
    inputs = remember(parts.memory, learner.policy, inputs, History(flat(hidden_state)))
    action = choose(parts.policy.apply(learner.policy, inputs, mask))
    return as_given(action), as_given(inputs[..., : hidden_state.shape[-1]])
