"""Learning curves of the runs in a folder, drawn from metrics.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mamt_jax.training.experiment import experiment_from_json
from mamt_jax.training.metrics import STOPPED
from mamt_jax.training.references import Reference, read_references
from mamt_jax.training.run_folder import METRICS, read_config, read_rows, whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 8
"""Largest number of labels that are drawn; more lines cannot be distinguished."""
FEW = 3
"""Largest number of labels for which the returns of sampled policies are drawn as well."""
RETURN, SAMPLED = "eval_return", "eval_return_sampled"


class Curve(NamedTuple):
    """The evaluations of one run.

    Attributes:
        env_steps: environment steps at each of the T evaluations.
        points: (2, T) episodes and returns.
        halted: whether the run halted.
    """

    env_steps: list[int]
    points: np.ndarray
    halted: bool


def plot_learning_curve(folder: Path, path: Path | None) -> "Figure":
    """Draws the learning curve of a folder of runs and, if `path` is given, also writes it there."""
    content = read_config(folder)
    experiment = experiment_from_json(content["experiment"])
    title, policy = f"{experiment.env_name} · {experiment.algo_name}", experiment.training.evaluation_policy
    figure = draw_learning_curve(title, read_rows(folder / METRICS), experiment.labels, read_references(content), policy)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            figure.savefig(file, dpi=130, format=path.suffix[1:] or "png")
    return figure


def draw_learning_curve(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    references: Mapping[str, Reference],
    policy: str = "greedy",
) -> "Figure":
    """Draws evaluation returns over episodes: a thick line for the mean of each label, and thin lines for its runs.

    Dotted lines show the returns of sampled policies if there are few labels. A halted run ends with a cross and is left out of
    the mean. If there are many labels, only those with the highest last returns are drawn.

    Args:
        title: title above the axes.
        rows: rows of metrics.jsonl.
        labels: one label per run; runs with the same label are averaged.
        references: returns of the reference policies by name, drawn as grey lines.
        policy: how policies act in the evaluations, "greedy" or "sampled".
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    curves = [read_curve(rows, run) for run in range(len(labels))]
    groups = {label: [run for run, other in enumerate(labels) if other == label] for label in dict.fromkeys(labels)}
    shown = sorted(groups, key=lambda label: last_return([curves[run] for run in groups[label]]), reverse=True)[:MOST]
    for number, label in enumerate(label for label in groups if label in shown):
        _draw_label(axes, f"C{number}", label, [curves[run] for run in groups[label]])
        if policy != "sampled" and len(shown) <= FEW:
            sampled = mean_curve([read_curve(rows, run, SAMPLED) for run in groups[label]])
            axes.plot(*sampled, color=f"C{number}", linewidth=1.2, linestyle=":", label=f"{label}, sampled")
    for number, (name, value) in enumerate(references.items()):
        axes.axhline(
            value.value, color="0.4", linestyle=("-.", "--", (0, (1, 3)))[number % 3], linewidth=1, label=f"{name} ({value})"
        )
    axes.set(xlabel="episodes", ylabel=f"{policy} return per agent and episode")
    axes.set_title(title if len(shown) == len(groups) else f"{title}: the best {MOST} of {len(groups)} settings")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if all(not curve.points[0].any() for curve in curves):  # only the evaluation before training
        axes.set_xlim(0, 1)
        axes.set_xticks([0])
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _draw_label(axes: "Axes", color: str, label: str, curves: Sequence[Curve]) -> None:
    """Draws the runs that share a label, and their mean."""
    going = [curve for curve in curves if not curve.halted]
    for curve in curves if len(curves) > 1 or not going else []:
        axes.plot(*curve.points, color=color, linewidth=0.7, alpha=0.5)
    for curve in (curve for curve in curves if curve.halted):
        axes.plot(*curve.points[:, -1:], "x", color=color)
    counted = f"{len(going)} of {len(curves)}" if len(going) < len(curves) else str(len(curves))
    text = f"{label}, mean of {counted} seeds" if len(curves) > 1 else label
    mean = mean_curve(going)
    axes.plot(*mean, color=color, linewidth=2, marker="o" if mean.shape[1] == 1 else None, label=text)


def last_return(curves: Sequence[Curve]) -> float:
    """The mean of the last returns of the runs that have not halted; -inf if there is none."""
    latest = mean_curve([curve for curve in curves if not curve.halted])[1, -1:]
    return float(latest[0]) if np.isfinite(latest).any() else -np.inf


def read_curve(rows: Sequence[Mapping[str, Any]], run: int, field: str = RETURN) -> Curve:
    """The curve of one run, up to where it halted.

    If no episode of the run ended between several evaluations, only the last of them is kept. The line would otherwise have a
    vertical segment.
    """
    own = [row for row in rows if row["run"] == run]
    going = [row for row in own if STOPPED not in row]
    shown = list({row["episodes"]: row for row in going}.values())
    values = [[row["episodes"], np.nan if row.get(field) is None else row[field]] for row in shown]
    return Curve([row["env_steps"] for row in shown], np.array(values, float).reshape(-1, 2).T, len(going) < len(own))


def mean_curve(curves: Sequence[Curve]) -> np.ndarray:
    """The mean (2, T) of the points of several curves, at the evaluations that all of them have."""
    common = sorted(set.intersection(*(set(curve.env_steps) for curve in curves))) if curves else []
    points = [[dict(zip(curve.env_steps, curve.points.T, strict=True))[step] for step in common] for curve in curves]
    return np.mean(points, axis=0).T if common else np.empty((2, 0))
