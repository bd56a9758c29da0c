"""Where the rows of metrics.jsonl go besides: TensorBoard, Weights & Biases."""

import importlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mamt_jax.training.experiment import Experiment, experiment_to_json
from mamt_jax.training.run_folder import METRICS, read_rows, write_json

Row = Mapping[str, Any]


class Logger(NamedTuple):
    """Takes the rows of each evaluation, one a run, until it is closed."""

    write: Callable[[Sequence[Row]], None]
    close: Callable[[], None]


def tensorboard(folder: Path, experiment: Experiment) -> Logger:
    """Event files in `tensorboard/`, one a run, made anew from metrics.jsonl when training goes on.

    By TensorBoard's own writer, so that one package writes and shows them.
    """
    written, place = read_rows(folder / METRICS), folder / "tensorboard"
    shutil.rmtree(place, ignore_errors=True)
    names = [re.sub(r"[^\w.]+", "_", f"{number:03d} {title}") for number, title in enumerate(_titles(experiment))]
    writers = [importlib.import_module("tensorboard.summary").Writer(str(place / name)) for name in names]
    began = time.time() - max((row["wall_seconds"] for row in written), default=0.0)

    def write(rows: Sequence[Row]) -> None:
        for row in rows:
            for name, value in scalars(row).items():
                writers[row["run"]].add_scalar(name, value, row["env_steps"], wall_time=began + row["wall_seconds"])
        for writer in writers:
            writer.flush()

    def close() -> None:
        for writer in writers:
            writer.close()

    write(written)
    return Logger(write, close)


def wandb(folder: Path, experiment: Experiment) -> Logger:
    """A run of Weights & Biases for each run, in one group, gone on with when training goes on.

    W&B's own environment variables say the rest, such as WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE. Of steps that it has
    already, it keeps what it has.
    """
    init, ids = importlib.import_module("wandb").init, folder / "wandb.json"
    if not ids.exists():
        write_json(ids, [secrets.token_hex(4) for _ in experiment.runs])
    about = experiment_to_json(experiment)
    runs = [
        init(
            project=os.environ.get("WANDB_PROJECT", "mamt_jax"),
            group=str(folder),
            name=title,
            id=identity,
            resume="allow",
            reinit="create_new",
            dir=folder,
            config={name: value for name, value in about.items() if name != "runs"} | dict(own),
        )
        for title, identity, own in zip(_titles(experiment), json.loads(ids.read_text()), experiment.runs, strict=True)
    ]

    def write(rows: Sequence[Row]) -> None:
        for row in rows:
            runs[row["run"]].log(scalars(row), step=row["env_steps"])

    def close() -> None:
        for run in runs:
            run.finish()

    return Logger(write, close)


LOGGERS: dict[str, Callable[[Path, Experiment], Logger]] = {"tensorboard": tensorboard, "wandb": wandb}
"""Each is the name of its package and of the extra that brings it."""


def check_logger(name: str) -> None:
    """Raises ValueError for a logger that does not exist or whose package is not there."""
    if name not in LOGGERS:
        raise ValueError(f"{name!r} is not valid: give one or more of {', '.join(LOGGERS)}.")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"{name} is not there: pip install -e '.[{name}]'.")


def scalars(row: Row) -> dict[str, float]:
    """The finite numbers of a row; of a metric of agents one each under its number, of one of pairs the mean over others."""
    values: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, list):
            values |= {f"{name}/{agent}": float(np.mean(np.array(each, float))) for agent, each in enumerate(value)}
        elif value is not None:
            values[name] = float(value)
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _titles(experiment: Experiment) -> list[str]:
    """A run's hyperparameters and seed, for people."""
    return [f"{label}, seed {run['seed']}" for label, run in zip(experiment.labels, experiment.runs, strict=True)]
