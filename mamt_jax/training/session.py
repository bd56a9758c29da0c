"""A training session: its constants, its counters on the host, and what it saves and restores."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import HostEnvironment, make_timestep
from mamt_jax.training.best import describe_latest, rounding_of, save_better
from mamt_jax.training.checkpoint import load_checkpoint, newest_usable, read_record, save_checkpoint, to_numpy
from mamt_jax.training.console import Display
from mamt_jax.training.experiment import Built, Experiment
from mamt_jax.training.extension import record_length
from mamt_jax.training.films import film_best
from mamt_jax.training.host_training import Played, make_host_runs, make_rollout
from mamt_jax.training.initial import Parameters
from mamt_jax.training.learning_curve import plot_learning_curve
from mamt_jax.training.loggers import Logger
from mamt_jax.training.memory import MemoryPlan, num_bytes, temporary_bytes
from mamt_jax.training.nan_guard import HaltedAt, stack_halts
from mamt_jax.training.policies import Policy
from mamt_jax.training.references import Reference
from mamt_jax.training.rollout import act_in, no_episodes
from mamt_jax.training.rollout_buffer import rollout_buffer
from mamt_jax.training.run_folder import (
    BEST,
    CHECKPOINTS,
    CURVE,
    METRICS,
    FolderError,
    append_rows,
    cut_rows,
    quoted,
    read_rows,
    whole_file,
    writing,
)
from mamt_jax.training.trainer import RunState, make_replay, sample_shape
from mamt_jax.training.vectorized import Runs, make_runs, pad_runs, padded_runs, run_keys, stack_configs
from mamt_jax.types import Config

Callback = Callable[[list[dict[str, Any]], Callable[..., Policy]], bool | None]
"""(new rows of metrics.jsonl, one per run; `policy(run=0)`, which returns the policy of a run) -> False to end training."""
UNUSABLE = ".unusable"
BEFORE_END = "best_before_end.npz"
"""A copy of best.npz next to the checkpoints. It is made before an evaluation that takes place only because training ends."""
APART = {"replay": None, "halt": None}
"""Parts of a state that are saved in another form: only the filled part of the replay memory, and halts in the record."""


class Session(NamedTuple):
    """The constants of training.

    Attributes:
        experiment: the experiment that is trained.
        built: the objects that it describes.
        runs: the programs of training.
        configs: stacked algorithm configs, with a leading axis of runs, padded.
        keys: one key per run, padded.
        folder: folder of the results.
        references: returns of reference policies by name, for the learning curve.
        log: names of loggers.
        loggers: the open loggers, during training.
        initial: initial parameters of the runs, if they are not random.
        callback: function to call after every evaluation.
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
    callback: Callback | None = None


class Counters(NamedTuple):
    """The counters of training on the host.

    Attributes:
        iterations: iterations done, the same in all runs.
        episodes: episodes finished, one number per run.
        wall_seconds: duration of training over all sessions, in seconds.
        halts: where each run halted; None if it has not halted.
        evaluated: iterations at the evaluation after which the present sums begin.
        unwritten: rows that could not be written to metrics.jsonl yet.
        ended: whether the callback has asked to end training.
    """

    iterations: int
    episodes: tuple[int, ...]
    wall_seconds: float
    halts: tuple[HaltedAt | None, ...]
    evaluated: int = 0
    unwritten: tuple[dict[str, Any], ...] = ()
    ended: bool = False


def open_session(
    experiment: Experiment, built: Built, folder: Path, references: Mapping[str, Reference], log: Sequence[str] = ()
) -> Session:
    """Prepares training without compiling or taking memory for it.

    The last run is repeated until all devices have the same number of runs.
    """
    num_runs = padded_runs(len(experiment.runs))
    rest = (built.algorithm, experiment.training, built.schedule, num_runs)
    runs = make_host_runs(built.env, *rest) if isinstance(built.env, HostEnvironment) else make_runs(built.env, *rest)
    wanted = stack_configs(built.configs), run_keys([run["seed"] for run in experiment.runs])
    configs, keys = jax.device_put(pad_runs(wanted, num_runs), runs.sharding)
    return Session(experiment, built, runs, configs, keys, folder, references, tuple(log))


def state_shapes(session: Session) -> RunState:
    """The shapes and shardings of all states."""

    def placed(sharding: jax.sharding.Sharding, states: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=leaf.weak_type), states
        )

    states = jax.eval_shape(session.runs.init, session.configs, session.keys)
    return jax.tree.map(placed, session.runs.state_sharding, states)


