"""Figures of returns: learning curves (Fig. 4), the dilemma (Fig. 1a and 10), and probabilities of improvement (Sec. 6)."""

import itertools
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamt_jax.analysis import style
from mamt_jax.analysis.runs import FAMILY, Run, Task, by_task, curve, last_fifth
from mamt_jax.analysis.statistics import Interval, bootstrap, interquartile_mean, probability_of_improvement

RETURN = "train_return"
BASELINE = "maac"
DILEMMA = {"spread3_sep": ("maac", "mamd"), "spread3_mix": ("maac", "mamd", "mamd_op"), "spread3_ful": ("maac", "mamd")}
"""The algorithms that App. F compares, by task."""
SAME_AS_OPTIMAL = {"spread3_sep": "maac", "spread3_ful": "mamd"}
"""The algorithm that MAMD-OP reduces to, by task: MAAC if no agent depends on another, MAMD if all do."""


def draw_returns(axes: Axes, runs: Sequence[Run], looks: dict[str, style.Look]) -> None:
    """Draws the return of every run over training, and the returns of the reference policies."""
    for run in runs:
        style.draw_curve(axes, curve(run, RETURN), looks[run.label], run.label)
    style.draw_references(axes, runs[0].references)
    style.episodes_axis(axes, [run.episodes[-1] for run in runs])


