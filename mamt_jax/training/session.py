"""What a training session is made of: what stays the same, what the host counts, and what it will take."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.environment import HostEnvironment, make_timestep
from mamt_jax.training.experiment import Built, Experiment
from mamt_jax.training.host_training import Played, make_host_runs, make_rollout
from mamt_jax.training.initial import Parameters
from mamt_jax.training.loggers import Logger
from mamt_jax.training.memory import MemoryPlan, num_bytes, temporary_bytes
from mamt_jax.training.nan_guard import HaltedAt
from mamt_jax.training.references import Reference
from mamt_jax.training.rollout import rollout, with_episodes
from mamt_jax.training.trainer import RunState, make_replay, sample_shape
from mamt_jax.training.vectorized import Runs, make_runs, pad_runs, padded_runs, run_keys, stack_configs
from mamt_jax.types import Config


class Session(NamedTuple):
    """What stays the same throughout training.

    Attributes:
        experiment: what is trained.
        built: the things it describes.
        runs: the programs.
        configs: stacked algorithm configs, leading axis of runs, padded.
        keys: one a run, padded.
        folder: where results go.
        references: what reference policies earn, by name, for the learning curve.
        log: names of loggers.
        loggers: those loggers, while training lasts.
        initial: parameters from which runs begin, if not from random ones.
    """

    experiment: Experiment
    built: Built
    runs: Runs
    configs: Config
    keys: jax.Array
    folder: Path
    references: Mapping[str, Reference]
    log: tuple[str, ...] = ()
    loggers: tuple[Logger, ...] = ()
    initial: Parameters | None = None


class Counters(NamedTuple):
    """What the host counts.

    Attributes:
        iterations: iterations done, the same in all runs.
        episodes: episodes finished, one number a run.
        wall_seconds: time spent, over all sessions.
        halts: where each run halted, None for one that goes on.
        evaluated: iterations done at the evaluation from which on sums are made.
        unwritten: rows of metrics.jsonl for which there was no room yet.
    """

    iterations: int
    episodes: tuple[int, ...]
    wall_seconds: float
    halts: tuple[HaltedAt | None, ...]
    evaluated: int = 0
    unwritten: tuple[dict[str, Any], ...] = ()


def open_session(
    experiment: Experiment, built: Built, folder: Path, references: Mapping[str, Reference], log: Sequence[str] = ()
) -> Session:
    """Prepares training without taking memory for it or compiling; the last run is repeated until all devices have as many."""
    num_runs = padded_runs(len(experiment.runs))
    rest = (built.algorithm, experiment.training, built.schedule, num_runs)
    runs = make_host_runs(built.env, *rest) if isinstance(built.env, HostEnvironment) else make_runs(built.env, *rest)
    wanted = stack_configs(built.configs), run_keys([run["seed"] for run in experiment.runs])
    configs, keys = jax.device_put(pad_runs(wanted, num_runs), runs.sharding)
    return Session(experiment, built, runs, configs, keys, folder, references, tuple(log))


def plan_memory(session: Session) -> MemoryPlan:
    """What training will take: its states, the environments of an evaluation, a rollout, and an update while it lasts."""
    states = jax.eval_shape(session.runs.init, session.configs, session.keys)
    num_runs = len(session.keys)
    parts = (states.replay, states.learner_state, states.env_batch)
    config, state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (session.configs, states))
    built = session.built
    replay = make_replay(built.env.spec, built.algorithm, session.experiment.training, built.schedule)
    batch = sample_shape(replay, jax.eval_shape(replay.init), state.key, state.env_batch)
    update = jax.make_jaxpr(built.algorithm.update)(config, state.learner_state, batch, state.key)
    temporary = num_bytes(batch) + temporary_bytes(update.jaxpr)
    replay_bytes, learner, environments = (num_bytes(part) // num_runs for part in parts)
    if not isinstance(built.env, HostEnvironment):
        training = session.experiment.training
        environments += environments * training.evaluation_episodes // training.num_envs
    seen = num_bytes(rollout_shape(built, config, state))
    return MemoryPlan(replay_bytes, learner, environments, rollout=seen, update=temporary, num_runs=num_runs)


def rollout_shape(built: Built, config: Config, state: RunState) -> Any:
    """The shapes of all that an iteration of one run stacks before it learns.

    Args:
        built: the environment, the algorithm and the schedule.
        config: of one run, arrays or shapes.
        state: of one run, arrays or shapes.
    """
    env, num_steps, act = built.env, built.schedule.rollout_length, built.algorithm.act

    def stacked(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_steps, *leaf.shape), leaf.dtype)

    if not isinstance(env, HostEnvironment):
        own = with_episodes(env)
        _, seen = jax.eval_shape(
            lambda config, state: rollout(
                own, partial(act, config, state.learner_state), state.env_batch, state.key, num_steps
            ),
            config,
            state,
        )
        return seen, jax.tree.map(stacked, state.env_batch.env_state.statistics)
    observation = state.env_batch.observation
    metrics = dict.fromkeys(env.metrics, jnp.zeros(()))
    timestep = jax.eval_shape(jax.vmap(lambda seen: make_timestep(env.spec, seen, metrics=metrics)), observation)
    action = jax.eval_shape(act, config, state.learner_state, observation, state.key, *state.env_batch.shown)
    played = jax.tree.map(stacked, Played(observation, state.env_batch.action_mask, action, timestep))
    return played, jax.eval_shape(partial(make_rollout, env.spec), state, played)
