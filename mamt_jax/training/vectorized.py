"""Many training runs as one program: vmapped over runs (seeds x hyperparameters) and sharded over the local devices."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from envs_jax.environment import Environment, EnvSpec
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.training.config import Schedule, TrainingConfig
from mamt_jax.training.evaluation import Evaluation, evaluate
from mamt_jax.training.nan_guard import Breakdown, find_breakdown, keep_where, no_breakdown
from mamt_jax.training.replay import Replay, uniform_replay
from mamt_jax.training.rollout import EnvBatch, EpisodeSums, Rollout, no_episodes, reset_batch, rollout, with_episodes
from mamt_jax.training.rollout_buffer import latest_rollout
from mamt_jax.types import Config, LearnerState, Metrics


@flax.struct.dataclass
class IntervalSums:
    """What a run summed up since its last evaluation.

    Attributes:
        episodes: sums over finished episodes.
        updates: () int32, updates made.
        update_metrics: sums over those updates, a dict of small arrays.
    """

    episodes: EpisodeSums
    updates: jax.Array
    update_metrics: Metrics


@flax.struct.dataclass
class RunState:
    """Everything of a run that changes, and its keys. Trained states have a leading axis of runs.

    Attributes:
        key: root of all draws in training; a round draws from this key and its own number.
        evaluation_key: root of all draws in evaluation.
        learner_state: the algorithm's.
        env_batch: where the environments stand.
        replay: storage of the memory that the algorithm learns from.
        sums: what is reported at the next evaluation.
        breakdown: whether it has stopped, and where.
    """

    key: jax.Array
    evaluation_key: jax.Array
    learner_state: LearnerState
    env_batch: EnvBatch
    replay: Any
    sums: IntervalSums
    breakdown: Breakdown


class Runs(NamedTuple):
    """The programs of training; every argument and result but the round numbers has a leading axis of runs.

    Attributes:
        init: (configs, keys) -> states.
        advance: (configs, states, first round, number of rounds) -> states. Donates `states`.
        evaluate: (configs, states, round) -> {"greedy": Evaluation, "sampled": Evaluation}.
        reset_sums: states -> states with nothing summed up. Donates `states`.
        sharding: how the axis of runs lies on the devices.
        begin: (states, rounds done) -> states with which `advance` can go on, called once before it.
        close: () -> None; what environments outside JAX take is given back.
    """

    init: jax.stages.Wrapped
    advance: Callable[..., RunState]
    evaluate: Callable[..., dict[str, Evaluation]]
    reset_sums: jax.stages.Wrapped
    sharding: NamedSharding
    begin: Callable[[RunState, int], RunState] = lambda states, rounds: states
    close: Callable[[], None] = lambda: None


def stack_configs(configs: Sequence[Config]) -> Config:
    """One config whose numeric leaves have a leading axis of runs; what is static must be the same in all."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *configs)


