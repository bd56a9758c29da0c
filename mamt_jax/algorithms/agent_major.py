"""What algorithms here do alike: normalise observations, turn batches agent-major, and act.

Agent-major arrays are (n, B, ...). Batches come and actions go with the agent axis after the batch axes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from envs_jax.environment import EnvSpec
from mamt_jax.running_statistics import RewardNormalisation, RunningStatistics, normalise, normalise_reward
from mamt_jax.types import Config, LearnerState, Transition

Batch = Transition
"""A `Transition` whose arrays are (n, B, ...)."""

Build = Callable[[EnvSpec, Config], Any]
"""(spec, config) -> parts, among them a Network `policy` and a `distribution` with `sample` and `mode`."""


def prepare(
    observations: RunningStatistics, rewards: RunningStatistics, reward_normalisation: RewardNormalisation, batch: Transition
) -> Batch:
    """Normalise a replayed batch (B, n, ...) by what was seen so far and turn it agent-major.

    An agent that does not act earns nothing, however rewards are normalised.
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
) -> jax.Array:
    """Sample every agent's action, of those that `action_mask` (..., n, A) allows; observation (..., n, d) -> (..., n[, k])."""
    parts = build(spec, config)
    return _act(parts, lambda parameters: parts.distribution.sample(parameters, key), learner, observation, action_mask)


def greedy(
    build: Build,
    spec: EnvSpec,
    config: Config,
    learner: LearnerState,
    observation: jax.Array,
    action_mask: jax.Array | None = None,
) -> jax.Array:
    """Every agent's most likely action, of those allowed; shapes as in `act`."""
    parts = build(spec, config)
    return _act(parts, parts.distribution.mode, learner, observation, action_mask)


def policy(learner: LearnerState) -> LearnerState:
    """The policies and the moments that their inputs are normalised by; None for all else in the learner state."""
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(learner))
    statistics = dataclasses.replace(learner.observation_statistics, count=None)
    return type(learner)(**nothing | {"policy": learner.policy, "observation_statistics": statistics})


def _act(
    parts: Any,
    choose: Callable[[jax.Array], jax.Array],
    learner: LearnerState,
    observation: jax.Array,
    action_mask: jax.Array | None,
) -> jax.Array:
    """`choose` maps the parameters of action distributions (n, B, P) to actions (n, B[, k])."""

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[-2:]).swapaxes(0, 1)

    inputs, mask = jax.tree.map(flat, (normalise(learner.observation_statistics, observation), action_mask))
    action = choose(parts.policy.apply(learner.policy, inputs, mask)).swapaxes(0, 1)
    return action.reshape(*observation.shape[:-1], *action.shape[2:])
