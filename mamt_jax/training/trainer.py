"""Training of one run as pure functions: initial state, one iteration, evaluation, and the whole of training."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from envs_jax.environment import Environment, EnvSpec
from envs_jax.rollout import Episodes, play_episodes
from mamt_jax.algorithms.base import Algorithm, as_policy
from mamt_jax.training.config import Schedule, TrainingConfig
from mamt_jax.training.nan_guard import Halt, find_halt, keep_where, no_halt
from mamt_jax.training.replay import Replay, uniform_replay
from mamt_jax.training.rollout import (
    EnvBatch,
    EpisodeSums,
    Rollout,
    no_episodes,
    reset_batch,
    rollout,
    with_episodes,
)
from mamt_jax.training.rollout_buffer import rollout_buffer
from mamt_jax.types import Config, LearnerState, Metrics


class Evaluation(NamedTuple):
    """Means over the episodes of an evaluation.

    Attributes:
        episode_return: (n,) mean return of each agent.
        metrics: mean of each task metric, a dict of scalars.
    """

    episode_return: jax.Array
    metrics: dict[str, jax.Array]


@flax.struct.dataclass
class IntervalSums:
    """Sums of one run since its last evaluation.

    Attributes:
        episodes: sums over finished episodes.
        updates: () int32, number of updates.
        update_metrics: sums of metrics over those updates, a dict of small arrays.
    """

    episodes: EpisodeSums
    updates: jax.Array
    update_metrics: Metrics


@flax.struct.dataclass
class RunState:
    """The state of one run. States in training have a leading axis of runs.

    Attributes:
        key: root key of training; each iteration folds its own number into it.
        evaluation_key: root key of evaluation.
        learner_state: state of the algorithm.
        env_batch: states of the environments.
        replay: storage of the memory from which the algorithm learns.
        sums: sums for the next evaluation.
        halt: whether and where the run has halted.
    """

    key: jax.Array
    evaluation_key: jax.Array
    learner_state: LearnerState
    env_batch: EnvBatch
    replay: Any
    sums: IntervalSums
    halt: Halt


def reset_sums(states: RunState) -> RunState:
    """The states with all sums set to zero."""
    return dataclasses.replace(states, sums=jax.tree.map(jnp.zeros_like, states.sums))


def make_replay(
    spec: EnvSpec, algorithm: Algorithm, config: TrainingConfig, schedule: Schedule, num_finals: int | None = None
) -> Replay:
    """Makes the memory of one run: a rollout buffer or a replay memory, as the algorithm requires."""
    if algorithm.data == "rollout":
        return rollout_buffer(spec, schedule.rollout_length, config.num_envs)
    size = schedule.replay_iterations, schedule.rollout_length, config.num_envs
    return uniform_replay(spec, *size, config.batch_size, num_finals=num_finals, n_steps=config.n_steps)


def draw(replay: Replay, storage: Any, key: jax.Array, start: EnvBatch, latest: EnvBatch, iterations: jax.Array) -> Any:
    """Draws training data from the memory, after `iterations` iterations, of which the last led from `start` to `latest`."""
    data = replay.sample(storage, key, latest.observation, iterations, *latest.shown)
    return data if start.hidden_state is None else data._replace(hidden_state=start.hidden_state)


def sample_shape(replay: Replay, storage: Any, key: Any, batch: EnvBatch) -> Any:
    """The shapes of a batch from the memory. The arguments are arrays or shapes."""
    return jax.eval_shape(partial(draw, replay), storage, key, batch, batch, jnp.ones((), jnp.int32))


def make_init(
    algorithm: Algorithm, replay: Replay, open_batch: Callable[[jax.Array], EnvBatch]
) -> Callable[[Config, jax.Array], RunState]:
    """Makes (algorithm config, key) -> initial state of one run; `open_batch` makes its environments from a key."""

    def init(algorithm_config: Config, key: jax.Array) -> RunState:
        learner_key, env_key, train_key, evaluation_key = jax.random.split(key, 4)
        learner_state = algorithm.init(algorithm_config, learner_key)
        env_batch = open_batch(env_key)
        env_batch = env_batch._replace(hidden_state=algorithm.hidden_state(algorithm_config, env_batch.observation.shape[:1]))
        storage = replay.init()
        batch = sample_shape(replay, storage, train_key, env_batch)
        _, metrics = jax.eval_shape(algorithm.update, algorithm_config, learner_state, batch, train_key)
        return RunState(
            key=train_key,
            evaluation_key=evaluation_key,
            learner_state=learner_state,
            env_batch=env_batch,
            replay=storage,
            sums=IntervalSums(
                episodes=no_episodes(env_batch.env_state.statistics),
                updates=jnp.zeros((), jnp.int32),
                update_metrics=jax.tree.map(lambda metric: jnp.zeros(metric.shape, jnp.float32), metrics),
            ),
            halt=no_halt(),
        )

    return init


def iteration_keys(state: RunState, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys for the rollout and for the updates of an iteration."""
    rollout_key, updates_key = jax.random.split(jax.random.fold_in(state.key, index))
    return rollout_key, updates_key


