"""The rows of metrics.jsonl, and the learning curve drawn from them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from mamt_jax.training.experiment import experiment_from_json
from mamt_jax.training.references import Reference, read_references
from mamt_jax.training.run_folder import METRICS, read_config, read_rows, whole_file
from mamt_jax.training.trainer import Evaluation, IntervalSums, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STOPPED = "stopped_at"
"""In the rows of a run that halted: after how many environment steps."""


def make_rows(heads: Sequence[dict[str, Any]], evaluation: dict[str, Evaluation], sums: IntervalSums) -> list[dict[str, Any]]:
    """One row a run.

    Args:
        heads: how each row begins: run, seed, env_steps, episodes, updates, wall_seconds, and `STOPPED` in a run that halted.
        evaluation: "asked" and "sampled", leading axis of runs.
        sums: of training since the last evaluation, leading axis of runs.

    Returns:
        Rows with returns per agent (nan where no episode ended), task metrics of the greedy policies under `task/` and of
        training under `train_task/`, and the mean over the updates of each of the algorithm's metrics under its own name.
        All are nan in a run that halted.
    """
    evaluation, sums = jax.device_get((evaluation, sums))
    with np.errstate(invalid="ignore", divide="ignore"):  # no episode has ended, or nothing was learnt
        every = [summarize(*jax.tree.map(lambda leaf, run=run: leaf[run], (evaluation, sums))) for run in range(len(heads))]
    rows = [{name: np.asarray(value, float).tolist() for name, value in row.items()} for row in every]
    return [
        head | (jax.tree.map(lambda _: math.nan, row) if STOPPED in head else row)
        for head, row in zip(heads, rows, strict=True)
    ]


class _Curve(NamedTuple):
    """A run's evaluations.

    Attributes:
        env_steps: when each was, T of them.
        points: (2, T) episodes and greedy returns.
        halted: whether the run did.
    """

    env_steps: list[int]
    points: np.ndarray
    halted: bool


def plot_learning_curve(folder: Path, path: Path | None) -> "Figure":
    """The learning curve of a folder of runs, also written to `path` if there is one."""
    content = read_config(folder)
    experiment = experiment_from_json(content["experiment"])
    title = f"{experiment.env_name} · {experiment.algo_name}"
    figure = draw_learning_curve(title, read_rows(folder / METRICS), experiment.labels, read_references(content))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            figure.savefig(file, dpi=130, format=path.suffix[1:] or "png")
    return figure


def draw_learning_curve(
    title: str, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], references: Mapping[str, Reference]
) -> "Figure":
    """Draws greedy evaluation returns over episodes: a thin line for each run, a thick one for the mean of each label.

    A run that halted ends with a cross and is left out of the mean. Of several evaluations between which no episode of a run
    has ended the last is shown, so that the line does not turn upwards or downwards on the spot.

    Args:
        title: above the axes.
        rows: of metrics.jsonl.
        labels: one a run; runs that share one are averaged.
        references: what reference policies earn, by name, drawn as dotted lines.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, label in enumerate(dict.fromkeys(labels)):
        color, runs = f"C{number % 10}", [run for run, other in enumerate(labels) if other == label]
        curves = [_curve(rows, run) for run in runs]
        going = [curve for curve in curves if not curve.halted]
        for curve in curves if len(curves) > 1 or not going else []:
            axes.plot(*curve.points, color=color, linewidth=0.7, alpha=0.5)
        for curve in (curve for curve in curves if curve.halted):
            axes.plot(*curve.points[:, -1:], "x", color=color)
        counted = f"{len(going)} of {len(runs)}" if len(going) < len(runs) else str(len(runs))
        text = f"{label}, mean of {counted}" if len(runs) > 1 else label
        axes.plot(*_mean(going), color=color, linewidth=2, label=text)
    for number, (name, value) in enumerate(references.items()):
        axes.axhline(value.value, color="0.4", linestyle=(":", "--", "-.")[number % 3], linewidth=1, label=f"{name} ({value})")
    axes.set(title=title, xlabel="episodes", ylabel="return per agent and episode (greedy)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def _curve(rows: Sequence[Mapping[str, Any]], run: int) -> _Curve:
    """That of one run, up to where it halted."""
    own = [row for row in rows if row["run"] == run]
    going = [row for row in own if STOPPED not in row]
    shown = list({row["episodes"]: row for row in going}.values())
    values = [[row["episodes"], np.nan if row["eval_return"] is None else row["eval_return"]] for row in shown]
    return _Curve([row["env_steps"] for row in shown], np.array(values, float).reshape(-1, 2).T, len(going) < len(own))


def _mean(curves: Sequence[_Curve]) -> np.ndarray:
    """(2, T): the mean of the points at every evaluation that all of them have."""
    common = sorted(set.intersection(*(set(curve.env_steps) for curve in curves))) if curves else []
    points = [[dict(zip(curve.env_steps, curve.points.T, strict=True))[step] for step in common] for curve in curves]
    return np.mean(points, axis=0).T if common else np.empty((2, 0))
