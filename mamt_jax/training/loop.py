"""The host loop: slices of compiled training, and between them evaluation, checkpoints, progress and signals."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from mamt_jax.training.console import Display, duration
from mamt_jax.training.initial import begin_from
from mamt_jax.training.interrupt import deferred_signals
from mamt_jax.training.loggers import LOGGERS, Logger
from mamt_jax.training.memory import explaining_exhaustion
from mamt_jax.training.metrics import STOPPED, make_rows
from mamt_jax.training.nan_guard import BreakdownError, Broken, describe_breakdown, read_breakdowns, stopped_at
from mamt_jax.training.saving import finish, hold_best, keep_best, log_rows, restore, save_or_warn, write_rows
from mamt_jax.training.session import Counters, Session, plan_memory
from mamt_jax.training.vectorized import RunState

SLICE_SECONDS = 5.0
"""How long a slice of training should take: what Ctrl-C waits for."""


class Programs(NamedTuple):
    """Compiled `Runs.evaluate` and `Runs.advance`."""

    evaluate: Callable[..., Any]
    advance: Callable[..., RunState]


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
        OutOfMemoryError: memory ran out, on a device or on the host.
    """
    schedule, training = session.built.schedule, session.experiment.training

    def announce(number: int) -> None:
        display.note(f"Signal {number}: stopping after the work in hand, with a checkpoint. Once more stops at once.")

    with ExitStack() as stack:
        stack.enter_context(explaining_exhaustion(partial(plan_memory, session), session.folder))
        stack.callback(session.runs.close)
        display = stack.enter_context(Display(console, training.episodes))
        began = time.monotonic()
        states, counters = restore(session, display) if resume else begin(session, display)
        say_broken(session, counters.breakdowns, display)
        session = session._replace(loggers=open_loggers(session, stack))
        started = began - counters.wall_seconds
        going = counters.rounds < schedule.total_rounds
        evaluate = compile_program(display, "evaluation", session.runs.evaluate, session.configs, states, 0, effort=1)
        advance = session.runs.advance
        if going:
            advance = compile_program(display, "training", advance, session.configs, states, 0, 1)
        if not resume:
            counters = counters._replace(wall_seconds=time.monotonic() - started)
            states, counters = report(session, evaluate, states, counters, display)
        stopped = stack.enter_context(deferred_signals(announce))
        if not resume:
            counters = save_or_warn(session, states, counters, display)
        if going:
            programs, states = Programs(evaluate, advance), session.runs.begin(states, counters.rounds)
            states, counters = work(session, programs, states, counters, display, started, stopped)
        finish(session, states, counters, display)
    if all(counters.breakdowns):
        raise BreakdownError(f"All runs have stopped. {' '.join(sentences(session, counters.breakdowns))}")
    return stopped()


def sentences(session: Session, breakdowns: Iterable[Broken | None]) -> list[str]:
    """One for each run that broke."""
    runs = enumerate(zip(session.experiment.runs, breakdowns, strict=True))
    schedule = session.built.schedule
    return [describe_breakdown(number, run["seed"], broken, schedule) for number, (run, broken) in runs if broken]


def say_broken(session: Session, breakdowns: Iterable[Broken | None], display: Display) -> None:
    """Shows the sentences."""
    for sentence in sentences(session, breakdowns):
        display.note(sentence)


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
    if session.initial is not None:
        learner_state = begin_from(session.initial, states.learner_state, num_runs)
        states = dataclasses.replace(states, learner_state=jax.device_put(learner_state, session.runs.sharding))
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
    say_broken(session, new, display)
    rounds = session.built.schedule.total_rounds if all(breakdowns) else counters.rounds
    return counters._replace(rounds=rounds, breakdowns=breakdowns)


def is_evaluation(session: Session, rounds: int) -> bool:
    """Whether an evaluation is due after `rounds`."""
    schedule = session.built.schedule
    return rounds % schedule.evaluation_rounds == 0 or rounds == schedule.total_rounds


def ends_interval(session: Session, counters: Counters) -> bool:
    """Whether a run of any length is evaluated here, and not only one that ends here, or whose runs have all broken."""
    return counters.rounds % session.built.schedule.evaluation_rounds == 0 and not all(counters.breakdowns)


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
    """Evaluates, writes rows, shows them, and starts the next interval.

    Where training ends within an interval, its sums and counters stay as they are: a longer run goes on with them.
    """
    rounds, interval = counters.rounds, counters
    finished = np.asarray(states.sums.episodes.episodes)[: len(session.experiment.runs)]
    counters = counters._replace(episodes=tuple(int(a + b) for a, b in zip(counters.episodes, finished, strict=True)))
    heads = [row_head(session, counters, run) for run in range(len(finished))]
    rows = make_rows(heads, evaluate(session.configs, states, rounds), states.sums)
    log_rows(session, rows, display)
    interval_over = ends_interval(session, counters)
    if not interval_over:
        hold_best(session, display)
    keep_best(session, states, rows, display)
    display.evaluated(rows)
    counters = write_rows(session, counters._replace(unwritten=(*counters.unwritten, *rows)), display)
    if not interval_over:
        return states, counters._replace(episodes=interval.episodes)
    return session.runs.reset_sums(states), counters._replace(evaluated=rounds)


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
