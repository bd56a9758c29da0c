"""What holds between two agents: coordination coefficients (Fig. 7, 14, 15) and attention weights (Fig. 11)."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamt_jax.analysis import style
from mamt_jax.analysis.runs import Curve, Run, curve, last_fifth

FEW = 3
"""Agents up to whom pairs are bars rather than a heat map."""
READABLE = 4
"""Agents up to whom a heat map's numbers can be read."""


def mean_and_deviation(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """C_ij over training, seeds and states: mean and deviation, (n, n) each."""
    mean, variance = (curve(run, f"coordination_{moment}").values for moment in ("mean", "variance"))
    return mean.mean((0, 1)), np.sqrt(variance.mean((0, 1)) + mean.var((0, 1)))


def coordination(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 7: mean and deviation of the coefficients of every pair; bars where agents are few, heat maps where many."""
    drawers: list[Callable[[Axes], None]] = []
    for run in sorted(runs, key=lambda run: len(run.agents) <= FEW):
        mean, deviation = mean_and_deviation(run)
        if len(run.agents) <= FEW:
            drawers.append(partial(draw_bars, run=run, mean=mean, deviation=deviation))
        else:
            drawers += [
                partial(draw_matrix, matrix=matrix, agents=run.agents, title=f"{run.task.title}: {name} of $C_{{ij}}$")
                for name, matrix in (("mean", mean), ("deviation", deviation))
            ]
    figure, every = style.panels(len(drawers), columns=4, size=(3.3, 2.7))
    for axes, draw in zip(every, drawers, strict=True):
        draw(axes)
    return {"": figure}


def draw_bars(axes: Axes, run: Run, mean: np.ndarray, deviation: np.ndarray) -> None:
    """A bar for each ordered pair, in the colour of the agent that depends."""
    looks = style.agent_looks(len(run.agents))
    pairs = [(i, j) for i in range(len(run.agents)) for j in range(len(run.agents)) if i != j]
    for place, (i, j) in enumerate(pairs):
        hatch = ("", "//", "..")[i % 3]
        axes.bar(place, mean[i, j], color=looks[i].color, alpha=0.6, hatch=hatch, edgecolor="white", width=0.7)
        axes.errorbar(place, mean[i, j], deviation[i, j], color="0.2", capsize=3, linewidth=1)
    axes.set_xticks(range(len(pairs)), [f"{i}, {j}" for i, j in pairs], fontsize=8)
    axes.set(xlabel="agents i, j", ylabel="$C_{ij}$, mean and deviation", ylim=(0, 1.05))
    axes.set_title(f"{run.task.title}, {run.label}", fontsize=10)
    axes.grid(alpha=0.25, axis="y", linewidth=0.6)


def draw_matrix(axes: Axes, matrix: np.ndarray, agents: Sequence[str], title: str, largest: float | None = None) -> None:
    """A heat map of (n, n), light where small, its diagonal empty; numbers where they can be read."""
    shown = np.where(np.eye(len(agents), dtype=bool), np.nan, matrix)
    top = np.nanmax(shown) if largest is None else largest
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=top or 1)
    if len(agents) > READABLE:
        axes.figure.colorbar(image, ax=axes, shrink=0.85)
    else:
        for (i, j), value in np.ndenumerate(shown):
            if i != j:
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 * top else "black")
    axes.set_xticks(range(len(agents)), agents, rotation=45 if len(agents) > FEW else 0, fontsize=7)
    axes.set_yticks(range(len(agents)), agents, fontsize=7)
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="agent j", ylabel="agent i")


def coordination_over_time(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 14 and 15: coefficients over training; of every pair where agents are few, else each agent's mean over others."""
    figure, every = style.panels(len(runs))
    for axes, run in zip(every, runs, strict=True):
        found, few = curve(run, "coordination_mean"), len(run.agents) <= FEW
        (draw_pairs if few else draw_means)(axes, run, found)
        axes.set_title(f"{run.task.title}, {run.label}", fontsize=10)
        axes.set(ylabel="$C_{ij}$" if few else "$C_{ij}$, mean over j")
        style.episodes_axis(axes, [run.episodes[-1]])
        axes.legend(fontsize=6, frameon=False, ncols=1 if len(run.agents) < FEW else 2)
    return {"": figure}


def draw_pairs(axes: Axes, run: Run, found: Curve) -> None:
    """A line for each ordered pair, in the colour of the agent that depends."""
    looks = style.agent_looks(len(run.agents))
    for i, look in enumerate(looks):
        for j in range(len(looks)):
            if i != j:
                line = style.Look(look.color, looks[j].linestyle, looks[j].marker)
                style.draw_curve(axes, found._replace(values=found.values[:, :, i, j]), line, f"i = {i}, j = {j}")


def draw_means(axes: Axes, run: Run, found: Curve) -> None:
    """A line for each agent."""
    for i, look in enumerate(style.agent_looks(len(run.agents))):
        mean = found.values[:, :, i].sum(-1) / (len(run.agents) - 1)
        style.draw_curve(axes, found._replace(values=mean), look, run.agents[i])


def attention(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 11: whom each critic attends to at the end of training; an agent's weights add up to one."""
    tasks, labels = list(dict.fromkeys(run.task for run in runs)), list(dict.fromkeys(run.label for run in runs))
    found = {(run.label, run.task): run for run in runs}
    figure, every = style.panels(len(labels) * len(tasks), columns=len(tasks), size=(3.1, 2.6))
    for place, axes in enumerate(every):
        label, task = labels[place // len(tasks)], tasks[place % len(tasks)]
        run = found.get((label, task))
        axes.set_visible(run is not None)
        if run is not None:
            weights = last_fifth(curve(run, "attention")).mean(0)
            largest = 1.0 if len(run.agents) <= READABLE else None
            draw_matrix(axes, weights, run.agents, f"{task.title}, {label}", largest)
    return {"": figure}