def learning_curves(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 4: one panel per task, or several if one panel would have too many lines."""
    return {"": draw_tasks(runs)[0]}


def draw_tasks(runs: Sequence[Run]) -> tuple[Figure, list[tuple[Axes, list[Run]]]]:
    """Draws the returns on every task; returns the figure, and its panels with their runs.

    Panels of one task share the y axis.
    """
    tasks = in_rows([split(compared) for compared in by_task(runs).values()])
    figure, every = style.panels(sum(map(len, tasks)))
    looks = style.looks([run.label for run in runs])
    left, drawn = iter(every), []
    for groups in tasks:
        shared = [next(left) for _ in groups]
        for number, (axes, group) in enumerate(zip(shared, groups, strict=True), 1):
            draw_returns(axes, group, looks)
            part = f", part {number} of {len(groups)}" if len(groups) > 1 else ""
            style.title(axes, f"{group[0].task.title}{part}", seeds_text(group))
            axes.set_ylabel("training return per episode")
        style.share_values(shared)
        drawn += zip(shared, groups, strict=True)
    style.legend(figure, every)
    return figure, drawn


def in_rows(tasks: Sequence[list[list[Run]]], columns: int = 3) -> list[list[list[Run]]]:
    """Reorders tasks: where possible, all panels of a task are in one row."""
    ordered, left, room = [], list(tasks), columns
    while left:
        chosen = next((place for place, groups in enumerate(left) if len(groups) <= room), 0)
        ordered.append(left.pop(chosen))
        room = (room - len(ordered[-1])) % columns or columns
    return ordered


def split(runs: Sequence[Run], others: int | None = None) -> list[list[Run]]:
    """Splits the runs of a task into groups that fit one panel, and separates `FAMILY` from the rest.

    Args:
        runs: runs of one task.
        others: number of other lines in each panel. By default it is the number of reference policies.
    """
    others = len(runs[0].references.keys() & style.REFERENCE_LINES.keys()) if others is None else others
    room = max(1, style.MOST_LINES - others)
    if len(runs) <= room:
        return [list(runs)]
    families = ([run for run in runs if (run.algo in FAMILY) == inside] for inside in (True, False))
    return [family[start : start + room] for family in families for start in range(0, len(family), room)]


def seeds_text(runs: Sequence[Run]) -> str:
    """The number of seeds of the runs, in words."""
    fewest, most = (find(len(run.seeds) for run in runs) for find in (min, max))
    return f"{fewest} to {most} seeds" if fewest < most else f"{most} seed{'s' if most > 1 else ''}"


def dilemma(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 1a and 10: returns of MAAC, MAMD and MAMD-OP if no agents, two agents or all three depend on each other."""
    ordered = sorted(runs, key=lambda run: list(DILEMMA).index(run.task.env))
    figure, drawn = draw_tasks(ordered)
    there = {(run.task, run.algo) for run in runs}
    for axes, (run, *_) in drawn:
        if run.task.env in SAME_AS_OPTIMAL and (run.task, "mamd_op") not in there:
            axes.set_xlabel(f"episodes (mamd_op is {SAME_AS_OPTIMAL[run.task.env]} here)")
    return {"": figure}


def normalised(run: Run) -> np.ndarray:
    """Return over the last fifth of training, (R,), scaled to 0 for the random and 1 for the scripted policy."""
    random, scripted = run.references["random"].value, run.references["scripted"].value
    return (last_fifth(curve(run, RETURN)) - random) / (scripted - random)


def by_label(runs: Sequence[Run]) -> dict[str, dict[Task, Run]]:
    """Groups runs by label and task."""
    labels: dict[str, dict[Task, Run]] = {}
    for run in runs:
        labels.setdefault(run.label, {})[run.task] = run
    return labels


def common_tasks(runs: dict[Task, Run], others: dict[Task, Run]) -> list[Task]:
    """Tasks of `runs` that are also in `others`."""
    return [task for task in runs if task in others]


def has_scale(run: Run) -> bool:
    """Whether the reference returns that normalisation needs are known."""
    return {"random", "scripted"} <= run.references.keys()


def improvement(runs: Sequence[Run]) -> dict[str, Figure]:
    """Compares each algorithm with MAAC on their common tasks: normalised returns and probability of improvement."""
    labels = by_label(runs)
    baseline = labels.pop(BASELINE)
    common = {label: tasks for label, own in labels.items() if (tasks := common_tasks(own, baseline))}
    numbers = {task: number for number, task in enumerate(dict.fromkeys(itertools.chain(*common.values())), 1)}
    key = textwrap.wrap(", ".join(f"{number} {task.title}" for task, number in numbers.items()), 120, break_on_hyphens=False)
    figure, (scores, chances) = style.panels(2, height=1.3 + 0.3 * len(common) + 0.17 * len(key))
    looks = style.looks([BASELINE, *common])
    for axes, draw in ((scores, draw_score), (chances, draw_chance)):
        rows = []
        for label, tasks in common.items():
            covered = draw(axes, len(rows), labels[label], baseline, tasks, looks[label])
            rows += [f"{label}: {' '.join(map(str, sorted(numbers[task] for task in covered)))}"] if covered else []
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.invert_yaxis()
    style.title(scores, f"normalised return, IQM (hollow: {BASELINE} on the same tasks)")
    scores.set_xlabel("0 is the random policy, 1 the scripted one")
    chances.axvline(0.5, color="0.45", linestyle="--", linewidth=1)
    style.title(chances, f"probability of ending above {BASELINE}")
    chances.set(xlabel="probability, over the tasks of the row", xlim=(-0.03, 1.03))
    figure.suptitle("\n".join(["Tasks: " + key[0], *key[1:]]), fontsize=8)
    return {"": figure}


def draw_score(
    axes: Axes, row: int, runs: dict[Task, Run], baseline: dict[Task, Run], tasks: Sequence[Task], look: style.Look
) -> list[Task]:
    """Draws normalised returns over the tasks that have a scale, the baseline's as a circle; returns these tasks."""
    covered = [task for task in tasks if has_scale(runs[task])]
    if covered:
        both = [bootstrap(interquartile_mean, [normalised(which[task]) for task in covered]) for which in (runs, baseline)]
        axes.plot([both[1].value], [row], color="black", marker="o", markersize=6, markerfacecolor="none")
        draw_point(axes, row, both[0], look)
    return covered


def draw_chance(
    axes: Axes, row: int, runs: dict[Task, Run], baseline: dict[Task, Run], tasks: Sequence[Task], look: style.Look
) -> list[Task]:
    """Draws the probability of improvement over the baseline on `tasks`; returns these tasks."""
    draw_point(axes, row, chance(runs, baseline), look)
    return list(tasks)


def chance(runs: dict[Task, Run], others: dict[Task, Run]) -> Interval:
    """Probability that a run ends above one of the others, mean over their common tasks."""
    strata = [last_fifth(curve(which[task], RETURN)) for which in (runs, others) for task in common_tasks(runs, others)]
    return bootstrap(probability_of_improvement, strata)


def draw_point(axes: Axes, row: int, found: Interval, look: style.Look) -> None:
    """Draws an estimate and its interval."""
    axes.plot([found.low, found.high], [row, row], color=look.color, linewidth=5, alpha=0.3, solid_capstyle="butt")
    axes.plot([found.value], [row], color=look.color, marker=look.marker, markersize=6)
