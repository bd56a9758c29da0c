"""The host loop: slices of compiled training, and between them evaluation, checkpoints, progress and signals."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from envs_jax.environment import HostEnvironment
from mamt_jax.training.best import policy_leaves, policy_part, save_better
from mamt_jax.training.breakdown import (
    BreakdownError,
    Broken,
    describe_breakdown,
    read_breakdowns,
    stack_breakdowns,
    stopped_at,
)
from mamt_jax.training.checkpoint import CheckpointError, load_checkpoint, newest_usable, read_record, save_checkpoint, to_numpy
from mamt_jax.training.experiment import Built, Experiment
from mamt_jax.training.host_runs import make_host_runs
from mamt_jax.training.interrupt import deferred_signals
from mamt_jax.training.learning_curve import draw_learning_curve
from mamt_jax.training.loggers import LOGGERS, Logger
from mamt_jax.training.memory import MemoryPlan, num_bytes, temporary_bytes
from mamt_jax.training.progress import Display, duration
from mamt_jax.training.report import STOPPED, make_rows
from mamt_jax.training.runs import (
    Runs,
    RunState,
    make_replay,
    make_runs,
    pad_runs,
    padded_runs,
    run_keys,
    sample_shape,
    stack_configs,
)
from mamt_jax.training.writers import BEST, CHECKPOINTS, CURVE, METRICS, FolderError, append_rows, cut_rows, read_rows, writing
from mamt_jax.types import Config

SLICE_SECONDS = 5.0
"""How long a slice of training should take: what Ctrl-C waits for."""
UNUSABLE = ".unusable"
APART = {"replay": None, "breakdown": None}
"""Of a state, what is not saved as it is: the filled part of the memory alone, and breakdowns in the record."""


class Session(NamedTuple):
    """What stays the same throughout training.

    Attributes:
        experiment: what is trained.
        built: the things it describes.
        runs: the programs.
        configs: stacked algorithm configs, leading axis of runs, padded.
        keys: one a run, padded.
        folder: where results go.
        references: name -> return of reference policies, for the learning curve.
        policy_leaves: which leaves of a learner state are the policy's.
        log: names of loggers.
        loggers: those loggers, while training lasts.
    """

    experiment: Experiment
    built: Built
    runs: Runs
    configs: Config
    keys: jax.Array
    folder: Path
    references: Mapping[str, float]
    policy_leaves: Any
    log: tuple[str, ...] = ()
    loggers: tuple[Logger, ...] = ()


class Counters(NamedTuple):
    """What the host counts.

    Attributes:
        rounds: rounds done, the same in all runs.
        episodes: episodes finished, one number a run.
        wall_seconds: time spent, over all sessions.
        breakdowns: where each run broke, None for one that goes on.
        unwritten: rows of metrics.jsonl for which there was no room yet.
    """

    rounds: int
    episodes: tuple[int, ...]
    wall_seconds: float
    breakdowns: tuple[Broken | None, ...]
    unwritten: tuple[dict[str, Any], ...] = ()


class Programs(NamedTuple):
    """Compiled `Runs.evaluate` and `Runs.advance`."""

    evaluate: Callable[..., Any]
    advance: Callable[..., RunState]


def open_session(
    experiment: Experiment, built: Built, folder: Path, references: Mapping[str, float], log: Sequence[str] = ()
) -> Session:
    """Prepares training without taking memory for it or compiling; the last run is repeated until all devices have as many."""
    num_runs = padded_runs(len(experiment.runs))
    rest = (built.algorithm, experiment.training, built.schedule, num_runs)
    runs = make_host_runs(built.env, *rest) if isinstance(built.env, HostEnvironment) else make_runs(built.env, *rest)
    wanted = stack_configs(built.configs), run_keys([run["seed"] for run in experiment.runs])
    configs, keys = jax.device_put(pad_runs(wanted, num_runs), runs.sharding)
    learner_state = jax.eval_shape(built.algorithm.init, built.configs[0], jax.eval_shape(jax.random.key, 0))
    leaves = policy_leaves(built.algorithm, built.env.spec, built.configs[0], learner_state)
    return Session(experiment, built, runs, configs, keys, folder, references, leaves, tuple(log))


def plan_memory(session: Session) -> MemoryPlan:
    """What the states of training will take, the environments of an evaluation, and an update while it lasts."""
    states = jax.eval_shape(session.runs.init, session.configs, session.keys)
    num_runs = len(session.keys)
    parts = (states.replay, states.learner_state, states.env_batch)
    config, state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (session.configs, states))
    built = session.built
    replay = make_replay(built.env.spec, built.algorithm, session.experiment.training, built.schedule)
    batch = sample_shape(replay, jax.eval_shape(replay.init), state.key, state.env_batch.observation)
    update = jax.make_jaxpr(built.algorithm.update)(config, state.learner_state, batch, state.key)
    temporary = num_bytes(batch) + temporary_bytes(update.jaxpr)
    replay_bytes, learner, environments = (num_bytes(part) // num_runs for part in parts)
    if not isinstance(built.env, HostEnvironment):
        training = session.experiment.training
        environments += environments * training.evaluation_episodes // training.num_envs
    return MemoryPlan(replay_bytes, learner, environments, update=temporary, num_runs=num_runs)


def train(session: Session, console: Console, resume: bool = False) -> int | None:
    """Trains to the end, or until Ctrl-C or SIGTERM, and leaves a checkpoint.

    Args:
        session: what to train; its folder exists and holds config.json.
        console: where progress goes.
        resume: go on from the folder's latest checkpoint.

    Returns:
        None when training is over, else the number of the signal that stopped it.

    Raises:
        BreakdownError: all runs broke; there is nothing left to train.
        CheckpointError: there is no checkpoint to resume from that can be used.
        FolderError: the folder cannot be written at the end, or at the start of what is resumed.
        HostError: an environment outside JAX broke.
    """
    schedule, training = session.built.schedule, session.experiment.training

    def announce(number: int) -> None:
        display.note(f"Signal {number}: stopping after the work in hand, with a checkpoint. Once more stops at once.")

    with ExitStack() as stack:
        stack.callback(session.runs.close)
        display = stack.enter_context(Display(console, training.episodes))
        stopped = stack.enter_context(deferred_signals(announce))
        began = time.monotonic()
        states, counters = restore(session, display) if resume else begin(session, display)
        session = session._replace(loggers=open_loggers(session, stack))
        started = began - counters.wall_seconds
        evaluate = compile_program(display, "evaluation", session.runs.evaluate, session.configs, states, 0, effort=1)
        if not resume:
            counters = counters._replace(wall_seconds=time.monotonic() - started)
            states, counters = report(session, evaluate, states, counters, display)
            counters = save_or_warn(session, states, counters, display)
        if counters.rounds < schedule.total_rounds and not stopped():
            advance = compile_program(display, "training", session.runs.advance, session.configs, states, 0, 1)
            programs, states = Programs(evaluate, advance), session.runs.begin(states, counters.rounds)
            states, counters = work(session, programs, states, counters, display, started, stopped)
        finish(session, states, counters)
    if all(counters.breakdowns):
        raise BreakdownError(f"All runs have stopped. {' '.join(sentences(session, counters.breakdowns))}")
    return stopped()


def sentences(session: Session, breakdowns: Iterable[Broken | None]) -> list[str]:
    """One for each run that broke."""
    runs = enumerate(zip(session.experiment.runs, breakdowns, strict=True))
    schedule = session.built.schedule
    return [describe_breakdown(number, run["seed"], broken, schedule) for number, (run, broken) in runs if broken]


def open_loggers(session: Session, stack: ExitStack) -> tuple[Logger, ...]:
    """The session's loggers, which the stack will close; restore what was before, first."""
    loggers = tuple(LOGGERS[name](session.folder, session.experiment) for name in session.log)
    for logger in loggers:
        stack.callback(logger.close)
    return loggers


