"""The host loop: slices of compiled training, with evaluation, checkpoints, progress and signals between them."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from mamt_jax.training.console import Display, duration
from mamt_jax.training.initial import begin_from
from mamt_jax.training.interrupt import deferred_signals
from mamt_jax.training.loggers import LOGGERS, Logger
from mamt_jax.training.memory import explaining_exhaustion
from mamt_jax.training.metrics import STOPPED, make_rows
from mamt_jax.training.nan_guard import HaltedAt, NonFiniteError, describe_halt, read_halts, stopped_at
from mamt_jax.training.policies import Policy, make_policy
from mamt_jax.training.session import (
    Counters,
    Session,
    finish,
    hold_best,
    keep_best,
    log_rows,
    plan_memory,
    restore,
    save_or_warn,
    state_shapes,
    write_rows,
)
from mamt_jax.training.vectorized import RunState

ENDED = 0
"""Returned by `train` instead of a signal's number if the callback ended training."""
SLICE_SECONDS = 5.0
"""Target duration of a slice of training in seconds, for which Ctrl-C waits."""
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
"""Compiler options on CPUs. XLA's CPU library is used only for matrix products, because it is slow at reductions. This makes an
iteration of MAAC a fifth faster."""


class Programs(NamedTuple):
    """The compiled programs `Runs.evaluate` and `Runs.advance`."""

    evaluate: Callable[..., Any]
    advance: Callable[..., RunState]


def train(session: Session, console: Console, resume: bool = False) -> int | None:
    """Trains to the end, or until Ctrl-C or SIGTERM, and writes a checkpoint.

    Args:
        session: what to train; its folder exists and holds config.json.
        console: console for progress.
        resume: whether to continue from the latest checkpoint of the folder.

    Returns:
        None when training is complete, `ENDED` if the callback ended it, else the number of the signal that stopped it.

    Raises:
        NonFiniteError: if all runs have halted.
        CheckpointError: if `resume` is set and no checkpoint can be used.
        FolderError: if the folder cannot be written at the end, or at the start of resumed training.
        HostError: if an environment outside JAX failed.
        OutOfMemoryError: if memory ran out, on a device or on the host.
    """
    schedule, training = session.built.schedule, session.experiment.training

    def announce(number: int) -> None:
        display.note(
            f"Signal {number}: training stops after the current slice and writes a checkpoint. "
            "Repeat the signal to stop at once."
        )

    with ExitStack() as stack:
        stack.enter_context(explaining_exhaustion(partial(plan_memory, session), session.folder))
        stack.callback(session.runs.close)
        display = stack.enter_context(
            Display(console, training.episodes, training.evaluation_policy, session.experiment.titles)
        )
        began = time.monotonic()
        states, counters, advance = start(session, display, resume)
        say_halted(session, counters.halts, display)
        session = session._replace(loggers=open_loggers(session, stack))
        started = began - counters.wall_seconds
        going = counters.iterations < schedule.total_iterations
        evaluate = start_compiling(display, "evaluation", session.runs.evaluate, session.configs, states, 0, effort=1)()
        programs = Programs(evaluate, advance())
        if not resume:
            counters = counters._replace(wall_seconds=time.monotonic() - started)
            states, counters = report(session, evaluate, states, counters, display)
        stopped = stack.enter_context(deferred_signals(announce))
        if not resume:
            counters = save_or_warn(session, states, counters, display)
        if going:
            states = session.runs.begin(states, counters.iterations)
            states, counters = work(session, programs, states, counters, display, started, stopped)
        finish(session, states, counters, display)
    if all(counters.halts):
        raise NonFiniteError(f"All runs have stopped. {' '.join(sentences(session, counters.halts))}")
    number = stopped()
    return ENDED if number is None and counters.ended and counters.iterations < schedule.total_iterations else number


def sentences(session: Session, halts: Iterable[HaltedAt | None]) -> list[str]:
    """One sentence for each run that halted."""
    runs = enumerate(zip(session.experiment.runs, halts, strict=True))
    schedule = session.built.schedule
    return [describe_halt(number, run["seed"], halted, schedule) for number, (run, halted) in runs if halted]


def say_halted(session: Session, halts: Iterable[HaltedAt | None], display: Display) -> None:
    """Prints a message for each run that halted."""
    for sentence in sentences(session, halts):
        display.note(sentence)


def open_loggers(session: Session, stack: ExitStack) -> tuple[Logger, ...]:
    """Opens the loggers of a session, which `stack` will close. When training is resumed, call `restore` before."""
    loggers = tuple(LOGGERS[name](session.folder, session.experiment) for name in session.log)
    for logger in loggers:
        stack.callback(logger.close)
    return loggers