def plan_memory(session: Session) -> MemoryPlan:
    """The memory plan of training: states, environments of an evaluation, a rollout, and the temporary memory of an update."""
    states = jax.eval_shape(session.runs.init, session.configs, session.keys)
    num_runs = len(session.keys)
    parts = (states.replay, states.learner_state, states.env_batch)
    config, state = jax.eval_shape(partial(jax.tree.map, lambda leaf: leaf[0]), (session.configs, states))
    built = session.built
    replay = make_replay(built.env.spec, built.algorithm, session.experiment.training, built.schedule)
    batch = sample_shape(replay, jax.eval_shape(replay.init), state.key, state.env_batch)
    update = jax.jit(built.algorithm.update).trace(config, state.learner_state, batch, state.key)  # as in `make_run`
    temporary = num_bytes(batch) + temporary_bytes(update.jaxpr.jaxpr)
    replay_bytes, learner, environments = (num_bytes(part) // num_runs for part in parts)
    if not isinstance(built.env, HostEnvironment):
        training = session.experiment.training
        environments += 2 * environments * training.evaluation_episodes // training.num_envs
    seen = num_bytes(rollout_shape(built, config, state))
    return MemoryPlan(replay_bytes, learner, environments, rollout=seen, update=temporary, num_runs=num_runs)


def rollout_shape(built: Built, config: Config, state: RunState) -> Any:
    """The shapes of all data that one run collects in an iteration before it learns.

    Args:
        built: the environment, the algorithm and the schedule.
        config: config of one run, as arrays or shapes.
        state: state of one run, as arrays or shapes.
    """
    env, num_steps, act = built.env, built.schedule.rollout_length, built.algorithm.act

    def stacked(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_steps, *leaf.shape), leaf.dtype)

    observation = state.env_batch.observation
    if not isinstance(env, HostEnvironment):
        statistics = state.env_batch.env_state.statistics
        seen = jax.eval_shape(rollout_buffer(env.spec, num_steps, len(observation)).init)
        return seen, jax.eval_shape(no_episodes, statistics), jax.tree.map(stacked, statistics)
    metrics = dict.fromkeys(env.metrics, jnp.zeros(()))
    timestep = jax.eval_shape(jax.vmap(lambda seen: make_timestep(env.spec, seen, metrics=metrics)), observation)
    action, hidden_state = jax.eval_shape(
        lambda config, state: act_in(partial(act, config, state.learner_state), state.env_batch, state.key), config, state
    )
    played = jax.tree.map(stacked, Played(observation, state.env_batch.action_mask, action, timestep, hidden_state))
    return played, jax.eval_shape(partial(make_rollout, env.spec), state, played)


def write_rows(session: Session, counters: Counters, display: Display) -> Counters:
    """Appends the unwritten rows to metrics.jsonl; if the disk is full, they stay unwritten."""
    try:
        append_rows(session.folder / METRICS, counters.unwritten)
    except OSError as error:
        display.note(
            f"{session.folder / METRICS} cannot be written ({error.strerror}). "
            "Training continues, and the rows are written later."
        )
        return counters
    return counters._replace(unwritten=())


def log_rows(session: Session, rows: Sequence[dict[str, Any]], display: Display) -> None:
    """Passes rows to the loggers; a full disk does not end training."""
    try:
        for logger in session.loggers:
            logger.write(rows)
    except OSError as error:
        display.note(f"Metrics cannot be logged ({error.strerror}). They are in {METRICS}, and training continues.")


def show_curve(session: Session, counters: Counters, display: Display) -> None:
    """Passes the learning curve, which shows all runs, to the loggers as a picture of the first run."""
    show_pictures(session, "learning_curve", [(0, session.folder / CURVE)], counters, display)


def show_films(session: Session, counters: Counters, display: Display) -> None:
    """Films the best policies for the loggers, if there are any."""
    if session.loggers:
        display.doing("filming the best policies")
        films = film_best(session.experiment, session.built, session.folder)
        show_pictures(session, "film", films, counters, display)


def show_pictures(
    session: Session, name: str, pictures: Iterable[tuple[int, Path]], counters: Counters, display: Display
) -> None:
    """Passes pictures to the loggers. Neither a failing logger nor a failing drawing ends training.

    Args:
        session: the session, with its loggers.
        name: name of the pictures.
        pictures: pairs of the number of a run and a file.
        counters: counters at the time of the pictures.
        display: where failures are printed.
    """
    env_steps = session.built.schedule.env_steps(counters.iterations)
    try:
        for run, path in pictures:
            for logger in session.loggers:
                logger.show(run, name, path, env_steps)
    except Exception as error:  # the `scene` of an environment may raise any exception
        reason = str(error).partition("\n")[0] or type(error).__name__
        display.note(f"A picture ({name}) cannot be drawn or logged ({reason}). Training is not affected.")


def keep_best(session: Session, states: RunState, rows: list[dict[str, Any]], display: Display) -> None:
    """Saves the policies that have the highest return so far; a full disk does not end training."""
    path, policies = session.folder / BEST, session.built.algorithm.policy(states.learner_state)
    rounding = [rounding_of(row["eval_return_per_agent"]) for row in rows]
    try:
        save_better(path, policies, [row["eval_return"] for row in rows], rows[0]["env_steps"], rounding)
    except OSError as error:
        display.note(
            f"The best policies cannot be saved ({error.strerror}). The existing file is unchanged, and training continues."
        )


