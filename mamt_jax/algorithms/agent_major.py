"""Observations and batches as the networks read them: agent-major and normalised."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mamt_jax.networks.per_agent import Network
from mamt_jax.running_statistics import RewardNormalisation, RunningStatistics, normalise, normalise_reward
from mamt_jax.types import Params, Transition


class Batch(NamedTuple):
    """A `Transition` whose arrays are (n, B, ...)."""

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    terminated: jax.Array
    active: jax.Array | None = None
    action_mask: jax.Array | None = None
    next_action_mask: jax.Array | None = None


def prepare(
    observations: RunningStatistics, rewards: RunningStatistics, reward_normalisation: RewardNormalisation, batch: Transition
) -> Batch:
    """Normalise a replayed batch (B, n, ...) by what was seen so far and turn it agent-major.

    An agent that does not act earns nothing, however rewards are normalised.
    """
    chex.assert_rank([batch.observation, batch.reward], [3, 2])
    reward = normalise_reward(reward_normalisation, rewards, batch.reward)
    normalised = batch._replace(
        observation=normalise(observations, batch.observation),
        reward=reward if batch.active is None else jnp.where(batch.active, reward, 0.0),
        next_observation=normalise(observations, batch.next_observation),
    )
    return Batch(*jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), normalised))


def act_by(
    choose: Callable[[jax.Array], jax.Array],
    network: Network,
    policy: Params,
    statistics: RunningStatistics,
    observation: jax.Array,
    action_mask: jax.Array | None,
) -> jax.Array:
    """What `choose` makes of a policy's parameters at raw observations.

    Observations (..., n, d) and action masks (..., n, A) or None -> (..., n) or (..., n, k).
    """

    def rows(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *x.shape[-2:]).swapaxes(0, 1)

    seen, mask = jax.tree.map(rows, (normalise(statistics, observation), action_mask))
    action = choose(network.apply(policy, seen, mask)).swapaxes(0, 1)
    return action.reshape(*observation.shape[:-1], *action.shape[2:])
