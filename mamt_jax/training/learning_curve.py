"""learning_curve.png, drawn from metrics.jsonl."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mamt_jax.training.writers import whole_file


def draw_learning_curve(
    path: Path, title: str, rows: Sequence[Mapping[str, Any]], labels: Sequence[str], references: Mapping[str, float]
) -> None:
    """Draws greedy evaluation returns over episodes: a thin line for each run, a thick one for the mean of each label.

    Args:
        path: the image file.
        title: above the axes.
        rows: of metrics.jsonl.
        labels: one a run; runs that share one are averaged.
        references: name -> return, drawn as dotted lines.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    grouped: dict[str, list[list[Mapping[str, Any]]]] = defaultdict(list)
    for run, label in enumerate(labels):
        grouped[label].append([row for row in rows if row["run"] == run])
    for number, (label, runs) in enumerate(grouped.items()):
        color = f"C{number % 10}"
        episodes = np.mean([[row["episodes"] for row in run] for run in runs], axis=0)
        returns = np.array([[np.nan if row["eval_return"] is None else row["eval_return"] for row in run] for run in runs])
        if len(runs) > 1:
            axes.plot(episodes, returns.T, color=color, linewidth=0.7, alpha=0.5)
        axes.plot(
            episodes,
            returns.mean(0),
            color=color,
            linewidth=2,
            label=f"{label}, mean of {len(runs)}" if len(runs) > 1 else label,
        )
    for number, (name, value) in enumerate(references.items()):
        axes.axhline(value, color="0.4", linestyle=(":", "--", "-.")[number % 3], linewidth=1, label=f"{name} ({value:.1f})")
    axes.set(title=title, xlabel="episodes", ylabel="return per agent and episode (greedy)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    with whole_file(path) as file:
        figure.savefig(file, dpi=130, format=path.suffix[1:])
