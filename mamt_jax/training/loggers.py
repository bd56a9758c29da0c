"""Loggers for the rows of metrics.jsonl and for pictures: TensorBoard, Weights & Biases."""

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
from PIL import Image

from mamt_jax.training.experiment import Experiment, experiment_to_json
from mamt_jax.training.run_folder import METRICS, read_rows, write_json

Row = Mapping[str, Any]


class Logger(NamedTuple):
    """A logger of rows and pictures.

    Attributes:
        write: (the rows of an evaluation, one per run) -> None.
        show: (number of a run, name, PNG or GIF file, environment steps) -> None; logs a picture or a film of a run.
        close: () -> None.
    """

    write: Callable[[Sequence[Row]], None]
    show: Callable[[int, str, Path, int], None]
    close: Callable[[], None]


def tensorboard(folder: Path, experiment: Experiment) -> Logger:
    """Writes event files to `tensorboard/`, one per run. When training is resumed, they are rebuilt from metrics.jsonl.

    The writer is TensorBoard's own: one package writes and displays the files. Each run has only one event file, because
    TensorBoard may stop reading a file once there is a newer one. Browsers play GIF images.
    """
    proto, summary = (importlib.import_module(f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary"))
    make_tensor = importlib.import_module("tensorboard.util.tensor_util").make_tensor_proto
    make_writer = importlib.import_module("tensorboard.summary.writer.event_file_writer").EventFileWriter
    written, place = read_rows(folder / METRICS), folder / "tensorboard"
    shutil.rmtree(place, ignore_errors=True)
    names = [re.sub(r"[^\w.]+", "_", f"{number:03d} {title}") for number, title in enumerate(experiment.titles)]
    writers = [make_writer(str(place / name)) for name in names]
    began = time.time() - max((row["wall_seconds"] for row in written), default=0.0)

    plugin = summary.SummaryMetadata.PluginData(plugin_name="scalars")
    is_scalar = summary.SummaryMetadata(plugin_data=plugin, data_class=summary.DATA_CLASS_SCALAR)

    def add(run: int, env_steps: int, wall_time: float, values: Sequence[Any]) -> None:
        event = proto.Event(step=env_steps, wall_time=wall_time, summary=summary.Summary(value=values))
        writers[run].add_event(event)

    def write(rows: Sequence[Row]) -> None:
        for row in rows:
            values = [
                summary.Summary.Value(tag=name, tensor=make_tensor(np.float32(value)), metadata=is_scalar)
                for name, value in scalars(row).items()
            ]
            add(row["run"], row["env_steps"], began + row["wall_seconds"], values)
        for writer in writers:
            writer.flush()

    def show(run: int, name: str, path: Path, env_steps: int) -> None:
        with Image.open(path) as picture:
            width, height = picture.size
        image = summary.Summary.Image(width=width, height=height, encoded_image_string=path.read_bytes())
        add(run, env_steps, time.time(), [summary.Summary.Value(tag=name, image=image)])
        writers[run].flush()

    def close() -> None:
        for writer in writers:
            writer.close()

    write(written)
    return Logger(write, show, close)


def wandb(folder: Path, experiment: Experiment) -> Logger:
    """Logs to one Weights & Biases run for each run, all in one group. Resumed training continues the same W&B runs.

    W&B's environment variables, such as WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE, set the rest. W&B ignores new values for
    steps that it already has.
    """
    module, ids = importlib.import_module("wandb"), folder / "wandb.json"
    if not ids.exists():
        write_json(ids, [secrets.token_hex(4) for _ in experiment.runs])
    about = experiment_to_json(experiment)
    runs = [
        module.init(
            project=os.environ.get("WANDB_PROJECT", "mamt_jax"),
            group=str(folder),
            name=title,
            id=identity,
            resume="allow",
            reinit="create_new",
            dir=folder,
            config={name: value for name, value in about.items() if name != "runs"} | dict(own),
        )
        for title, identity, own in zip(experiment.titles, json.loads(ids.read_text()), experiment.runs, strict=True)
    ]

    def write(rows: Sequence[Row]) -> None:
        for row in rows:
            runs[row["run"]].log(scalars(row), step=row["env_steps"])

    def show(run: int, name: str, path: Path, env_steps: int) -> None:
        is_film = path.suffix == ".gif"
        picture = module.Video(str(path), format="gif") if is_film else module.Image(str(path))
        runs[run].log({name: picture}, step=env_steps)

    def close() -> None:
        for run in runs:
            run.finish()

    return Logger(write, show, close)


LOGGERS: dict[str, Callable[[Path, Experiment], Logger]] = {"tensorboard": tensorboard, "wandb": wandb}
"""Loggers by name, which is also the name of the package and of the extra that installs it."""


def check_logger(name: str) -> None:
    """Raises ValueError if a logger does not exist or its package is not installed."""
    if name not in LOGGERS:
        raise ValueError(f"{name!r} is not valid: give one or more of {', '.join(LOGGERS)}.")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"{name} is not installed: install it with `pip install -e '.[{name}]'`.")


def scalars(row: Row) -> dict[str, float]:
    """The finite numbers of a row, by name.

    A metric per agent gives one number for each agent, named METRIC/AGENT. A metric per pair of agents gives the mean over the
    other agents.
    """
    values: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, list):
            values |= {f"{name}/{agent}": float(np.mean(np.array(each, float))) for agent, each in enumerate(value)}
        elif value is not None:
            values[name] = float(value)
    return {name: value for name, value in values.items() if np.isfinite(value)}
