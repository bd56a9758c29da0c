"""Puts runs side by side, in a table and a plot. Runs of a folder that differ in more than seeds stand apart.

python experiments/compare.py runs/A runs/B
python experiments/compare.py runs/A runs/B --metric task/landmarks_covered --against wall_seconds --plot covered.png
"""

import argparse
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, os.getcwd())
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from experiments.figures import curves
from experiments.options import OptionError, Parser, nearest
from mamt_jax.training.merge import read_experiment
from mamt_jax.training.writers import METRICS, FolderError, read_config, read_rows

AGAINST = ("env_steps", "episodes", "updates", "wall_seconds")
LAST = 0.2
UNSAID = ("seed", "episodes", "checkpoint_minutes")


class Setting(NamedTuple):
    """Runs that differ in their seeds alone.

    Attributes:
        name: of the folder, with the setting's own values where the folder has several.
        options: what it was trained with, defaults included.
        references: returns of reference policies.
        rows: of metrics.jsonl.
    """

    name: str
    options: dict[str, Any]
    references: Mapping[str, float]
    rows: list[dict[str, Any]]


def read_settings(folder: Path) -> list[Setting]:
    """What a run's folder holds; raises FolderError if it is none or has not been evaluated since training began."""
    experiment, content = read_experiment(folder), read_config(folder)
    rows, labels = read_rows(folder / METRICS), experiment.labels
    settings = []
    for label in dict.fromkeys(labels):
        runs = [run for run, other in enumerate(labels) if other == label]
        env_options = ", ".join(f"{name} {value}" for name, value in experiment.env_options.items())
        options = {"env": experiment.env, "env_options": env_options, "algo": experiment.algo, **content["training"]}
        options |= content["algorithm_configs"][runs[0]]
        name = str(folder) if len(set(labels)) == 1 else f"{folder}, {label}"
        settings.append(Setting(name, options, content["references"], [row for row in rows if row["run"] in runs]))
        if not any(row["updates"] for row in settings[-1].rows):
            raise FolderError(f"{folder} has nothing to compare yet: wait for its first evaluation after updates.")
    return settings


def shortened(settings: Sequence[Setting]) -> list[Setting]:
    """The settings without the folders that their names begin with in common."""
    names = [setting.name for setting in settings]
    common = os.path.commonprefix([*names, os.path.dirname(names[0]) + os.sep]).rpartition(os.sep)
    return [setting._replace(name=setting.name.removeprefix("".join(common[:2]))) for setting in settings]


def facts(setting: Setting) -> dict[str, str]:
    """What the table says of a setting: how long it was trained, and what came of it, mean and deviation over runs."""
    rows, last = setting.rows, max(setting.rows, key=lambda row: row["env_steps"])
    runs = {row["run"] for row in rows}
    best = [max(row["eval_return"] or -np.inf for row in rows if row["run"] == run) for run in runs]
    return {
        "runs": str(len(runs)),
        **{name: f"{last[name]:,}" for name in ("episodes", "env_steps", "updates")},
        "minutes": f"{last['wall_seconds'] / 60:.1f}",
        "best eval_return": mean_and_deviation(np.array(best)),
        **{
            name: mean_and_deviation(final(rows, name))
            for name in last
            if name in ("train_return", "eval_return") or "task/" in name
        },
    }


def final(rows: list[dict[str, Any]], metric: str) -> np.ndarray:
    """Mean of `metric` over the last fifth of training, for each run."""
    episodes, values = curves(rows, metric)
    return values[:, episodes > (1 - LAST) * episodes[-1]].mean(1) if len(episodes) else np.array([np.nan])


def mean_and_deviation(values: np.ndarray) -> str:
    """Mean, and standard deviation where there are several."""
    return f"{values.mean():.4g}" + (f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else "")


def differences(settings: Sequence[Setting]) -> dict[str, list[str]]:
    """Options that all have and in which they differ, with their values."""
    shared = [name for name in settings[0].options if all(name in setting.options for setting in settings)]
    values = {name: [str(setting.options[name]) for setting in settings] for name in shared if name not in UNSAID}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def side_by_side(settings: Sequence[Setting]) -> Table:
    """A column a setting."""
    columns = [Column(setting.name, overflow="fold") for setting in settings]
    table = Table(Column(no_wrap=True), *columns, caption=f"returns and task metrics: last {LAST:.0%} of training")
    known = [facts(setting) for setting in settings]
    for name in dict.fromkeys(itertools.chain(*known)):
        table.add_row(name, *(each.get(name, "") for each in known))
    table.add_section()
    for name, values in differences(settings).items():
        table.add_row(name, *values)
    return table


def draw(settings: Sequence[Setting], metric: str, against: str, path: Path) -> None:
    """A curve a setting, the mean of its runs, which are thin lines; reference returns if there is one environment."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, setting in enumerate(settings):
        values, color = curves(setting.rows, metric)[1], f"C{number % 10}"
        x = curves([row for row in setting.rows if row[metric] is not None], against)[1].mean(0)
        if len(values) > 1:
            axes.plot(x, values.T, color=color, linewidth=0.7, alpha=0.5)
        several = f", mean of {len(values)}" if len(values) > 1 else ""
        axes.plot(x, values.mean(0), color=color, linewidth=2, label=setting.name + several)
    if metric.endswith("_return") and not {"env", "env_options"} & differences(settings).keys():
        for number, (name, value) in enumerate(settings[0].references.items()):
            line = (":", "--", "-.")[number % 3]
            axes.axhline(value, color="0.4", linestyle=line, linewidth=1, label=f"{name} ({value:.1f})")
    axes.set(xlabel=against, ylabel=metric)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def check_metric(settings: Sequence[Setting], metric: str) -> None:
    """Raises OptionError unless all have `metric`."""
    for setting in settings:
        if metric not in setting.rows[0]:
            raise OptionError(f"--metric {metric} is not in {setting.name}: {nearest(metric, setting.rows[0])}take another.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of runs of experiments/run.py or sweep.py")
    parser.add_argument("--metric", default="eval_return", help="what the plot shows (default eval_return)")
    parser.add_argument("--against", choices=AGAINST, default=AGAINST[0], help=f"its other axis (default {AGAINST[0]})")
    parser.add_argument("--plot", type=Path, default=Path("runs/comparison.png"), help="its file (default runs/comparison.png)")
    try:
        values = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
        settings = shortened([setting for folder in values.folders for setting in read_settings(folder)])
        check_metric(settings, values.metric)
    except (OptionError, FolderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Console(soft_wrap=True).print(side_by_side(settings))
    draw(settings, values.metric, values.against, values.plot)
    print(f"wrote {values.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
