"""Evaluation: whole episodes from fresh starts, on keys that training never sees."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.environment import Environment, EnvState
from envs_jax.wrappers import EpisodeStatistics

Policy = Callable[[EnvState, jax.Array, jax.Array], jax.Array]
"""(environment states, observation (E, n, d), key) -> action (E, n) or (E, n, k)."""


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
    env_state, timestep = jax.vmap(env.reset)(jax.random.split(start_key, num_episodes))

    def step(carry: tuple[EnvState, jax.Array, EpisodeStatistics], number: jax.Array) -> tuple[tuple, None]:
        env_state, observation, first = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, number))
        action = policy(env_state.env_state, observation, act_key)
        env_state, timestep = jax.vmap(env.step)(jax.random.split(env_key, num_episodes), env_state, action)
        first = jax.vmap(keep_first)(first, env_state.statistics)
        return (env_state, timestep.observation, first), None

    carry = (env_state, timestep.observation, env_state.statistics)
    (_, _, first), _ = jax.lax.scan(step, carry, jnp.arange(env.spec.episode_limit))
    return first


def keep_first(first: EpisodeStatistics, new: EpisodeStatistics) -> EpisodeStatistics:
    """`first` once it is done, else `new`: the episode in progress."""
    return jax.tree.map(lambda old, new: jnp.where(first.done, old, new), first, new)