def run_keys(seeds: Sequence[int]) -> jax.Array:
    """One key a seed."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def make_runs(env: Environment, algorithm: Algorithm, config: TrainingConfig, schedule: Schedule, num_runs: int) -> Runs:
    """The programs that train `num_runs` runs side by side, jitted; `num_runs` is one that `padded_runs` gives."""
    env = with_episodes(env)
    replay = make_replay(env.spec, algorithm, config, schedule)
    learn = make_learning(algorithm, replay, schedule)
    init_run = make_init(algorithm, replay, lambda key: reset_batch(env, key, config.num_envs))
    train_round = make_round(env, algorithm, learn, schedule)
    evaluate_run = make_evaluation(env, algorithm, config)

    def advance(configs: Config, states: RunState, first: jax.Array, count: jax.Array) -> RunState:
        vectorised = jax.vmap(train_round, in_axes=(0, 0, None))
        return jax.lax.fori_loop(first, first + count, lambda index, states: vectorised(configs, states, index), states)

    sharding = runs_sharding(num_runs)
    return Runs(
        init=jit_init(init_run, sharding),
        advance=jax.jit(shard(advance, sharding, by_run=2, shared=2), donate_argnums=1),
        evaluate=jax.jit(shard(jax.vmap(evaluate_run, in_axes=(0, 0, None)), sharding, by_run=2, shared=1)),
        reset_sums=jax.jit(shard(reset_sums, sharding, by_run=1), donate_argnums=0, out_shardings=sharding),
        sharding=sharding,
    )


def jit_init(init_run: Callable[[Config, jax.Array], RunState], sharding: NamedSharding) -> jax.stages.Wrapped:
    """`Runs.init` from the `init` of one run; mapped one after another, it compiles in less time than vmapped.

    All it returns is sharded as what is read from a checkpoint, so that the programs compiled for one go on with the other.
    """
    init = partial(jax.lax.map, lambda run: init_run(*run))
    return jax.jit(shard(lambda configs, keys: init((configs, keys)), sharding, by_run=2), out_shardings=sharding)


def reset_sums(states: RunState) -> RunState:
    """The states with nothing summed up."""
    return dataclasses.replace(states, sums=jax.tree.map(jnp.zeros_like, states.sums))


def even_shares(num_runs: int, num_devices: int) -> tuple[int, int]:
    """How many devices take how many runs each: shares as small as can be, on no more devices than that takes."""
    share = math.ceil(num_runs / num_devices)
    return math.ceil(num_runs / share), share


def padded_runs(num_runs: int) -> int:
    """How many runs give every device as many."""
    return math.prod(even_shares(num_runs, len(jax.local_devices())))


def runs_sharding(num_runs: int) -> NamedSharding:
    """The axis of `padded_runs` runs over the local devices."""
    devices = jax.local_devices()
    used, _ = even_shares(num_runs, len(devices))
    return NamedSharding(Mesh(np.array(devices[:used]), ("runs",)), PartitionSpec("runs"))


def pad_runs(tree: Any, num_runs: int) -> Any:
    """Repeats the last run of a leading axis of runs until there are `num_runs`."""
    return jax.tree.map(lambda leaf: leaf[np.minimum(np.arange(num_runs), len(leaf) - 1)], tree)


def shard(function: Callable, sharding: NamedSharding, by_run: int, shared: int = 0) -> Callable:
    """`function`, whose first `by_run` arguments have an axis of runs and whose last `shared` have none, on all devices."""
    specs = (sharding.spec,) * by_run + (PartitionSpec(),) * shared
    return jax.shard_map(function, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec, check_vma=False)


def make_replay(
    spec: EnvSpec, algorithm: Algorithm, config: TrainingConfig, schedule: Schedule, num_finals: int | None = None
) -> Replay:
    """The memory of one run that gives the algorithm the data it wants."""
    if algorithm.data == "rollout":
        return latest_rollout(spec, schedule.vector_steps, config.num_envs)
    return uniform_replay(
        spec, schedule.replay_rounds, schedule.vector_steps, config.num_envs, config.batch_size, num_finals=num_finals
    )


def sample_shape(replay: Replay, storage: Any, key: Any, batch: EnvBatch) -> Any:
    """The shapes of what an algorithm learns from at once; arguments as `Replay.sample` and environments, arrays or shapes."""
    return jax.eval_shape(replay.sample, storage, key, batch.observation, jnp.ones((), jnp.int32), *batch.shown)


def make_init(
    algorithm: Algorithm, replay: Replay, open_batch: Callable[[jax.Array], EnvBatch]
) -> Callable[[Config, jax.Array], RunState]:
    """(algorithm config, key) -> the state in which one run starts; `open_batch` makes its environments from a key."""

    def init(algorithm_config: Config, key: jax.Array) -> RunState:
        learner_key, env_key, train_key, evaluation_key = jax.random.split(key, 4)
        learner_state = algorithm.init(algorithm_config, learner_key)
        env_batch = open_batch(env_key)
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
            breakdown=no_breakdown(),
        )

    return init


def round_keys(state: RunState, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys of a round's rollout and of its updates."""
    rollout_key, updates_key = jax.random.split(jax.random.fold_in(state.key, index))
    return rollout_key, updates_key