def begin(session: Session, display: Display) -> tuple[RunState, Counters]:
    """The states in which all runs start."""
    init = compile_program(display, "the initial state", session.runs.init, session.configs, session.keys, effort=0)
    states = init(session.configs, session.keys)
    num_runs = len(session.experiment.runs)
    return states, Counters(rounds=0, episodes=(0,) * num_runs, wall_seconds=0.0, breakdowns=(None,) * num_runs)


def work(
    session: Session,
    programs: Programs,
    states: RunState,
    counters: Counters,
    display: Display,
    started: float,
    stopped: Callable[[], int | None],
) -> tuple[RunState, Counters]:
    """Slice after slice until the last round or a signal; no further where all runs have broken, which counts as the end.

    `started` is the clock's reading at wall second 0.
    """
    schedule, training = session.built.schedule, session.experiment.training
    seconds_per_round, saved = None, time.monotonic()
    while counters.rounds < schedule.total_rounds and not stopped():
        began = time.monotonic()
        count = slice_rounds(session, counters.rounds, seconds_per_round)
        states = jax.block_until_ready(programs.advance(session.configs, states, counters.rounds, count))
        if counters.rounds >= schedule.warmup_rounds:
            seconds_per_round = (time.monotonic() - began) / count
            show_pace(session, display, counters.rounds + count, seconds_per_round)
        counters = counters._replace(rounds=counters.rounds + count, wall_seconds=time.monotonic() - started)
        counters = look_after(session, states, counters, display)
        if is_evaluation(session, counters.rounds):
            states, counters = report(session, programs.evaluate, states, counters, display)
        if time.monotonic() - saved >= 60 * training.checkpoint_minutes:
            counters = save_or_warn(session, states, counters, display)
            saved = time.monotonic()
    return states, counters


