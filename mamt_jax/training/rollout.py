"""Rollouts: a scan over steps of parallel environments that reset automatically."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from envs_jax.environment import Environment, EnvSpec, EnvState, TimeStep
from envs_jax.wrappers import EpisodeStatistics, auto_reset, episode_statistics
from mamt_jax.types import Transition

Act = Callable[..., Any]
"""(observation (E, n, d), key[, action mask (E, n, A)]) -> action (E, n) or (E, n, k).

A policy with a memory also takes `hidden_state` (E, n, h), and returns (action, hidden state).
"""


class Rollout(NamedTuple):
    """The data of a rollout of T steps in E environments.

    Attributes:
        transitions: transitions with leading axes (T, E).
        truncated: (T, E) bool, whether a time limit ended the episode.
        finished: sums over the episodes that ended.
    """

    transitions: Transition
    truncated: jax.Array
    finished: "EpisodeSums"


class EnvBatch(NamedTuple):
    """Parallel environments between two steps.

    Attributes:
        env_state: states of the environments, (E, ...).
        observation: (E, n, d), observations of the agents.
        action_mask: (E, n, A), actions that are allowed; None in environments without action masks.
        hidden_state: (E, n, h), hidden states of the policies; None for policies without memory.
    """

    env_state: EnvState
    observation: jax.Array
    action_mask: jax.Array | None = None
    hidden_state: jax.Array | None = None

    @property
    def shown(self) -> tuple[jax.Array, ...]:
        """The arguments of a policy after the key: the action mask, if there is one."""
        return () if self.action_mask is None else (self.action_mask,)

    @property
    def remembered(self) -> dict[str, jax.Array]:
        """The keyword arguments of a policy: its hidden states, if it has a memory."""
        return {} if self.hidden_state is None else {"hidden_state": self.hidden_state}


@flax.struct.dataclass
class EpisodeSums:
    """Sums over finished episodes.

    Attributes:
        episodes: () int32, number of episodes.
        episode_return: (n,) sum of each agent's returns.
        metrics: sum of each task metric over the episodes, a dict of scalars.
    """

    episodes: jax.Array
    episode_return: jax.Array
    metrics: dict[str, jax.Array]


def with_episodes(env: Environment) -> Environment:
    """Wraps `env` with automatic resets and episode statistics."""
    return episode_statistics(auto_reset(env))


def reset_batch(env: Environment, key: jax.Array, num_envs: int) -> EnvBatch:
    """Resets `num_envs` parallel environments."""
    return env_batch(env.spec, *jax.vmap(env.reset)(jax.random.split(key, num_envs)))


def env_batch(spec: EnvSpec, env_state: EnvState, timestep: TimeStep, hidden_state: jax.Array | None = None) -> EnvBatch:
    """The environments after a reset or a step, as an `EnvBatch`. Hidden states are set to 0 where an episode has ended."""
    if hidden_state is not None:
        hidden_state = jnp.where(timestep.done[..., None, None], 0.0, hidden_state)
    return EnvBatch(env_state, timestep.observation, timestep.action_mask if spec.has_action_masks else None, hidden_state)


def act_in(act: Act, batch: EnvBatch, *before: Any) -> tuple[jax.Array, jax.Array | None]:
    """Chooses actions: (actions, new hidden states, which are None without memory). `before` follows the observation."""
    chosen = act(batch.observation, *before, *batch.shown, **batch.remembered)
    return (chosen, None) if batch.hidden_state is None else chosen


def make_transition(spec: EnvSpec, before: EnvBatch, active: jax.Array, action: jax.Array, after: TimeStep) -> Transition:
    """The transition of one step of environments (..., n). Inactive agents have reward 0 and count as terminated."""
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
    """Sums over zero episodes, for environments with these statistics (E, ...)."""
    return jax.tree.map(jnp.zeros_like, sum_finished(statistics))


def sum_finished(statistics: EpisodeStatistics) -> EpisodeSums:
    """Sums over the episodes that are `done`; the statistics may have any leading axes."""
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
    """Plays `num_steps` steps in all environments.

    Args:
        env: an environment from `with_episodes`.
        act: the policy.
        batch: the E environments before the first step.
        key: random key for actions and environments.
        num_steps: T.

    Returns:
        The environments after the last step, and the data of the rollout.
    """

    def step(batch: EnvBatch, number: jax.Array) -> tuple[EnvBatch, tuple[Transition, jax.Array, EpisodeStatistics]]:
        act_key, env_key = jax.random.split(jax.random.fold_in(key, number))
        action, hidden_state = act_in(act, batch, act_key)
        env_keys = jax.random.split(env_key, action.shape[0])
        env_state, timestep = jax.vmap(env.step)(env_keys, batch.env_state, action)
        transition = make_transition(env.spec, batch, batch.env_state.statistics.active, action, timestep)
        return env_batch(env.spec, env_state, timestep, hidden_state), (transition, timestep.truncated, env_state.statistics)

    batch, (transitions, truncated, statistics) = jax.lax.scan(step, batch, jnp.arange(num_steps))
    return batch, Rollout(transitions, truncated, sum_finished(statistics))
