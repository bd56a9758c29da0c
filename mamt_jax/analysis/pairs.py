"""Figures per pair of agents: coordination coefficients (Fig. 7, 14, 15) and attention weights (Fig. 11)."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from mamt_jax.analysis import style
from mamt_jax.analysis.runs import Curve, Run, by_task, curve, last_fifth

FEW = 3
"""Largest number of agents whose pairs are drawn as bars instead of a heat map."""
READABLE = 4
"""Largest number of agents for which a heat map shows numbers."""
MOST_MATRICES = 9
"""Largest number of attention matrices that fit on a page."""


def mean_and_deviation(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of C_ij over training, seeds and states, (n, n) each."""
    mean, variance = (curve(run, f"coordination_{moment}").values for moment in ("mean", "variance"))
    return mean.mean((0, 1)), np.sqrt(variance.mean((0, 1)) + mean.var((0, 1)))


def coordination(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 7: mean and deviation of C_ij for every pair, as bars for at most `FEW` agents, else as heat maps."""
    many, few = ([run for run in runs if (len(run.agents) > FEW) == larger] for larger in (True, False))
    blocks = [(draw, shown) for draw, shown in ((draw_heat_maps, many), (draw_all_bars, few)) if shown]
    heights = [3.4 * len(many)] * bool(many) + [2.3 * len(rows_of(len(few)))] * bool(few)
    figure = Figure(figsize=(style.WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False).ravel()
    for part, (draw, shown) in zip(parts, blocks, strict=True):
        draw(part, shown)
    return {"": figure}


def draw_heat_maps(part: FigureBase, runs: Sequence[Run]) -> None:
    """Draws one row per run: a heat map of the means and one of the deviations."""
    every = style.place(part, [2] * len(runs))
    for row, run in enumerate(runs):
        for axes, name, matrix in zip(every[2 * row :], ("mean", "deviation"), mean_and_deviation(run), strict=False):
            draw_matrix(axes, matrix, run.agents)
            style.title(axes, f"{run.task.title}, {run.label}: {name} of $C_{{ij}}$")


def draw_all_bars(part: FigureBase, runs: Sequence[Run]) -> None:
    """Draws one panel of bars per run."""
    for axes, run in zip(style.place(part, rows_of(len(runs))), runs, strict=True):
        draw_bars(axes, run, *mean_and_deviation(run))
        style.title(axes, f"{run.task.title}, {run.label}", "mean and deviation of $C_{ij}$")


def rows_of(count: int, columns: int = 3) -> list[int]:
    """Splits `count` panels into the fewest rows of at most `columns`, with row lengths that differ by at most one."""
    rows = -(-count // columns)
    return [count // rows + (row < count % rows) for row in range(rows)]


def draw_bars(axes: Axes, run: Run, mean: np.ndarray, deviation: np.ndarray) -> None:
    """Draws one bar per ordered pair (i, j), in the colour of agent i."""
    looks = style.agent_looks(len(run.agents))
    pairs = [(i, j) for i in range(len(run.agents)) for j in range(len(run.agents)) if i != j]
    for place, (i, j) in enumerate(pairs):
        hatch = ("", "//", "..")[i % 3]
        axes.bar(place, mean[i, j], color=looks[i].color, alpha=0.6, hatch=hatch, edgecolor="white", width=0.7)
        axes.errorbar(place, mean[i, j], deviation[i, j], color="0.2", capsize=3, linewidth=1)
    axes.set_xticks(range(len(pairs)), [f"{i}, {j}" for i, j in pairs], fontsize=8)
    axes.set(xlabel="agents i, j", ylabel="$C_{ij}$", ylim=(0, 1.05))
    axes.grid(alpha=0.25, axis="y", linewidth=0.6)


def draw_matrix(axes: Axes, matrix: np.ndarray, agents: Sequence[str], largest: float | None = None) -> None:
    """Draws a heat map of a matrix (n, n) without its diagonal; with numbers for at most `READABLE` agents."""
    shown = np.where(np.eye(len(agents), dtype=bool), np.nan, matrix)
    top = np.nanmax(shown) if largest is None else largest
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=top or 1)
    if len(agents) > READABLE:
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.85).ax
        bar.tick_params(labelsize=8)
        bar.yaxis.get_offset_text().set_fontsize(8)
    else:
        for (i, j), value in np.ndenumerate(shown):
            if i != j:
                color = "white" if value > 0.6 * top else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize=9.5)
    style.names_axis(axes.xaxis, agents, slanted=len(agents) > FEW)
    style.names_axis(axes.yaxis, agents)
    axes.set(xlabel="agent j", ylabel="agent i")


def coordination_over_time(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 14 and 15: C_ij over training, for every pair of at most `FEW` agents, else each agent's mean over j."""
    figure, every = style.panels(len(runs))
    for axes, run in zip(every, runs, strict=True):
        found, few = curve(run, "coordination_mean"), len(run.agents) <= FEW
        (draw_pairs if few else draw_means)(axes, run, found)
        style.title(axes, f"{run.task.title}, {run.label}")
        axes.set(ylabel="$C_{ij}$" if few else "$C_{ij}$, mean over j")
        style.episodes_axis(axes, [run.episodes[-1]])
        if not few:
            style.legend_below(axes)
    style.legend(figure, [axes for axes in every if axes.get_legend() is None])
    return {"": figure}


def draw_pairs(axes: Axes, run: Run, found: Curve) -> None:
    """Draws one line per ordered pair (i, j), in the colour of agent i."""
    looks = style.agent_looks(len(run.agents))
    for i, look in enumerate(looks):
        for j in range(len(looks)):
            if i != j:
                line = style.Look(look.color, looks[j].linestyle, looks[j].marker)
                style.draw_curve(axes, found._replace(values=found.values[:, :, i, j]), line, f"i = {i}, j = {j}")


def draw_means(axes: Axes, run: Run, found: Curve) -> None:
    """Draws one line per agent i: the mean of C_ij over j."""
    for i, look in enumerate(style.agent_looks(len(run.agents))):
        mean = found.values[:, :, i].sum(-1) / (len(run.agents) - 1)
        style.draw_curve(axes, found._replace(values=mean), look, run.agents[i])


def attention(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 11: attention weights of each agent's critic at the end of training, which sum to one."""
    shown = few_enough(runs)
    figure, every = style.panels(len(shown), height=2.7)
    for axes, run in zip(every, shown, strict=True):
        weights = last_fifth(curve(run, "attention")).mean(0)
        draw_matrix(axes, weights, run.agents, largest=1.0 if len(run.agents) <= READABLE else None)
        style.title(axes, f"{run.task.title}, {run.label}")
    return {"": figure}


def few_enough(runs: Sequence[Run]) -> list[Run]:
    """All runs, ordered by task. If they are more than `MOST_MATRICES`, only those with the most frequent label."""
    ordered = [run for compared in by_task(runs).values() for run in compared]
    if len(ordered) <= MOST_MATRICES:
        return ordered
    label = Counter(run.label for run in ordered).most_common(1)[0][0]
    return [run for run in ordered if run.label == label]