def make_learning(
    algorithm: Algorithm, replay: Replay, schedule: Schedule
) -> Callable[[Config, RunState, EnvBatch, Rollout, jax.Array], RunState]:
    """Makes (algorithm config, state, environments after the rollout, rollout, iteration number) -> state after the iteration.

    A run that halts in the iteration, or has halted before, keeps its state.
    """

    def learn(algorithm_config: Config, state: RunState, env_batch: EnvBatch, seen: Rollout, index: jax.Array) -> RunState:
        _, updates_key = iteration_keys(state, index)
        storage = replay.add(state.replay, seen.transitions, seen.truncated, index)

        def update(number: jax.Array, carry: tuple[LearnerState, Metrics]) -> tuple[LearnerState, Metrics]:
            learner_state, sums = carry
            sample_key, update_key = jax.random.split(jax.random.fold_in(updates_key, number))
            batch = draw(replay, storage, sample_key, state.env_batch, env_batch, index + 1)
            learner_state, metrics = algorithm.update(algorithm_config, learner_state, batch, update_key)
            return learner_state, jax.tree.map(jnp.add, sums, metrics)

        # All runs make the same number of updates. Warm-up is a shorter loop, and not a branch of which both sides would run.
        num_updates = jnp.where(index >= schedule.warmup_iterations, schedule.updates, 0)
        carry = (state.learner_state, state.sums.update_metrics)
        learner_state, metric_sums = jax.lax.fori_loop(0, num_updates, update, carry)
        sums = IntervalSums(
            episodes=jax.tree.map(jnp.add, state.sums.episodes, seen.finished),
            updates=state.sums.updates + num_updates,
            update_metrics=metric_sums,
        )
        halt = find_halt(state.halt, seen, state.learner_state, learner_state, index)
        # The replay memory is not restored, which would copy all of it. A halted run no longer learns from it.
        before, after = (state.learner_state, state.env_batch, state.sums), (learner_state, env_batch, sums)
        learner_state, env_batch, sums = keep_where(halt.happened, before, after)
        return RunState(state.key, state.evaluation_key, learner_state, env_batch, storage, sums, halt)

    return learn


def make_iteration(
    env: Environment,
    algorithm: Algorithm,
    learn: Callable[[Config, RunState, EnvBatch, Rollout, jax.Array], RunState],
    schedule: Schedule,
) -> Callable[[Config, RunState, jax.Array], RunState]:
    """Makes (algorithm config, state, iteration number) -> state after a rollout and the updates that follow."""

    def train_iteration(algorithm_config: Config, state: RunState, index: jax.Array) -> RunState:
        rollout_key, _ = iteration_keys(state, index)
        act = partial(algorithm.act, algorithm_config, state.learner_state)
        env_batch, seen = rollout(env, act, state.env_batch, rollout_key, schedule.rollout_length)
        return learn(algorithm_config, state, env_batch, seen, index)

    return train_iteration


