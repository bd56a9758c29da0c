"""Evaluation: whole episodes from fresh starts, on keys that training never sees."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.environment import Environment
from envs_jax.wrappers import EpisodeStatistics
from mamt_jax.training.rollout import EnvBatch, env_batch, reset_batch

Policy = Callable[..., jax.Array]
"""(environment states, observation (E, n, d), key[, action mask (E, n, A)]) -> action (E, n) or (E, n, k)."""


class Evaluation(NamedTuple):
    """Means over episodes.

    Attributes:
        episode_return: (n,) each agent's return.
        metrics: each task metric, a dict of scalars.
    """

    episode_return: jax.Array
    metrics: dict[str, jax.Array]


def evaluate(env: Environment, policy: Policy, key: jax.Array, num_episodes: int) -> Evaluation:
    """Means over the episodes that `first_episodes` plays; arguments as there."""
    played = first_episodes(env, policy, key, num_episodes)
    return Evaluation(played.episode_return.mean(0), {name: metric.mean() for name, metric in played.metrics.items()})


def first_episodes(env: Environment, policy: Policy, key: jax.Array, num_episodes: int) -> EpisodeStatistics:
    """Whole episodes, one of each environment, side by side: (E, ...).

    Args:
        env: an environment of `rollout.with_episodes`.
        policy: who acts.
        key: for starts, actions and environments.
        num_episodes: E.
    """
    start_key, steps_key = jax.random.split(key)
    opened = reset_batch(env, start_key, num_episodes)

    def step(carry: tuple[EnvBatch, EpisodeStatistics], number: jax.Array) -> tuple[tuple[EnvBatch, EpisodeStatistics], None]:
        batch, first = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, number))
        action = policy(batch.env_state.env_state, batch.observation, act_key, *batch.shown)
        env_state, timestep = jax.vmap(env.step)(jax.random.split(env_key, num_episodes), batch.env_state, action)
        first = jax.vmap(keep_first)(first, env_state.statistics)
        return (env_batch(env.spec, env_state, timestep), first), None

    (_, first), _ = jax.lax.scan(step, (opened, opened.env_state.statistics), jnp.arange(env.spec.episode_limit))
    return first


def keep_first(first: EpisodeStatistics, new: EpisodeStatistics) -> EpisodeStatistics:
    """`first` once it is done, else `new`: the episode in progress."""
    return jax.tree.map(lambda old, new: jnp.where(first.done, old, new), first, new)
