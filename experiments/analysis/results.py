"""The committed results: which there are, what is shown of them, and the two-panel figure of each environment."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.analysis.original import ORIGINAL, original_curve
from mamt_jax.analysis import style
from mamt_jax.analysis.returns import DILEMMA
from mamt_jax.analysis.runs import Run, read_folders
from mamt_jax.analysis.statistics import over_seeds
from mamt_jax.training.references import Reference

RESULTS = Path(__file__).parents[1] / "results"
ALGORITHMS = (
    *("maac", "mamd", "mamd_op", "mamt", "mappo", "mappo_shared", "mappo_annealed", "mappo_events"),
    *("mappo_local", "mappo_local_shared", "maddpg", "maddpg_shared", "lola", "lola_naive"),
)
VARIANTS = ("maac_expected", "mamd_epsilon_1")  # in the table alone
POLICIES = ("random", "do_nothing", "scripted")


class Shown(NamedTuple):
    """What the figure and the table of an environment show.

    Attributes:
        title: of its figure.
        task: the task metric in its table, and its name there.
        right: what the right panel shows, and its name there.
        references: policies whose returns are drawn.
    """

    title: str
    task: tuple[str, str]
    right: tuple[str, str]
    references: tuple[str, ...]


ENVIRONMENTS = {
    "rover_tower": Shown(
        "Rover-Tower",
        ("rovers_on_goal", "rovers on goal"),
        ("kl_old", "KL to the old policy, nats, mean over agents"),
        ("random", "scripted"),
    ),
    "spread": Shown(
        "Spread, 2 agents",
        ("landmarks_covered", "landmarks covered"),
        ("train_task/landmarks_covered", "share of landmarks covered, mean over steps"),
        ("random", "do_nothing"),
    ),
    "spread_n3": Shown(
        "Spread, 3 agents",
        ("landmarks_covered", "landmarks covered"),
        ("train_task/landmarks_covered", "share of landmarks covered, mean over steps"),
        ("random", "do_nothing"),
    ),
    "matrix_game": Shown(
        "Iterated prisoner's dilemma",
        ("first_action", "cooperation"),
        ("train_task/first_action", "share of players that cooperate"),
        ("random", "scripted"),
    ),
    "pursuit": Shown(
        "Pursuit",
        ("evaders_left", "evaders left, mean over steps"),
        ("train_task/evaders_left", "share of evaders left, mean over steps"),
        ("random", "do_nothing"),
    ),
    "multiwalker_original": Shown(
        "Multi-Walker, the original",
        ("displacement", "displacement, m"),
        ("train_task/displacement", "displacement of the package, m"),
        ("random", "do_nothing"),
    ),
    "multiwalker": Shown(
        "Multi-Walker",
        ("displacement", "displacement, m"),
        ("train_task/displacement", "displacement of the package, m"),
        ("random", "do_nothing"),
    ),
}


def trained(folder: Path, names: Sequence[str] = ALGORITHMS) -> list[str]:
    """Those of `names` whose runs are there."""
    return [name for name in names if (folder / name / "metrics.jsonl").exists()]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curves(rows: list[dict[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Episodes (T,), mean of the runs, and `metric` of every run (R, T); metrics of agents are averaged.

    Evaluations at which a run has no value are left out: none of its episodes has ended since the one before, say.
    """
    runs = {row["run"] for row in rows}
    points: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["updates"] and np.isfinite(np.array(row[metric], float)).all():
            points.setdefault(row["updates"], []).append(row)
    kept = [sorted(point, key=lambda row: row["run"]) for point in points.values() if len(point) == len(runs)]
    values = np.array([[np.mean(np.array(row[metric], float)) for row in point] for point in kept])
    return np.array([round(np.mean([row["episodes"] for row in point])) for point in kept]), values.T


def final(folder: Path, metric: str) -> np.ndarray:
    """Mean of `metric` over the last fifth of training, for each run."""
    episodes, values = curves(read_rows(folder), metric)
    return values[:, episodes > 0.8 * episodes[-1]].mean(1)


def read_result(name: str) -> dict[str, Any]:
    """A file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def shown_environments() -> list[str]:
    """Those with runs."""
    return [name for name in ENVIRONMENTS if trained(RESULTS / name)]


def draw(folder: Path, shown: Shown, references: dict[str, Any]) -> Figure:
    """Training returns beside the reference policies' and the original's, and one more metric."""
    figure, (returns, right) = style.panels(2, size=(5.2, 3.9))
    names = trained(folder)
    looks, lengths = style.looks(names), []
    for name in names:
        rows = read_rows(folder / name)
        for axes, metric in ((returns, "train_return"), (right, shown.right[0])):
            episodes, values = curves(rows, metric)
            label = f"{name} ({len(values)} seeds)"
            style.draw_line(axes, episodes, over_seeds(values), looks[name], label)
            lengths.append(episodes[-1])
    if (folder / ORIGINAL).exists():
        episodes, values = original_curve(folder / ORIGINAL)
        same = episodes <= max(lengths)
        returns.plot(episodes[same], values[same], color="0.4", linewidth=1, label="original MAAC (PyTorch), 1 seed")
    style.draw_references(
        returns,
        {name: Reference(references[name]["return"], references[name]["return_std_error"]) for name in shown.references},
    )
    returns.set(ylabel="training return per agent and episode", title=shown.title)
    right.set_ylabel(shown.right[1].replace(", ", ",\n"))
    if shown.right[0] == "kl_old":
        style.logarithmic_values(right)
    for axes in (returns, right):
        style.episodes_axis(axes, lengths)
    style.legend(figure, (returns, right), columns=4)
    return figure


def committed_runs() -> list[Run]:
    """The runs that the paper's figures show: every environment's algorithms, without variants."""
    return read_folders([RESULTS / env / name for env in (*ENVIRONMENTS, *DILEMMA) for name in trained(RESULTS / env)])
