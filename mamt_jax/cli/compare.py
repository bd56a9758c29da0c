"""Compares runs in a table and a plot. Each setting of hyperparameters is one column and one curve over its seeds.

mamt compare runs/A runs/B
mamt compare runs/A runs/B --metric task/landmarks_covered --against wall_seconds --plot covered.png
"""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Column, Table

from envs_jax.validation import nearest
from mamt_jax.analysis import style
from mamt_jax.analysis.runs import Run, by_task, curve, having, known, last_fifth, mean_over_agents, read_folder
from mamt_jax.analysis.statistics import over_seeds
from mamt_jax.cli.parser import Parser
from mamt_jax.options import OptionError
from mamt_jax.training.console import plain_console
from mamt_jax.training.run_folder import FolderError, read_config

AGAINST = ("env_steps", "episodes", "wall_seconds")
RETURNS = ("train_return", "eval_return")
UNSAID = ("seed", "episodes", "checkpoint_minutes")


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads the runs of all folders. A label is the folder without the leading part that all share, and the setting."""
    runs = [run for folder in folders for run in read_folder(folder)]
    names = [f"{run.folder}{run.label.removeprefix(run.algo)}" for run in runs]
    common = os.path.commonprefix([*names, os.path.dirname(names[0]) + os.sep]).rpartition(os.sep)
    return [run._replace(label=name.removeprefix("".join(common[:2]))) for run, name in zip(runs, names, strict=True)]


def facts(run: Run) -> dict[str, str]:
    """The cells of a run in the upper part of the table, by row: training length, returns and task metrics."""
    shown = [*RETURNS, *(name for name in run.metrics if "task/" in name)]
    return {
        "runs": str(len(run.seeds)),
        "episodes": f"{run.episodes[-1]:,.0f}",
        "env_steps": f"{run.env_steps[-1]:,}",
        "minutes": f"{run.metrics['wall_seconds'][:, -1].max() / 60:.1f}",
        "best eval_return": mean_and_deviation(np.nanmax(run.metrics["eval_return"], axis=1)),
        **{name: mean_and_deviation(last_fifth(curve(run, name))) for name in shown if having([run], name)},
    }


def mean_and_deviation(values: np.ndarray) -> str:
    """Formats the mean, with the standard deviation if there are several values."""
    return f"{values.mean():.4g}" + (f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else "")


def options(run: Run) -> dict[str, Any]:
    """All settings of a run by name, defaults included."""
    content = read_config(run.folder)
    task = {"env": run.task.env, "env_options": ", ".join(f"{name} {value}" for name, value in run.task.options)}
    return {**task, "algo": run.algo, **content["training"], **content["algorithm_configs"][run.numbers[0]]}


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings that every run has and in which they differ: name -> one value per run. `UNSAID` is left out."""
    every = [options(run) for run in runs]
    shared = [name for name in every[0] if name not in UNSAID and all(name in each for each in every)]
    values = {name: [str(each[name]) for each in every] for name in shared}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def side_by_side(runs: Sequence[Run]) -> Table:
    """The comparison table, with one column per run."""
    columns = [Column(run.label, overflow="fold") for run in runs]
    table = Table(Column(no_wrap=True), *columns, caption="returns and task metrics: mean over the last fifth of training")
    known = [facts(run) for run in runs]
    for name in dict.fromkeys(itertools.chain(*known)):
        table.add_row(name, *(each.get(name, "") for each in known))
    table.add_section()
    for name, values in differences(runs).items():
        table.add_row(name, *values)
    return table


def draw(runs: Sequence[Run], metric: str, against: str) -> Figure:
    """Draws one curve per run: interquartile mean and 95 % confidence interval over seeds.

    Reference returns are added if `metric` is a return and all runs share one task.
    """
    figure, (axes,) = style.panels(1, height=3.7)
    looks = style.looks([run.label for run in runs])
    for run in runs:
        x = {"episodes": run.episodes, "env_steps": run.env_steps}.get(against)
        x = run.metrics[against].mean(0) if x is None else x
        found = over_seeds(mean_over_agents(curve(run, metric)).values)
        style.draw_line(axes, x[known(run, metric)], found, looks[run.label], run.label)
    if metric.endswith("_return") and len(by_task(runs)) == 1:
        style.draw_references(axes, runs[0].references)
    tasks = ", ".join(task.title for task in by_task(runs))
    axes.set(title=tasks, xlabel=against.replace("_", " "), ylabel=metric.replace("_", " "))
    style.short_numbers(axes.xaxis)
    axes.grid(alpha=0.25, linewidth=0.6)
    style.legend(figure, [axes], columns=2)
    return figure


def check_metric(runs: Sequence[Run], metric: str) -> None:
    """Raises OptionError unless every run has `metric`."""
    for run in runs:
        if not having([run], metric):
            raise OptionError(f"--metric {metric} is not valid: {run.label} has no such metric{nearest(metric, run.metrics)}.")


def make_parser() -> Parser:
    """The options of the command."""
    parser = Parser("mamt compare", "FOLDER... [options]", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of runs of `mamt train` or `mamt sweep`")
    parser.add_argument("--metric", default="eval_return", help="metric of the plot (default eval_return)")
    parser.add_argument("--against", choices=AGAINST, default=AGAINST[0], help=f"x axis of the plot (default {AGAINST[0]})")
    parser.add_argument(
        "--plot", type=Path, default=Path("runs/comparison.png"), help="file of the plot (default runs/comparison.png)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        values = make_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
        runs = read_runs(values.folders)
        check_metric(runs, values.metric)
    except (OptionError, FolderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plain_console().print(side_by_side(runs))
    style.save(draw(runs, values.metric, values.against), values.plot)
    print(f"Wrote {values.plot}")
    return 0
