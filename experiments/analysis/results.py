"""The committed results: their list, what is shown of them, and the two-panel figure of each environment."""

import csv
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from mamt_jax.analysis import style
from mamt_jax.analysis.returns import DILEMMA, seeds_text, split
from mamt_jax.analysis.runs import Curve, Run, curve, last_fifth, mean_over_agents, read_folder, read_folders
from mamt_jax.training.references import RETURNS, Reference

RESULTS = Path(__file__).parents[1] / "results"
ALGORITHMS = (
    *("maac", "mamd", "mamd_op", "mamt", "mappo", "mappo_shared", "mappo_annealed", "mappo_events"),
    *("mappo_local", "mappo_local_shared", "maddpg", "maddpg_shared", "lola", "lola_naive"),
)
VARIANTS = ("maac_expected", "mamd_epsilon_1")  # only in the table
POLICIES = ("random", "do_nothing", "scripted")
ORIGINAL = "maac_original.csv"
"""The learning curve of the authors' MAAC in PyTorch on Rover-Tower, one seed."""
BIN = 240


class Metric(NamedTuple):
    """A metric of runs, the title of its panel, and the unit of its axis."""

    name: str
    title: str
    unit: str


RETURN = Metric("train_return", "training return", "return per agent and episode")


class Shown(NamedTuple):
    """What the figure and the table of an environment show.

    Attributes:
        title: title of the figure.
        task: the task metric in the table, and the title of its column.
        right: metric of the right panel.
        references: reference policies whose returns are drawn.
    """

    title: str
    task: tuple[str, str]
    right: Metric
    references: tuple[str, ...]


ENVIRONMENTS = {
    "rover_tower": Shown(
        "Rover-Tower",
        ("rovers_on_goal", "rovers on goal"),
        Metric("kl_old", "KL to the old policy, mean over agents", "nats"),
        ("random", "scripted"),
    ),
    "spread": Shown(
        "Spread, 2 agents",
        ("landmarks_covered", "landmarks covered"),
        Metric("train_task/landmarks_covered", "landmarks covered, mean over steps", "share"),
        ("random", "do_nothing"),
    ),
    "spread_n3": Shown(
        "Spread, 3 agents",
        ("landmarks_covered", "landmarks covered"),
        Metric("train_task/landmarks_covered", "landmarks covered, mean over steps", "share"),
        ("random", "do_nothing"),
    ),
    "matrix_game": Shown(
        "Iterated prisoner's dilemma",
        ("first_action", "cooperation"),
        Metric("train_task/first_action", "players that cooperate", "share"),
        ("random", "scripted"),
    ),
    "pursuit": Shown(
        "Pursuit",
        ("evaders_left", "evaders left, mean over steps"),
        Metric("train_task/evaders_left", "evaders left, mean over steps", "share"),
        ("random", "do_nothing"),
    ),
    "multiwalker_original": Shown(
        "Multi-Walker, the original",
        ("displacement", "displacement, m"),
        Metric("train_task/displacement", "displacement of the package", "m"),
        ("random", "do_nothing"),
    ),
    "multiwalker": Shown(
        "Multi-Walker",
        ("displacement", "displacement, m"),
        Metric("train_task/displacement", "displacement of the package", "m"),
        ("random", "do_nothing"),
    ),
}


def trained(folder: Path, names: Sequence[str] = ALGORITHMS) -> list[str]:
    """The runs in `names` that have results in `folder`."""
    return [name for name in names if (folder / name / "metrics.jsonl").exists()]


@functools.cache
def read_run(folder: Path) -> Run:
    """Reads a committed folder, which has a single setting with all its seeds."""
    (run,) = read_folder(folder)
    return run


def mean_curve(run: Run, metric: str) -> Curve:
    """The curve of `metric` for every seed, mean over agents, (R, T)."""
    return mean_over_agents(curve(run, metric))


def final(run: Run, metric: str) -> np.ndarray:
    """Mean of `metric` over the last fifth of training, for each seed."""
    return last_fifth(mean_curve(run, metric))


def length(run: Run) -> int:
    """Number of episodes that a run was trained for."""
    return round(curve(run, "train_return").episodes[-1])


def read_returns() -> dict[str, dict[str, Any]]:
    """Reads the returns of the reference policies, by task."""
    return json.loads(RETURNS.read_text())["returns"]


def read_result(name: str) -> dict[str, Any]:
    """Reads a JSON file of results by its name."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def shown_environments() -> list[str]:
    """The environments that have runs."""
    return [name for name in ENVIRONMENTS if trained(RESULTS / name)]


def draw(folder: Path, shown: Shown, references: dict[str, Any]) -> Figure:
    """Draws training returns and one more metric, with one row per group of runs.

    The returns of reference policies, and of the original code if there are any, are drawn for comparison.
    """
    runs = [read_run(folder / name)._replace(label=name) for name in trained(folder)]
    original = original_curve(folder / ORIGINAL) if (folder / ORIGINAL).exists() else None
    groups = split(runs, len(shown.references) + (original is not None))
    figure, every = style.panels(2 * len(groups), columns=2, height=2.5)
    rows = [(every[2 * row], every[2 * row + 1]) for row in range(len(groups))]
    looks = style.looks([run.label for run in runs])
    policies = {name: Reference(references[name]["return"], references[name]["return_std_error"]) for name in shown.references}
    for (returns, right), group in zip(rows, groups, strict=True):
        for axes, metric in ((returns, RETURN), (right, shown.right)):
            curves = [mean_curve(run, metric.name) for run in group]
            for run, found in zip(group, curves, strict=True):
                style.draw_curve(axes, found, looks[run.label], f"{run.label} ({seeds_text([run])})")
            axes.set_ylabel(metric.unit)
            style.title(axes, metric.title)
            style.episodes_axis(axes, [found.episodes[-1] for found in curves])
        style.draw_references(returns, policies)
        if shown.right.name == "kl_old":
            style.logarithmic_values(right)
    if original is not None:
        same = original.episodes <= rows[0][0].dataLim.x1
        label = "original MAAC (PyTorch), 1 seed"
        rows[0][0].plot(original.episodes[same], original.values[0, same], color="0.4", linewidth=1, label=label)
    for column in zip(*rows, strict=True):
        style.share_values(column)
    figure.suptitle(shown.title, fontsize=11)
    style.legend(figure, every, columns=4)
    return figure


def original_batches(path: Path) -> Curve:
    """Training returns of the original code, (1, T), one per batch of episodes."""
    with path.open() as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    episodes, returns = (np.array([float(row[name]) for row in rows]) for name in ("episodes", "mean_episode_return"))
    return Curve(episodes, returns[None])


def original_curve(path: Path) -> Curve:
    """Training returns of the original code, (1, T), means over `BIN` episodes."""
    episodes, returns = original_batches(path)
    width = BIN // int(episodes[0])
    binned = returns[:, : returns.shape[1] // width * width].reshape(1, -1, width).mean(-1)
    return Curve(BIN * (np.arange(binned.shape[1]) + 1), binned)


def committed_runs() -> list[Run]:
    """The runs that the paper's figures show: every environment's algorithms, without variants."""
    return read_folders([RESULTS / env / name for env in (*ENVIRONMENTS, *DILEMMA) for name in trained(RESULTS / env)])
