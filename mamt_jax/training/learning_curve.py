"""The learning curve of a folder of runs, drawn from metrics.jsonl."""

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
"""As many labels have a line: more cannot be told apart."""
FEW = 3
"""Of as many, the returns of policies that sample are shown, too."""
RETURN, SAMPLED = "eval_return", "eval_return_sampled"


class Curve(NamedTuple):
    """A run's evaluations.

    Attributes:
        env_steps: when each was, T of them.
        points: (2, T) episodes and returns.
        halted: whether the run did.
    """

    env_steps: list[int]
    points: np.ndarray
    halted: bool


def plot_learning_curve(folder: Path, path: Path | None) -> "Figure":
    """The learning curve of a folder of runs, also written to `path` if there is one."""
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
    """Draws evaluation returns over episodes: a thick line for the mean of each label, thin ones for its runs.

    Dotted lines are returns of the policies that sample, where few labels are shown. A run that halted ends with a cross and is
    left out of the mean. Of many labels those with the highest returns in the end are shown.

    Args:
        title: above the axes.
        rows: of metrics.jsonl.
        labels: one a run; runs that share one are averaged.
        references: what reference policies earn, by name, drawn as grey lines.
        policy: which policy the returns are about, "greedy" or "sampled".
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
    if all(not curve.points[0].any() for curve in curves):  # nothing but the evaluation before training
        axes.set_xlim(0, 1)
        axes.set_xticks([0])
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _draw_label(axes: "Axes", color: str, label: str, curves: Sequence[Curve]) -> None:
    """The runs that share a label, and their mean."""
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
    """The mean of the latest returns of runs that go on; -inf where there are none."""
    latest = mean_curve([curve for curve in curves if not curve.halted])[1, -1:]
    return float(latest[0]) if np.isfinite(latest).any() else -np.inf


def read_curve(rows: Sequence[Mapping[str, Any]], run: int, field: str = RETURN) -> Curve:
    """That of one run, up to where it halted.

    Of several evaluations between which none of its episodes has ended the last is shown, so that the line does not turn
    upwards or downwards on the spot.
    """
    own = [row for row in rows if row["run"] == run]
    going = [row for row in own if STOPPED not in row]
    shown = list({row["episodes"]: row for row in going}.values())
    values = [[row["episodes"], np.nan if row.get(field) is None else row[field]] for row in shown]
    return Curve([row["env_steps"] for row in shown], np.array(values, float).reshape(-1, 2).T, len(going) < len(own))


def mean_curve(curves: Sequence[Curve]) -> np.ndarray:
    """(2, T): the mean of the points at every evaluation that all of them have."""
    common = sorted(set.intersection(*(set(curve.env_steps) for curve in curves))) if curves else []
    points = [[dict(zip(curve.env_steps, curve.points.T, strict=True))[step] for step in common] for curve in curves]
    return np.mean(points, axis=0).T if common else np.empty((2, 0))