def hold_best(session: Session, display: Display) -> None:
    """Copies best.npz for a longer run, which continues from the copy; a full disk does not end training."""
    best = session.folder / BEST
    if not best.exists():
        return
    try:
        with whole_file(session.folder / CHECKPOINTS / BEFORE_END) as file:
            file.write(best.read_bytes())
    except OSError as error:
        display.note(f"{BEFORE_END} cannot be written ({error.strerror}). Training continues.")


def save(session: Session, states: RunState, counters: Counters) -> Counters:
    """Writes a checkpoint without padding or the empty part of the replay memory, and draws the learning curve.

    Unwritten rows are written first, because metrics.jsonl must hold all rows from before a checkpoint.
    """
    append_rows(session.folder / METRICS, counters.unwritten)
    counters = counters._replace(unwritten=())
    num_runs, filled = len(session.experiment.runs), min(counters.iterations, session.built.schedule.replay_iterations)
    replay = jax.tree.map(lambda leaf: np.asarray(leaf)[:num_runs, :filled], states.replay)
    rest = jax.tree.map(lambda leaf: to_numpy(leaf)[:num_runs], dataclasses.replace(states, **APART))
    record = {name: value for name, value in counters._asdict().items() if name not in ("unwritten", "ended")}
    save_checkpoint(session.folder / CHECKPOINTS, counters.iterations, dataclasses.replace(rest, replay=replay), record)
    plot_learning_curve(session.folder, session.folder / CURVE)
    return counters


def save_or_warn(session: Session, states: RunState, counters: Counters, display: Display) -> Counters:
    """Runs `save` and passes the learning curve to the loggers; a full disk does not end training."""
    try:
        counters = save(session, states, counters)
        show_curve(session, counters, display)
    except OSError as error:
        display.note(
            f"{session.folder} cannot be written at iteration {counters.iterations} ({error.strerror}). "
            "Existing files are unchanged, and training continues."
        )
    return counters


def finish(session: Session, states: RunState, counters: Counters, display: Display) -> None:
    """Writes the last checkpoint, passes pictures to the loggers, and reports best policies that are only the latest.

    Raises FolderError if the checkpoint cannot be written.
    """
    try:
        counters = save(session, states, counters)
    except OSError as error:
        raise FolderError(
            f"The last checkpoint cannot be written to {session.folder} ({error.strerror}). Earlier checkpoints are unchanged. "
            f"Free disk space, then continue with --resume {quoted(session.folder)}."
        ) from error
    for sentence in describe_latest(read_rows(session.folder / METRICS)):
        display.note(sentence)
    show_curve(session, counters, display)
    show_films(session, counters, display)


def restore(session: Session, display: Display) -> tuple[RunState, Counters]:
    """Restores states and counters from the newest usable checkpoint, and removes later rows of metrics.jsonl.

    Newer checkpoints that cannot be used are reported and renamed. If training continues beyond an earlier end, config.json
    records it, and the results of the evaluation that took place only at that end are removed.
    """
    path, (states, counters), refused = newest_usable(session.folder / CHECKPOINTS, partial(read_states, session))
    schedule = session.built.schedule
    with writing(session.folder):
        record_length(session.folder, session.experiment, schedule)
        for other, error in refused.items():
            aside = other.rename(other.with_suffix(UNUSABLE))
            display.note(f"{error} It was renamed to {aside.name}. Training continues from {path.name}.")
        before_end = session.folder / CHECKPOINTS / BEFORE_END
        if counters.iterations < schedule.total_iterations and before_end.exists():
            before_end.replace(session.folder / BEST)
        kept = counters.evaluated if counters.iterations < schedule.total_iterations else counters.iterations
        cut_rows(session.folder / METRICS, schedule.env_steps(kept))
    return jax.device_put(pad_runs(states, len(session.keys)), session.runs.state_sharding), counters


def read_states(session: Session, path: Path) -> tuple[RunState, Counters]:
    """Reads unpadded states and counters from the checkpoint at `path`; raises CheckpointError if it cannot be used."""
    record = read_record(path)
    num_runs = len(session.experiment.runs)
    halted = [None if pair is None else HaltedAt(*pair) for pair in record.get("halts", [None] * num_runs)]
    iterations = record["iterations"]
    evaluated = record.get("evaluated", iterations)
    counters = Counters(iterations, tuple(record["episodes"]), record["wall_seconds"], tuple(halted), evaluated)
    filled = min(counters.iterations, session.built.schedule.replay_iterations)
    shapes = jax.eval_shape(session.runs.init, session.configs, session.keys)

    def unpadded(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_runs, *shape.shape[1:]), shape.dtype)

    def shorten(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_runs, filled, *shape.shape[2:]), shape.dtype)

    def lengthen(leaf: np.ndarray, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        whole = np.zeros((num_runs, *shape.shape[1:]), shape.dtype)
        whole[:, :filled] = leaf
        return whole

    like = jax.tree.map(unpadded, dataclasses.replace(shapes, **APART))
    states, _ = load_checkpoint(path, dataclasses.replace(like, replay=jax.tree.map(shorten, shapes.replay)))
    replay = jax.tree.map(lengthen, states.replay, shapes.replay)
    return dataclasses.replace(states, replay=replay, halt=stack_halts(counters.halts)), counters
