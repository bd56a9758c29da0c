"""Rollouts: a scan of steps over parallel environments that reset themselves."""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from envs_jax.environment import Environment, EnvSpec, EnvState, TimeStep
from envs_jax.wrappers import EpisodeStatistics, auto_reset, episode_statistics
from mamt_jax.types import Transition

Act = Callable[..., jax.Array]
"""(observation (E, n, d), key[, action mask (E, n, A)]) -> action (E, n) or (E, n, k)."""


class Rollout(NamedTuple):
    """What a rollout of T steps of E environments saw.

    Attributes:
        transitions: with leading axes (T, E).
        truncated: (T, E) bool, where a time limit cut an episode.
        finished: sums over the episodes that ended.
    """

    transitions: Transition
    truncated: jax.Array
    finished: "EpisodeSums"


class EnvBatch(NamedTuple):
    """Parallel environments between two steps.

    Attributes:
        env_state: their states, (E, ...).
        observation: (E, n, d), what the agents see.
        action_mask: (E, n, A), what they may do; None in environments without action masks.
    """

    env_state: EnvState
    observation: jax.Array
    action_mask: jax.Array | None = None

    @property
    def shown(self) -> tuple[jax.Array, ...]:
        """What a policy reads besides a key: the action mask, where there is one."""
        return () if self.action_mask is None else (self.action_mask,)


@flax.struct.dataclass
class EpisodeSums:
    """Sums over finished episodes.

    Attributes:
        episodes: () int32, how many.
        episode_return: (n,) sum of each agent's returns.
        metrics: sum of each task metric's mean over its episode, a dict of scalars.
    """

    episodes: jax.Array
    episode_return: jax.Array
    metrics: dict[str, jax.Array]


def with_episodes(env: Environment) -> Environment:
    """`env`, resetting itself and keeping the statistics of its episodes."""
    return episode_statistics(auto_reset(env))


def reset_batch(env: Environment, key: jax.Array, num_envs: int) -> EnvBatch:
    """Opens `num_envs` parallel environments."""
    return env_batch(env.spec, *jax.vmap(env.reset)(jax.random.split(key, num_envs)))


def env_batch(spec: EnvSpec, env_state: EnvState, timestep: TimeStep) -> EnvBatch:
    """Environments after a reset or a step."""
    return EnvBatch(env_state, timestep.observation, timestep.action_mask if spec.has_action_masks else None)


def make_transition(spec: EnvSpec, before: EnvBatch, active: jax.Array, action: jax.Array, after: TimeStep) -> Transition:
    """A step of environments (..., n); an agent that did not act earns nothing and stays ended."""
    transition = Transition(
        observation=before.observation,
        action=action,
        reward=after.reward,
        next_observation=after.final_observation,
        terminated=after.terminated,
        action_mask=before.action_mask,
        next_action_mask=after.final_action_mask if spec.has_action_masks else None,
    )
    if spec.ends_together:
        return transition
    reward, terminated = jnp.where(active, after.reward, 0.0), after.terminated | ~active
    return transition._replace(reward=reward, terminated=terminated, active=active)


def no_episodes(statistics: EpisodeStatistics) -> EpisodeSums:
    """Sums over no episode at all, for environments with such statistics, (E, ...)."""
    return jax.tree.map(jnp.zeros_like, sum_finished(statistics))


def sum_finished(statistics: EpisodeStatistics) -> EpisodeSums:
    """The sums over those episodes, of any leading axes, that are `done`."""
    done = statistics.done.ravel()

    def total(leaf: jax.Array) -> jax.Array:
        leaf = leaf.reshape(done.shape[0], -1)
        return jnp.where(done[:, None], leaf, 0).sum(0)

    return EpisodeSums(
        episodes=done.sum(dtype=jnp.int32),
        episode_return=total(statistics.episode_return),
        metrics={name: total(metric)[0] for name, metric in statistics.metrics.items()},
    )


def rollout(env: Environment, act: Act, batch: EnvBatch, key: jax.Array, num_steps: int) -> tuple[EnvBatch, Rollout]:
    """`num_steps` steps of all environments.

    Args:
        env: environments of `with_episodes`.
        act: the policy.
        batch: where the environments, E of them, stand.
        key: for actions and environments.
        num_steps: T.

    Returns:
        Where they stand then, and what was seen on the way.
    """

    def step(batch: EnvBatch, number: jax.Array) -> tuple[EnvBatch, tuple[Transition, jax.Array, EpisodeStatistics]]:
        act_key, env_key = jax.random.split(jax.random.fold_in(key, number))
        action = act(batch.observation, act_key, *batch.shown)
        env_keys = jax.random.split(env_key, action.shape[0])
        env_state, timestep = jax.vmap(env.step)(env_keys, batch.env_state, action)
        transition = make_transition(env.spec, batch, batch.env_state.statistics.active, action, timestep)
        return env_batch(env.spec, env_state, timestep), (transition, timestep.truncated, env_state.statistics)

    batch, (transitions, truncated, statistics) = jax.lax.scan(step, batch, jnp.arange(num_steps))
    return batch, Rollout(transitions, truncated, sum_finished(statistics))