def start(session: Session, display: Display, resume: bool) -> tuple[RunState, Counters, Callable[[], Callable[..., RunState]]]:
    """States and counters at the start of training, and training as `start_compiling` returns it."""
    programs = session.runs
    if resume:
        states, counters = restore(session, display)
        if counters.iterations == session.built.schedule.total_iterations:
            return states, counters, lambda: programs.advance
        return states, counters, start_compiling(display, "training", programs.advance, session.configs, states, 0, 1)
    init = start_compiling(display, "the initial state", programs.init, session.configs, session.keys, effort=0)
    advance = start_compiling(display, "training", programs.advance, session.configs, state_shapes(session), 0, 1)
    return *begin(session, init()), advance


def begin(session: Session, init: Callable[..., RunState]) -> tuple[RunState, Counters]:
    """The initial states and counters of all runs."""
    states = init(session.configs, session.keys)
    num_runs = len(session.experiment.runs)
    if session.initial is not None:
        learner_state = begin_from(session.initial, states.learner_state, num_runs)
        states = dataclasses.replace(states, learner_state=jax.device_put(learner_state, session.runs.sharding))
    return states, Counters(iterations=0, episodes=(0,) * num_runs, wall_seconds=0.0, halts=(None,) * num_runs)


def work(
    session: Session,
    programs: Programs,
    states: RunState,
    counters: Counters,
    display: Display,
    started: float,
    stopped: Callable[[], int | None],
) -> tuple[RunState, Counters]:
    """Trains slice after slice until the last iteration, a signal, or the callback ends training.

    Training is also over when all runs have halted. `started` is the reading of the clock at wall second 0.
    """
    schedule, training = session.built.schedule, session.experiment.training
    seconds_per_iteration, saved = None, time.monotonic()
    while counters.iterations < schedule.total_iterations and not counters.ended and not stopped():
        began = time.monotonic()
        count = slice_iterations(session, counters.iterations, seconds_per_iteration)
        states = jax.block_until_ready(programs.advance(session.configs, states, counters.iterations, count))
        if counters.iterations >= schedule.warmup_iterations:
            seconds_per_iteration = (time.monotonic() - began) / count
            show_pace(session, display, counters.iterations + count, seconds_per_iteration)
        counters = counters._replace(iterations=counters.iterations + count, wall_seconds=time.monotonic() - started)
        counters = look_after(session, states, counters, display)
        if is_evaluation(session, counters.iterations):
            states, counters = report(session, programs.evaluate, states, counters, display)
        if time.monotonic() - saved >= 60 * training.checkpoint_minutes:
            counters = save_or_warn(session, states, counters, display)
            saved = time.monotonic()
    return states, counters


def look_after(session: Session, states: RunState, counters: Counters, display: Display) -> Counters:
    """Prints which runs have halted since the last call. If all have halted, the counters move to the last iteration."""
    halts = read_halts(states.halt, len(session.experiment.runs))
    new = [None if before else halted for before, halted in zip(counters.halts, halts, strict=True)]
    say_halted(session, new, display)
    iterations = session.built.schedule.total_iterations if all(halts) else counters.iterations
    return counters._replace(iterations=iterations, halts=halts)


def is_evaluation(session: Session, iterations: int) -> bool:
    """Whether an evaluation is due after `iterations` iterations."""
    schedule = session.built.schedule
    return iterations % schedule.evaluation_iterations == 0 or iterations == schedule.total_iterations


def ends_interval(session: Session, counters: Counters) -> bool:
    """Whether a regular evaluation interval ends here. False if only this training ends here, or if all runs have halted."""
    return counters.iterations % session.built.schedule.evaluation_iterations == 0 and not all(counters.halts)


def slice_iterations(session: Session, iterations: int, seconds_per_iteration: float | None) -> int:
    """How many iterations to train at once; never beyond the end of warm-up or the next evaluation."""
    schedule = session.built.schedule
    wanted = 1 if seconds_per_iteration is None else max(1, int(SLICE_SECONDS / seconds_per_iteration))
    if iterations < schedule.warmup_iterations:
        wanted = schedule.warmup_iterations - iterations
    to_evaluation = schedule.evaluation_iterations - iterations % schedule.evaluation_iterations
    return min(wanted, to_evaluation, schedule.total_iterations - iterations)