def make_learning(
    algorithm: Algorithm, replay: Replay, schedule: Schedule
) -> Callable[[Config, RunState, EnvBatch, Rollout, jax.Array], RunState]:
    """(algorithm config, state, environments after the rollout, rollout, round number) -> the state one round on.

    A run that breaks in the round, or has broken before, stays as it was.
    """

    def learn(algorithm_config: Config, state: RunState, env_batch: EnvBatch, seen: Rollout, index: jax.Array) -> RunState:
        _, updates_key = round_keys(state, index)
        storage = replay.add(state.replay, seen.transitions, seen.truncated, index)

        def update(number: jax.Array, carry: tuple[LearnerState, Metrics]) -> tuple[LearnerState, Metrics]:
            learner_state, sums = carry
            sample_key, update_key = jax.random.split(jax.random.fold_in(updates_key, number))
            batch = replay.sample(storage, sample_key, env_batch.observation, index + 1, *env_batch.shown)
            learner_state, metrics = algorithm.update(algorithm_config, learner_state, batch, update_key)
            return learner_state, jax.tree.map(jnp.add, sums, metrics)

        # The number of updates is the same in all runs, so that warm-up is a shorter loop and not a branch taken twice.
        num_updates = jnp.where(index >= schedule.warmup_rounds, schedule.updates, 0)
        carry = (state.learner_state, state.sums.update_metrics)
        learner_state, metric_sums = jax.lax.fori_loop(0, num_updates, update, carry)
        sums = IntervalSums(
            episodes=jax.tree.map(jnp.add, state.sums.episodes, seen.finished),
            updates=state.sums.updates + num_updates,
            update_metrics=metric_sums,
        )
        breakdown = find_breakdown(state.breakdown, seen, state.learner_state, learner_state, index)
        # But for the replay memory, which would be copied as a whole: nothing learns any more from that of a broken run.
        before, after = (state.learner_state, state.env_batch, state.sums), (learner_state, env_batch, sums)
        learner_state, env_batch, sums = keep_where(breakdown.happened, before, after)
        return RunState(state.key, state.evaluation_key, learner_state, env_batch, storage, sums, breakdown)

    return learn


def make_round(
    env: Environment,
    algorithm: Algorithm,
    learn: Callable[[Config, RunState, EnvBatch, Rollout, jax.Array], RunState],
    schedule: Schedule,
) -> Callable[[Config, RunState, jax.Array], RunState]:
    """(algorithm config, state, round number) -> the state one round on: a rollout into replay, then updates."""

    def train_round(algorithm_config: Config, state: RunState, index: jax.Array) -> RunState:
        rollout_key, _ = round_keys(state, index)
        act = partial(algorithm.act, algorithm_config, state.learner_state)
        env_batch, seen = rollout(env, act, state.env_batch, rollout_key, schedule.vector_steps)
        return learn(algorithm_config, state, env_batch, seen, index)

    return train_round


def make_evaluation(
    env: Environment, algorithm: Algorithm, config: TrainingConfig
) -> Callable[[Config, RunState, jax.Array], dict[str, Evaluation]]:
    """(algorithm config, state, round number) -> how the policies do now, greedy and sampled."""

    def evaluate_run(algorithm_config: Config, state: RunState, index: jax.Array) -> dict[str, Evaluation]:
        learner_state = state.learner_state

        def greedy(env_state: Any, observation: jax.Array, key: jax.Array, *masks: jax.Array) -> jax.Array:
            del env_state, key
            return algorithm.greedy(algorithm_config, learner_state, observation, *masks)

        def sampled(env_state: Any, observation: jax.Array, key: jax.Array, *masks: jax.Array) -> jax.Array:
            del env_state
            return algorithm.act(algorithm_config, learner_state, observation, key, *masks)

        greedy_key, sampled_key = jax.random.split(jax.random.fold_in(state.evaluation_key, index))
        return {
            "greedy": evaluate(env, greedy, greedy_key, config.evaluation_episodes),
            "sampled": evaluate(env, sampled, sampled_key, config.evaluation_episodes),
        }

    return evaluate_run
