"""Figure and table of `experiments/dependence.py`: who depends on whom, and how wide trust regions are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.markdown import markdown
from analysis.results import read_result
from mamt_jax.analysis import style

TITLES = {
    "spread3_sep": "Spread-3-Sep",
    "spread3_mix": "Spread-3-Mix",
    "spread3_ful": "Spread-3-Ful",
    "rover_tower": "Rover-Tower",
}
LOOKS = [style.Look("#0072B2", "-", "o"), style.Look("#D55E00", "--", "D"), style.Look("#009E73", "-.", "s")]
SCORES = {"precision": "precision", "recall": "recall", "false_positive_rate": "false pairs found"}
LAST = 0.25
"""Share of training, at its end, over which sizes and divergences are averaged."""

Run = Mapping[str, Any]


def by_task(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each task, in the order of `TITLES`."""
    found = {task: [run for run in runs if run["env"] == task] for task in TITLES}
    return {task: of_task for task, of_task in found.items() if of_task}


def late(run: Run, name: str) -> np.ndarray:
    """Values of the last part of training, (evaluations, ...)."""
    values = np.array(run["history"][name])
    return values[-max(1, round(LAST * len(values))) :]


def kinds(run: Run) -> dict[str, list[int]]:
    """Agents by kind: those of the same name without a number, or each for itself if all have the same."""
    names = [name.rpartition("_")[0] for name in run["agents"]]
    if len(set(names)) == 1:
        return {name: [i] for i, name in enumerate(run["agents"])}
    return {f"{kind}s": [i for i, name in enumerate(names) if name == kind] for kind in dict.fromkeys(names)}


def draw(content: Mapping[str, Any]) -> Figure:
    """Draws for each task the mean coefficients at the end of training, and the sizes of trust regions over training."""
    tasks = by_task(content["runs"])
    figure, every = style.panels(2 * len(tasks), columns=2, height=2.4)
    for (task, runs), coefficients, sizes in zip(tasks.items(), every[::2], every[1::2], strict=True):
        draw_coefficients(coefficients, runs)
        style.title(coefficients, TITLES[task], "how much a row depends on a column")
        draw_sizes(sizes, runs)
        style.title(sizes, TITLES[task], "epsilon, mean and range of seeds")
    return figure


def draw_coefficients(axes: Axes, runs: Sequence[Run]) -> None:
    """Draws the mean coefficients as shades, with numbers if there is room."""
    mean = np.mean([late(run, "coordination").mean(0) for run in runs], 0)
    axes.imshow(mean, cmap="Blues", vmin=0, vmax=max(0.5, mean.max()))
    names = [name.replace("agent_", "").replace("rover_", "r").replace("tower_", "t") for name in runs[0]["agents"]]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    for i, j in np.argwhere(mean >= 0.005) if len(names) < 6 else ():
        axes.text(
            j, i, f"{mean[i, j]:.2f}", ha="center", va="center", fontsize=8, color="white" if mean[i, j] > 0.3 else "black"
        )


def draw_sizes(axes: Axes, runs: Sequence[Run]) -> None:
    """Draws epsilon of each kind of agents over the updates, on a logarithmic axis."""
    updates = np.array(runs[0]["history"]["updates"])
    sizes = np.array([run["history"]["epsilon"] for run in runs])  # (seeds, evaluations, n)
    axes.set(xlabel="updates", ylabel="epsilon", yscale="log", ylim=(1, 130))
    for (kind, agents), look in zip(kinds(runs[0]).items(), LOOKS, strict=False):
        of_kind = sizes[:, :, agents]
        axes.fill_between(updates, of_kind.min((0, 2)), of_kind.max((0, 2)), color=look.color, alpha=0.15, linewidth=0)
        mean = np.exp(np.log(of_kind).mean((0, 2)))
        axes.plot(updates, mean, color=look.color, linestyle=look.linestyle, label=kind.replace("_", " "))
    axes.grid(alpha=0.25, linewidth=0.6)
    style.legend_below(axes, columns=3)


def mean_of(scores: Sequence[float | None], agents: Sequence[int]) -> float:
    """Mean score of some agents, of those that have it; 0 if none has."""
    known = [score for i in agents if (score := scores[i]) is not None]
    return float(np.mean(known)) if known else 0.0


def spread_of(values: Sequence[Any]) -> str:
    """Formats the mean and the range over seeds."""
    mean, low, high = np.mean(values), np.min(values), np.max(values)
    return f"{mean:.3g} ({low:.3g} to {high:.3g})"


def table(runs: Sequence[Run]) -> str:
    """A table of sizes, joint divergence, precision and recall, mean and range over seeds."""
    titles = ("seeds", "return", "agents", "epsilon", *SCORES.values(), "joint divergence / target")
    rows: list[Sequence[str]] = [("task", *titles)]
    for task, of_task in by_task(runs).items():
        first = True
        for kind, agents in kinds(of_task[0]).items():
            sizes = [np.exp(np.log(late(run, "epsilon")[:, agents]).mean()) for run in of_task]
            cells = [kind.replace("_", " "), spread_of(sizes)]
            dependent = of_task[0]["recall"][agents[0]] is not None
            for name in SCORES:
                shown = dependent or name == "false_positive_rate"
                cells.append(spread_of([mean_of(run[name], agents) for run in of_task]) if shown else "")
            returns = [late(run, "return").mean() for run in of_task]
            divergence = [late(run, "joint_divergence").mean() / run["target"] for run in of_task]
            of_all = (TITLES[task], str(len(of_task)), spread_of(returns)) if first else ("", "", "")
            rows.append((*of_all, *cells, spread_of(divergence) if first else ""))
            first = False
    return markdown(rows)


TABLES: dict[str, Callable[[], str]] = {"dependence": lambda: table(read_result("dependence")["runs"])}
"""Functions that make the tables, by name."""