def make_evaluation(
    env: Environment, algorithm: Algorithm, config: TrainingConfig
) -> Callable[[Config, RunState, jax.Array], dict[str, Evaluation]]:
    """Makes (algorithm config, state, iteration number) -> {"asked": Evaluation, "sampled": Evaluation}.

    "asked" uses `evaluation_policy`; "sampled" always samples actions.
    """

    def evaluate_run(algorithm_config: Config, state: RunState, index: jax.Array) -> dict[str, Evaluation]:
        learner_state = state.learner_state

        def play(key: jax.Array, sample: jax.Array) -> Evaluation:
            def choose(observation: jax.Array, key: jax.Array, action_mask: jax.Array | None, hidden: dict[str, Any]) -> Any:
                masks = () if action_mask is None else (action_mask,)
                sampled = algorithm.act(algorithm_config, learner_state, observation, key, *masks, **hidden)
                greedy = algorithm.greedy(algorithm_config, learner_state, observation, *masks, **hidden)
                return jax.tree.map(partial(jnp.where, sample), sampled, greedy)

            policy = as_policy(algorithm, algorithm_config, choose)
            return mean_over_episodes(play_episodes(env, policy, key, config.evaluation_episodes))

        keys = jax.random.split(jax.random.fold_in(state.evaluation_key, index))
        samples = jnp.array([config.evaluation_policy == "sampled", True])
        both = jax.vmap(play)(keys, samples)  # vmapped, which compiles the environment only once
        return {name: jax.tree.map(lambda leaf, k=k: leaf[k], both) for k, name in enumerate(("asked", "sampled"))}

    return evaluate_run


def mean_over_episodes(played: Episodes) -> Evaluation:
    """Means over a leading axis of episodes."""
    return Evaluation(played.episode_return.mean(0), {name: metric.mean() for name, metric in played.metrics.items()})


def summarize(evaluation: Mapping[str, Evaluation], sums: IntervalSums) -> dict[str, Any]:
    """The metrics of one run at an evaluation, from JAX or NumPy arrays.

    Returns:
        Returns per agent and episode (nan if no episode ended), task metrics of evaluation under `task/` and of training under
            `train_task/`, and the mean over the updates of each of the algorithm's metrics under its own name.
    """
    asked, finished = evaluation["asked"], sums.episodes
    return {
        "train_return": finished.episode_return.mean() / finished.episodes,
        "eval_return": asked.episode_return.mean(),
        "eval_return_sampled": evaluation["sampled"].episode_return.mean(),
        "eval_return_per_agent": asked.episode_return,
        **{f"task/{name}": value for name, value in asked.metrics.items()},
        **{f"train_task/{name}": value / finished.episodes for name, value in finished.metrics.items()},
        **{name: value / sums.updates for name, value in sums.update_metrics.items()},
    }


class RunPrograms(NamedTuple):
    """The training of one run as pure functions; `vectorized.make_runs` maps them over many runs.

    Attributes:
        init: (algorithm config, key) -> initial state.
        iteration: (algorithm config, state, iteration number) -> state after the iteration.
        evaluate: (algorithm config, state, iteration number) -> {"asked": Evaluation, "sampled": Evaluation}.
    """

    init: Callable[[Config, jax.Array], RunState]
    iteration: Callable[[Config, RunState, jax.Array], RunState]
    evaluate: Callable[[Config, RunState, jax.Array], dict[str, Evaluation]]


def make_run(env: Environment, algorithm: Algorithm, config: TrainingConfig, schedule: Schedule) -> RunPrograms:
    """The programs that train one run."""
    algorithm = algorithm._replace(update=jax.jit(algorithm.update))  # traced once for all its uses
    replay, playing = make_replay(env.spec, algorithm, config, schedule), with_episodes(env)
    return RunPrograms(
        init=make_init(algorithm, replay, lambda key: reset_batch(playing, key, config.num_envs)),
        iteration=make_iteration(playing, algorithm, make_learning(algorithm, replay, schedule), schedule),
        evaluate=make_evaluation(env, algorithm, config),
    )


def make_train(
    run: RunPrograms, schedule: Schedule, evaluations: int
) -> Callable[[jax.Array, Config], tuple[LearnerState, dict[str, jax.Array]]]:
    """Makes the whole of training as one function: (key, algorithm config) -> (learner state, metrics (evaluations, ...)).

    Args:
        run: result of `make_run`.
        schedule: schedule of the run.
        evaluations: number of evaluations, evenly spaced, the last one at the end.
    """
    ends = [round(schedule.total_iterations * number / evaluations) for number in range(evaluations + 1)]
    intervals = jnp.array(list(itertools.pairwise(ends)))

    def train(key: jax.Array, config: Config) -> tuple[LearnerState, dict[str, jax.Array]]:
        def interval(state: RunState, bounds: jax.Array) -> tuple[RunState, dict[str, jax.Array]]:
            first, last = bounds
            state = jax.lax.fori_loop(first, last, lambda index, state: run.iteration(config, state, index), state)
            return reset_sums(state), summarize(run.evaluate(config, state, last), state.sums)

        state, metrics = jax.lax.scan(interval, run.init(config, key), intervals)
        return state.learner_state, metrics

    return train