def look_after(session: Session, states: RunState, counters: Counters, display: Display) -> Counters:
    """Says which runs have broken since the last time; where all have, training is over."""
    breakdowns = read_breakdowns(states.breakdown, len(session.experiment.runs))
    new = [None if before else broken for before, broken in zip(counters.breakdowns, breakdowns, strict=True)]
    for sentence in sentences(session, new):
        display.note(sentence)
    rounds = session.built.schedule.total_rounds if all(breakdowns) else counters.rounds
    return counters._replace(rounds=rounds, breakdowns=breakdowns)


def is_evaluation(session: Session, rounds: int) -> bool:
    """Whether an evaluation is due after `rounds`."""
    schedule = session.built.schedule
    return rounds % schedule.evaluation_rounds == 0 or rounds == schedule.total_rounds


def slice_rounds(session: Session, rounds: int, seconds_per_round: float | None) -> int:
    """How many rounds to do at once: never past the end of warm-up or the next evaluation."""
    schedule = session.built.schedule
    wanted = 1 if seconds_per_round is None else max(1, int(SLICE_SECONDS / seconds_per_round))
    if rounds < schedule.warmup_rounds:
        wanted = schedule.warmup_rounds - rounds
    to_evaluation = schedule.evaluation_rounds - rounds % schedule.evaluation_rounds
    return min(wanted, to_evaluation, schedule.total_rounds - rounds)


def show_pace(session: Session, display: Display, rounds: int, seconds_per_round: float) -> None:
    """Tells the display how far training is and how fast it goes."""
    schedule, num_runs = session.built.schedule, len(session.experiment.runs)
    episodes = session.experiment.training.episodes * rounds // schedule.total_rounds
    display.advanced(
        episodes, schedule.updates * num_runs / seconds_per_round, seconds_per_round * (schedule.total_rounds - rounds)
    )


def report(
    session: Session, evaluate: Callable[..., Any], states: RunState, counters: Counters, display: Display
) -> tuple[RunState, Counters]:
    """Evaluates, writes rows, shows them, and starts the next interval."""
    rounds = counters.rounds
    finished = np.asarray(states.sums.episodes.episodes)[: len(session.experiment.runs)]
    counters = counters._replace(episodes=tuple(int(a + b) for a, b in zip(counters.episodes, finished, strict=True)))
    heads = [row_head(session, counters, run) for run in range(len(finished))]
    rows = make_rows(heads, evaluate(session.configs, states, rounds), states.sums)
    for logger in session.loggers:
        logger.write(rows)
    keep_best(session, states, rows, display)
    display.evaluated(rows)
    counters = write_rows(session, counters._replace(unwritten=(*counters.unwritten, *rows)), display)
    return session.runs.reset_sums(states), counters


def keep_best(session: Session, states: RunState, rows: list[dict[str, Any]], display: Display) -> None:
    """Saves the policies that have just done better than ever; neither a full disk nor a damaged file ends training."""
    path, policies = session.folder / BEST, policy_part(states.learner_state, session.policy_leaves)
    try:
        save_better(path, policies, [row["eval_return"] for row in rows], rows[0]["env_steps"])
    except OSError as error:
        display.note(f"The best policies cannot be saved ({error.strerror}); the file before is untouched, training goes on.")
    except CheckpointError as error:
        path.rename(path.with_suffix(".damaged"))
        display.note(
            f"{error} It is put aside as {path.stem}.damaged, and the best policies are kept from the next evaluation on."
        )


def row_head(session: Session, counters: Counters, run: int) -> dict[str, Any]:
    """How a run's row of metrics.jsonl begins."""
    schedule, broken = session.built.schedule, counters.breakdowns[run]
    return {
        "run": run,
        "seed": session.experiment.runs[run]["seed"],
        "env_steps": schedule.env_steps(counters.rounds),
        "episodes": counters.episodes[run],
        "updates": schedule.num_updates(broken.round if broken else counters.rounds),
        "wall_seconds": round(counters.wall_seconds, 3),
        **({STOPPED: stopped_at(broken, schedule)} if broken else {}),
    }


