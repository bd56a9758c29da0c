"""What training leaves in its folder between slices of work, and how it goes on from there."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mamt_jax.training.best import describe_latest, rounding_of, save_better
from mamt_jax.training.checkpoint import load_checkpoint, newest_usable, read_record, save_checkpoint, to_numpy
from mamt_jax.training.console import Display
from mamt_jax.training.extension import record_length
from mamt_jax.training.metrics import plot_learning_curve
from mamt_jax.training.nan_guard import HaltedAt, stack_halts
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
from mamt_jax.training.session import Counters, Session
from mamt_jax.training.vectorized import RunState, pad_runs

UNUSABLE = ".unusable"
BEFORE_END = "best_before_end.npz"
"""Beside the checkpoints: best.npz as it was before the end of training was evaluated, where no longer run would be."""
APART = {"replay": None, "halt": None}
"""Of a state, what is not saved as it is: the filled part of the memory alone, and halts in the record."""


def write_rows(session: Session, counters: Counters, display: Display) -> Counters:
    """Adds what is unwritten to metrics.jsonl; on a full disk it stays unwritten."""
    try:
        append_rows(session.folder / METRICS, counters.unwritten)
    except OSError as error:
        display.note(f"{session.folder / METRICS} cannot be written ({error.strerror}); its rows wait, training goes on.")
        return counters
    return counters._replace(unwritten=())


def log_rows(session: Session, rows: Sequence[dict[str, Any]], display: Display) -> None:
    """Gives rows to the loggers; a full disk does not end training."""
    try:
        for logger in session.loggers:
            logger.write(rows)
    except OSError as error:
        display.note(f"Metrics cannot be logged ({error.strerror}); they are in {METRICS}, training goes on.")


def keep_best(session: Session, states: RunState, rows: list[dict[str, Any]], display: Display) -> None:
    """Saves the policies that have just done better than ever; a full disk does not end training."""
    path, policies = session.folder / BEST, session.built.algorithm.policy(states.learner_state)
    rounding = [rounding_of(row["eval_return_per_agent"]) for row in rows]
    try:
        save_better(path, policies, [row["eval_return"] for row in rows], rows[0]["env_steps"], rounding)
    except OSError as error:
        display.note(f"The best policies cannot be saved ({error.strerror}); the file before is untouched, training goes on.")


def hold_best(session: Session, display: Display) -> None:
    """Keeps a copy of best.npz, which a longer run goes on with; a full disk does not end training."""
    best = session.folder / BEST
    if not best.exists():
        return
    try:
        with whole_file(session.folder / CHECKPOINTS / BEFORE_END) as file:
            file.write(best.read_bytes())
    except OSError as error:
        display.note(f"{BEFORE_END} cannot be written ({error.strerror}); training goes on.")


def save(session: Session, states: RunState, counters: Counters) -> Counters:
    """Writes a checkpoint, no padding and the filled part of the replay memory alone, and draws the learning curve.

    The rows that wait go first: what a checkpoint is later than must be in metrics.jsonl.
    """
    append_rows(session.folder / METRICS, counters.unwritten)
    counters = counters._replace(unwritten=())
    num_runs, filled = len(session.experiment.runs), min(counters.iterations, session.built.schedule.replay_iterations)
    replay = jax.tree.map(lambda leaf: np.asarray(leaf)[:num_runs, :filled], states.replay)
    rest = jax.tree.map(lambda leaf: to_numpy(leaf)[:num_runs], dataclasses.replace(states, **APART))
    record = {name: value for name, value in counters._asdict().items() if name != "unwritten"}
    save_checkpoint(session.folder / CHECKPOINTS, counters.iterations, dataclasses.replace(rest, replay=replay), record)
    plot_learning_curve(session.folder, session.folder / CURVE)
    return counters


def save_or_warn(session: Session, states: RunState, counters: Counters, display: Display) -> Counters:
    """`save`, but a full disk does not end training."""
    try:
        return save(session, states, counters)
    except OSError as error:
        display.note(
            f"{session.folder} cannot be written at iteration {counters.iterations} ({error.strerror}); "
            "what is there is untouched, training goes on."
        )
        return counters


def finish(session: Session, states: RunState, counters: Counters, display: Display) -> None:
    """The last checkpoint of a session, and which best policies are only the latest.

    Raises FolderError if it cannot be written.
    """
    try:
        save(session, states, counters)
    except OSError as error:
        raise FolderError(
            f"The last checkpoint cannot be written to {session.folder} ({error.strerror}); earlier ones are untouched: "
            f"make room, then --resume {quoted(session.folder)}."
        ) from error
    for sentence in describe_latest(read_rows(session.folder / METRICS)):
        display.note(sentence)


def restore(session: Session, display: Display) -> tuple[RunState, Counters]:
    """States and counters of the newest checkpoint that can be used; later rows of metrics.jsonl are cut off.

    Newer ones that cannot be used are said and set aside. If training goes on beyond an earlier end, config.json then says
    so, and what was evaluated at that end alone is taken back.
    """
    path, (states, counters), refused = newest_usable(session.folder / CHECKPOINTS, partial(read_states, session))
    schedule = session.built.schedule
    with writing(session.folder):
        record_length(session.folder, session.experiment, schedule)
        for other, error in refused.items():
            aside = other.rename(other.with_suffix(UNUSABLE))
            display.note(f"{error} It is now {aside.name}; going on from {path.name}.")
        before_end = session.folder / CHECKPOINTS / BEFORE_END
        if counters.iterations < schedule.total_iterations and before_end.exists():
            before_end.replace(session.folder / BEST)
        kept = counters.evaluated if counters.iterations < schedule.total_iterations else counters.iterations
        cut_rows(session.folder / METRICS, schedule.env_steps(kept))
    return jax.device_put(pad_runs(states, len(session.keys)), session.runs.sharding), counters


def read_states(session: Session, path: Path) -> tuple[RunState, Counters]:
    """States, unpadded, and counters of the checkpoint at `path`; raises CheckpointError."""
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
