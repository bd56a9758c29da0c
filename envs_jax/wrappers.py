"""Wrappers: functions from an Environment to an Environment. Each keeps `spec` and `scripted`.

Compose them as `episode_statistics(auto_reset(env))`: statistics outermost, so that they outlive the reset.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from envs_jax.environment import Environment, EnvState, Noise, TimeStep


class AutoResetNoise(NamedTuple):
    """The draws of a step that may open a new episode: the inner environment's, and a key for its reset."""

    noise: Noise
    reset_key: jax.Array


def auto_reset(env: Environment) -> Environment:
    """Opens the next episode in the step that ends the last one.

    At the end of an episode `observation` and `action_mask` are those of the next episode's start, while
    `final_observation`, `reward`, `terminated`, `truncated` and `metrics` close the old one. The state is the inner one's.
    """

    def sample_noise(key: jax.Array, state: EnvState) -> AutoResetNoise:
        noise_key, reset_key = jax.random.split(key)
        return AutoResetNoise(env.sample_noise(noise_key, state), reset_key)

    def transition(state: EnvState, action: jax.Array, noise: AutoResetNoise) -> tuple[EnvState, TimeStep]:
        state, timestep = env.transition(state, action, noise.noise)
        shown = (state, timestep.observation, timestep.action_mask)
        next_state, first = env.reset(noise.reset_key)
        opened = (next_state, first.observation, first.action_mask)
        state, observation, action_mask = jax.tree.map(lambda new, old: jnp.where(timestep.done, new, old), opened, shown)
        return state, timestep._replace(observation=observation, action_mask=action_mask)

    return env._replace(transition=transition, sample_noise=sample_noise)


@flax.struct.dataclass
class EpisodeStatistics:
    """The current episode so far, its last step included.

    Attributes:
        done: () bool, the last step ended the episode, so the fields below describe all of it.
        episode_return: (n,) sum of each agent's rewards.
        episode_length: () int32, steps taken.
        metrics: the mean over the steps taken of each task metric, a dict of scalars.
    """

    done: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    metrics: dict[str, jax.Array]


@flax.struct.dataclass
class StatisticsState:
    """State of `episode_statistics`: the inner state and the statistics of the episode it belongs, or just belonged, to."""

    env_state: EnvState
    statistics: EpisodeStatistics


def _no_statistics(timestep: TimeStep) -> EpisodeStatistics:
    zero = jnp.zeros((), timestep.reward.dtype)
    return EpisodeStatistics(
        done=jnp.zeros((), bool),
        episode_return=jnp.zeros_like(timestep.reward),
        episode_length=jnp.zeros((), jnp.int32),
        metrics=dict.fromkeys(timestep.metrics, zero),
    )


def _add_step(statistics: EpisodeStatistics, timestep: TimeStep) -> EpisodeStatistics:
    length = statistics.episode_length + 1
    return EpisodeStatistics(
        done=timestep.done,
        episode_return=statistics.episode_return + timestep.reward,
        episode_length=length,
        metrics={name: mean + (timestep.metrics[name] - mean) / length for name, mean in statistics.metrics.items()},
    )


def episode_statistics(env: Environment) -> Environment:
    """Keeps `state.statistics`, an `EpisodeStatistics`, which is complete whenever its `done` is set.

    The first step after a `done` starts from nothing. A training scan sums what it wants over the steps where `done` holds:
    `jnp.where(statistics.done, statistics.episode_return.mean(), 0)`. The inner state is `state.env_state`.
    """

    def reset(key: jax.Array) -> tuple[StatisticsState, TimeStep]:
        env_state, timestep = env.reset(key)
        return StatisticsState(env_state, _no_statistics(timestep)), timestep

    def sample_noise(key: jax.Array, state: StatisticsState) -> Noise:
        return env.sample_noise(key, state.env_state)

    def transition(state: StatisticsState, action: jax.Array, noise: Noise) -> tuple[StatisticsState, TimeStep]:
        env_state, timestep = env.transition(state.env_state, action, noise)
        started, fresh = state.statistics, _no_statistics(timestep)
        statistics = jax.tree.map(lambda new, old: jnp.where(started.done, new, old), fresh, started)
        return StatisticsState(env_state, _add_step(statistics, timestep)), timestep

    inner_scripted = env.scripted

    def scripted(key: jax.Array, state: StatisticsState) -> jax.Array:
        assert inner_scripted is not None
        return inner_scripted(key, state.env_state)

    return env._replace(
        reset=reset,
        transition=transition,
        sample_noise=sample_noise,
        scripted=None if inner_scripted is None else scripted,
    )