def write_rows(session: Session, counters: Counters, display: Display) -> Counters:
    """Adds what is unwritten to metrics.jsonl; on a full disk it stays unwritten."""
    try:
        append_rows(session.folder / METRICS, counters.unwritten)
    except OSError as error:
        display.note(f"{session.folder / METRICS} cannot be written ({error.strerror}); its rows wait, training goes on.")
        return counters
    return counters._replace(unwritten=())


def compile_program(
    display: Display, name: str, program: Any, *arguments: Any, effort: int | None = None
) -> Callable[..., Any]:
    """Compiles ahead of time and says how long it took.

    Args:
        display: where to say it.
        name: of the program, for people.
        program: a jitted function; one that the host runs compiles its parts when it comes to them.
        *arguments: what it will be called with.
        effort: XLA's optimisation level. What runs once or seldom need not be optimised: MAMT's initial state then compiles in
            a third of the time.
    """
    if not hasattr(program, "lower"):
        return program
    display.doing(f"compiling {name}")
    began = time.monotonic()
    options = {} if effort is None else {"xla_backend_optimization_level": effort}
    compiled = program.lower(*arguments).compile(compiler_options=options)
    display.note(f"compiled {name} in {duration(time.monotonic() - began)}")
    return compiled


def save(session: Session, states: RunState, counters: Counters) -> Counters:
    """Writes a checkpoint, no padding and the filled part of the replay memory alone, and draws the learning curve.

    The rows that wait go first: what a checkpoint is later than must be in metrics.jsonl.
    """
    append_rows(session.folder / METRICS, counters.unwritten)
    counters = counters._replace(unwritten=())
    num_runs, filled = len(session.experiment.runs), min(counters.rounds, session.built.schedule.replay_rounds)
    replay = jax.tree.map(lambda leaf: np.asarray(leaf)[:num_runs, :filled], states.replay)
    rest = jax.tree.map(lambda leaf: to_numpy(leaf)[:num_runs], dataclasses.replace(states, **APART))
    record = {name: value for name, value in counters._asdict().items() if name != "unwritten"}
    save_checkpoint(session.folder / CHECKPOINTS, counters.rounds, dataclasses.replace(rest, replay=replay), record)
    title = f"{session.built.env.spec.name} · {session.experiment.algo}"
    rows = read_rows(session.folder / METRICS)
    draw_learning_curve(session.folder / CURVE, title, rows, session.experiment.labels, session.references)
    return counters


def save_or_warn(session: Session, states: RunState, counters: Counters, display: Display) -> Counters:
    """`save`, but a full disk does not end training."""
    try:
        return save(session, states, counters)
    except OSError as error:
        display.note(
            f"{session.folder} cannot be written at round {counters.rounds} ({error.strerror}); "
            "what is there is untouched, training goes on."
        )
        return counters


def finish(session: Session, states: RunState, counters: Counters) -> None:
    """The last checkpoint of a session; raises FolderError if it cannot be written."""
    try:
        save(session, states, counters)
    except OSError as error:
        raise FolderError(
            f"The last checkpoint cannot be written to {session.folder} ({error.strerror}); earlier ones are untouched: "
            f"make room, then --resume {session.folder}."
        ) from error


def restore(session: Session, display: Display) -> tuple[RunState, Counters]:
    """States and counters of the newest checkpoint that can be used; later rows of metrics.jsonl are cut off.

    Newer ones that cannot be used are said and set aside.
    """
    path, (states, counters), refused = newest_usable(session.folder / CHECKPOINTS, partial(read_states, session))
    with writing(session.folder):
        for other, error in refused.items():
            aside = other.rename(other.with_suffix(UNUSABLE))
            display.note(f"{error} It is now {aside.name}; going on from {path.name}.")
        cut_rows(session.folder / METRICS, session.built.schedule.env_steps(counters.rounds))
    for sentence in sentences(session, counters.breakdowns):
        display.note(sentence)
    return jax.device_put(pad_runs(states, len(session.keys)), session.runs.sharding), counters


def read_states(session: Session, path: Path) -> tuple[RunState, Counters]:
    """States, unpadded, and counters of the checkpoint at `path`; raises CheckpointError."""
    record = read_record(path)
    num_runs = len(session.experiment.runs)
    broken = [None if pair is None else Broken(*pair) for pair in record.get("breakdowns", [None] * num_runs)]
    counters = Counters(record["rounds"], tuple(record["episodes"]), record["wall_seconds"], tuple(broken))
    filled = min(counters.rounds, session.built.schedule.replay_rounds)
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
    return dataclasses.replace(states, replay=replay, breakdown=stack_breakdowns(counters.breakdowns)), counters