def show_pace(session: Session, display: Display, iterations: int, seconds_per_iteration: float) -> None:
    """Shows how far training is and how fast it is."""
    schedule, num_runs = session.built.schedule, len(session.experiment.runs)
    left = schedule.total_iterations - iterations
    episodes = session.experiment.training.episodes * iterations // schedule.total_iterations
    display.advanced(
        episodes,
        schedule.updates * num_runs / seconds_per_iteration,
        seconds_per_iteration * left,
    )


def report(
    session: Session, evaluate: Callable[..., Any], states: RunState, counters: Counters, display: Display
) -> tuple[RunState, Counters]:
    """Evaluates the policies, writes and shows the rows, and starts the next interval.

    If training ends within an interval, the sums and counters of the interval are kept, and a longer run continues them.
    """
    iterations, interval = counters.iterations, counters
    finished = np.asarray(states.sums.episodes.episodes)[: len(session.experiment.runs)]
    counters = counters._replace(episodes=tuple(int(a + b) for a, b in zip(counters.episodes, finished, strict=True)))
    heads = [row_head(session, counters, run) for run in range(len(finished))]
    rows = make_rows(heads, evaluate(session.configs, states, iterations), states.sums)
    log_rows(session, rows, display)
    interval_over = ends_interval(session, counters)
    if not interval_over:
        hold_best(session, display)
    keep_best(session, states, rows, display)
    display.evaluated(rows)
    counters = write_rows(session, counters._replace(unwritten=(*counters.unwritten, *rows)), display)
    counters = counters._replace(ended=call_back(session, states, rows))
    if not interval_over:
        return states, counters._replace(episodes=interval.episodes)
    return session.runs.reset_sums(states), counters._replace(evaluated=iterations)


def call_back(session: Session, states: RunState, rows: list[dict[str, Any]]) -> bool:
    """Calls the callback of the session, if there is one; returns whether it asks to end training."""
    if session.callback is None:
        return False
    built, learner_states = session.built, session.built.algorithm.policy(states.learner_state)

    def policy(run: int = 0) -> Policy:
        learner_state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf[run])), learner_states)
        return make_policy(built.algorithm, built.configs[run], learner_state, built.env.spec)

    return session.callback(rows, policy) is False


def row_head(session: Session, counters: Counters, run: int) -> dict[str, Any]:
    """The first fields of a run's row in metrics.jsonl."""
    schedule, halted = session.built.schedule, counters.halts[run]
    return {
        "run": run,
        "seed": session.experiment.runs[run]["seed"],
        "env_steps": schedule.env_steps(counters.iterations),
        "episodes": counters.episodes[run],
        "updates": schedule.num_updates(halted.iteration if halted else counters.iterations),
        "wall_seconds": round(counters.wall_seconds, 3),
        **({STOPPED: stopped_at(halted, schedule)} if halted else {}),
    }


def start_compiling(
    display: Display, name: str, program: Any, *arguments: Any, effort: int | None = None
) -> Callable[[], Callable[..., Any]]:
    """Traces a program, and compiles it ahead of time beside what follows.

    Args:
        display: where to print it.
        name: name of the program, for people.
        program: a jitted function. A function that the host runs is returned unchanged; its parts compile when they are used.
        *arguments: arguments with which the program will be called.
        effort: XLA's optimisation level. Programs that run once or seldom need none: the initial state of MAMT then compiles
            in a third of the time.

    Returns:
        Function () -> the compiled program, which waits for it and prints how long it took. The thread that compiles is a
            daemon, and a signal therefore ends the command at once.
    """
    if not hasattr(program, "lower"):
        return lambda: program
    display.doing(f"compiling {name}")
    began = time.monotonic()
    full = CPU_OPTIONS if jax.default_backend() == "cpu" else {}
    options = full if effort is None else {"xla_backend_optimization_level": effort}
    lowered, compiled = program.lower(*arguments), Future()

    def in_thread() -> None:
        try:
            compiled.set_result((compile_with(lowered, options), time.monotonic() - began))
        except BaseException as error:  # raised again where the program is asked for
            compiled.set_exception(error)

    threading.Thread(target=in_thread, daemon=True).start()

    def wait() -> Callable[..., Any]:
        display.doing(f"compiling {name}")
        program, seconds = compiled.result()
        display.note(f"compiled {name} in {duration(seconds)}")
        return program

    return wait


def compile_with(lowered: jax.stages.Lowered, options: Mapping[str, Any]) -> jax.stages.Compiled:
    """Compiles with the given options, or without options if this version of XLA does not have them."""
    try:
        return lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()
