"""Training in environments outside JAX: the host steps them, and the algorithm acts and updates in jitted programs."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from envs_jax.environment import EnvSpec, HostBatch, HostEnvironment, HostError, TimeStep
from envs_jax.rollout import Episodes, play_host_episodes
from envs_jax.wrappers import EpisodeStatistics, add_step
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.training.config import Schedule, TrainingConfig
from mamt_jax.training.replay import most_truncations
from mamt_jax.training.rollout import EnvBatch, Rollout, act_in, env_batch, make_transition, sum_finished
from mamt_jax.training.trainer import (
    Evaluation,
    RunState,
    iteration_keys,
    make_init,
    make_learning,
    make_replay,
    reset_sums,
)
from mamt_jax.training.vectorized import Runs, jit_init, runs_sharding, shard
from mamt_jax.types import Config

Act = Callable[..., Any]
"""(iteration, step, environments (R, E, ...)) -> (action (R, E, n) or (R, E, n, k), new hidden states or None)."""


class Episode(NamedTuple):
    """The state of environments outside JAX as it is known here: the statistics of their current episodes, (E, ...)."""

    statistics: EpisodeStatistics


class Played(NamedTuple):
    """One iteration of R runs, with leading axes (T, R, E): what was before each step, the action, and what was after it."""

    observation: Any
    action_mask: Any
    action: Any
    timestep: TimeStep
    hidden_state: Any = None


def make_host_runs(
    env: HostEnvironment, algorithm: Algorithm, config: TrainingConfig, schedule: Schedule, num_runs: int
) -> Runs:
    """The programs that train `num_runs` runs side by side; the environments of all runs are one batch of processes.

    The state of these processes cannot be saved. A run that continues from a checkpoint begins with new episodes.
    """
    truncations = most_truncations(schedule.rollout_length, env.spec.episode_limit)
    # The end of an iteration is stored as a truncation. What follows it then does not matter.
    replay = make_replay(env.spec, algorithm, config, schedule, truncations + 1)
    learn = make_learning(algorithm, replay, schedule)
    sharding = runs_sharding(num_runs)
    batches: dict[str, HostBatch] = {}

    def batch_for(purpose: str) -> HostBatch:
        if purpose not in batches:
            batches[purpose] = env.open(num_runs * config.num_envs)
        return batches[purpose]

    def act_one(config: Config, state: RunState, seen: EnvBatch, index: jax.Array, step: jax.Array) -> Any:
        key = jax.random.fold_in(iteration_keys(state, index)[0], step)
        return act_in(partial(algorithm.act, config, state.learner_state), seen, key)

    def learn_one(config: Config, state: RunState, played: Played, index: jax.Array) -> RunState:
        return learn(config, state, *make_rollout(env.spec, state, played), index)

    act = jit_act(act_one, sharding)
    learn_all = jax.jit(shard(jax.vmap(learn_one, (0, 0, 0, None)), sharding, by_run=3, shared=1), donate_argnums=1)

    def begin(states: RunState, iterations: int) -> RunState:
        seeds = draw_seeds(states.key, config.num_envs, iterations)
        timestep = by_run(batch_for("training").reset(seeds), num_runs)
        fresh = jax.vmap(lambda _: no_episode(env, config.num_envs))(jnp.arange(num_runs)).env_state.statistics
        active = fresh.active if timestep.active is None else jnp.asarray(timestep.active)
        env_state = Episode(dataclasses.replace(fresh, active=active))
        hidden_state = jax.tree.map(jnp.zeros_like, states.env_batch.hidden_state)
        batch = env_batch(env.spec, env_state, jax.tree.map(jnp.asarray, timestep), hidden_state)
        return dataclasses.replace(states, env_batch=batch)

    def advance(configs: Config, states: RunState, first: int, count: int) -> RunState:
        for index in range(first, first + count):
            choose = partial(act, configs, states)
            played = play(env.spec, batch_for("training"), choose, states.env_batch, index, schedule.rollout_length)
            check_truncations(env, played.timestep, truncations)
            states = learn_all(configs, states, jax.tree.map(lambda leaf: np.moveaxis(leaf, 1, 0), played), index)
        return states

    def close() -> None:
        for batch in batches.values():
            batch.close()
        batches.clear()

    return Runs(
        init=jit_init(make_init(algorithm, replay, lambda key: no_episode(env, config.num_envs)), sharding),
        advance=advance,
        evaluate=make_host_evaluation(env.spec, algorithm, config, lambda: batch_for("evaluation"), sharding),
        reset_sums=jax.jit(shard(reset_sums, sharding, by_run=1), donate_argnums=0, out_shardings=sharding),
        sharding=sharding,
        state_sharding=sharding,
        begin=begin,
        close=close,
    )


def no_episode(env: HostEnvironment, num_envs: int) -> EnvBatch:
    """Environments before their first episode, (E, ...)."""
    agents, seen = (env.spec.num_agents,), (env.spec.num_agents, env.spec.observation_size)
    statistics = EpisodeStatistics(
        done=jnp.ones(num_envs, bool),
        episode_return=jnp.zeros((num_envs, *agents)),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        metrics={name: jnp.zeros(num_envs) for name in env.metrics},
        active=jnp.ones((num_envs, *agents), bool),
    )
    action_mask = jnp.ones((num_envs, *agents, env.spec.action_size), bool) if env.spec.has_action_masks else None
    return EnvBatch(Episode(statistics), jnp.zeros((num_envs, *seen)), action_mask)


def jit_act(act: Callable[..., Any], sharding: Sharding) -> Callable[..., Any]:
    """Jits `act` for all runs: (configs, states, iteration, step, environments) -> (actions, hidden states)."""
    jitted = jax.jit(shard(jax.vmap(act, (0, 0, 0, None, None)), sharding, by_run=3, shared=2))

    def act_all(configs: Config, states: RunState, index: int, step: int, seen: EnvBatch) -> Any:
        return jitted(configs, states, jax.tree.map(jnp.asarray, seen._replace(env_state=None)), index, step)

    return act_all


def draw_seeds(keys: jax.Array, num_envs: int, *numbers: int) -> np.ndarray:
    """Seeds (R x E,) for the environments of each run, from its key in `keys` (R,) and from `numbers`."""
    words = np.asarray(jax.random.key_data(keys))
    return np.concatenate([np.random.SeedSequence([*key.tolist(), *numbers]).generate_state(num_envs) for key in words])


def play(spec: EnvSpec, batch: HostBatch, act: Act, start: EnvBatch, index: int, num_steps: int) -> Played:
    """Plays `num_steps` steps in all environments (R, E, ...) of all runs, from `start`, in iteration `index`."""
    seen, before = [], start
    for step in range(num_steps):
        chosen, hidden_state = act(index, step, before)
        action = np.asarray(chosen)
        result = by_run(batch.step(action.reshape(-1, *action.shape[2:])), len(action))
        after = env_batch(spec, start.env_state, result, hidden_state)
        seen.append(Played(np.asarray(before.observation), before.action_mask, action, result, after.hidden_state))
        before = after
    return jax.tree.map(lambda *leaves: np.stack(leaves), *seen)


def by_run(tree: Any, num_runs: int) -> Any:
    """Reshapes arrays from (R x E, ...) to (R, E, ...)."""
    return jax.tree.map(lambda leaf: leaf.reshape(num_runs, -1, *leaf.shape[1:]), tree)


def check_truncations(env: HostEnvironment, timestep: TimeStep, most: int) -> None:
    """Raises HostError if an environment was truncated more than `most` times, which is sooner than its `episode_limit`."""
    often = int(np.asarray(timestep.truncated).sum(0).max())
    if often > most:
        raise HostError(
            f"{env.spec.name} was truncated {often} times in {len(timestep.truncated)} steps, more often than "
            f"episode_limit={env.spec.episode_limit} allows: set it to the smallest number of steps after which the "
            "environment truncates."
        )


def make_rollout(spec: EnvSpec, state: RunState, played: Played) -> tuple[EnvBatch, Rollout]:
    """The environments after an iteration of one run (T, E, ...), and its `Rollout`; the last step counts as truncated."""

    def count(before: EpisodeStatistics, timestep: TimeStep) -> tuple[EpisodeStatistics, tuple[jax.Array, EpisodeStatistics]]:
        after = jax.vmap(partial(add_step, last_metrics=spec.last_metrics))(before, timestep)
        return after, (before.active, after)

    timestep = played.timestep
    latest, (active, statistics) = jax.lax.scan(count, state.env_batch.env_state.statistics, timestep)
    before = EnvBatch(None, played.observation, played.action_mask)
    transitions = make_transition(spec, before, active, played.action, timestep)
    truncated = timestep.truncated.at[-1].set(~timestep.terminated[-1].all(-1))
    hidden_state = jax.tree.map(lambda leaf: leaf[-1], played.hidden_state)
    after = env_batch(spec, Episode(latest), jax.tree.map(lambda leaf: leaf[-1], timestep), hidden_state)
    return after, Rollout(transitions, truncated, sum_finished(statistics))


def make_host_evaluation(
    spec: EnvSpec,
    algorithm: Algorithm,
    config: TrainingConfig,
    open_batch: Callable[[], HostBatch],
    sharding: Sharding,
) -> Callable[[Config, RunState, int], dict[str, Evaluation]]:
    """Evaluation of all runs: (configs, states, iteration number) -> {"asked": Evaluation, "sampled": Evaluation}.

    "asked" uses `evaluation_policy`. Each environment plays the same number of episodes; their total is `evaluation_episodes`,
    rounded up.
    """

    def greedy_one(config: Config, state: RunState, seen: EnvBatch, index: jax.Array, step: jax.Array) -> Any:
        del index, step
        return act_in(partial(algorithm.greedy, config, state.learner_state), seen)

    def sampled_one(config: Config, state: RunState, seen: EnvBatch, index: jax.Array, step: jax.Array) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(state.evaluation_key, index), step)
        return act_in(partial(algorithm.act, config, state.learner_state), seen, key)

    acting = {"asked": sampled_one if config.evaluation_policy == "sampled" else greedy_one, "sampled": sampled_one}
    policies = {name: jit_act(act, sharding) for name, act in acting.items()}
    episodes = math.ceil(config.evaluation_episodes / config.num_envs)

    def evaluate(configs: Config, states: RunState, index: int) -> dict[str, Evaluation]:
        def policy(name: str) -> Callable[[TimeStep, int], np.ndarray]:
            runs = len(states.key)
            remembered = {"hidden_state": algorithm.hidden_state(configs, (runs, config.num_envs))}

            def act(timestep: TimeStep, step: int) -> np.ndarray:
                seen = env_batch(spec, None, by_run(timestep, runs), remembered["hidden_state"])
                action, remembered["hidden_state"] = policies[name](configs, states, index, step, seen)
                action = np.asarray(action)
                return action.reshape(-1, *action.shape[2:])

            return act

        results = {}
        for number, name in enumerate(policies):
            seeds = draw_seeds(states.evaluation_key, config.num_envs, index, number)
            played = play_host_episodes(spec, open_batch(), policy(name), seeds, episodes)
            results[name] = mean_by_run(played, config.num_envs)
        return results

    return evaluate


def mean_by_run(played: Episodes, num_envs: int) -> Evaluation:
    """Means over the episodes of each run, (R, ...)."""
    grouped = by_run((played.episode_return, played.metrics), len(played.episode_return) // num_envs)
    return Evaluation(*jax.tree.map(lambda leaf: leaf.mean((1, 2)).astype(np.float32), grouped))
