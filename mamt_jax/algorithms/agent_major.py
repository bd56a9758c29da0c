"""Observations and batches as the networks read them: agent-major and normalised."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax

from mamt_jax.networks.agent_axis import Network, over_rows
from mamt_jax.normalisation import RewardNormalisation, RunningStatistics, normalise, normalise_reward
from mamt_jax.types import Params, Transition


class Batch(NamedTuple):
    """Arrays (n, B, ...)."""

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    terminated: jax.Array


def prepare(
    observations: RunningStatistics, rewards: RunningStatistics, reward_normalisation: RewardNormalisation, batch: Transition
) -> Batch:
    """Normalise a replayed batch (B, n, ...) by what was seen so far and turn it agent-major."""
    chex.assert_rank([batch.observation, batch.reward], [3, 2])
    return Batch(
        observation=normalise(observations, batch.observation).swapaxes(0, 1),
        action=batch.action.swapaxes(0, 1),
        reward=normalise_reward(reward_normalisation, rewards, batch.reward).swapaxes(0, 1),
        next_observation=normalise(observations, batch.next_observation).swapaxes(0, 1),
        terminated=batch.terminated.swapaxes(0, 1),
    )


def act_by(
    choose: Callable[[jax.Array], jax.Array],
    network: Network,
    policy: Params,
    statistics: RunningStatistics,
    observation: jax.Array,
) -> jax.Array:
    """What `choose` makes of a policy's parameters at raw observations: (..., n, d) -> (..., n) or (..., n, k)."""
    return over_rows(lambda rows: choose(network.apply(policy, rows)), normalise(statistics, observation))
