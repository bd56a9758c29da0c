"""What algorithms reach: learning curves (Fig. 4), the dilemma (Fig. 1a and 10), and how sure one is better (Sec. 6)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import style
from experiments.drawing.intervals import Interval, bootstrap, interquartile_mean, over_seeds, probability_of_improvement
from experiments.drawing.runs import Run, Task, by_task, curve, last_fifth

RETURN = "train_return"
DILEMMA = ("spread3_sep", "spread3_mix", "spread3_ful")
BASELINE = "maac"
# What App. F makes of MAMD-OP where nobody depends on anybody, and where everybody does.
SAME_AS_OPTIMAL = {"spread3_sep": "maac", "spread3_ful": "mamd"}


def interval_over_seeds(run: Run, metric: str) -> tuple[np.ndarray, Interval]:
    """Episodes, and the interquartile mean of seeds with its interval at each."""
    found = curve(run, metric)
    return found.episodes, over_seeds(found.values)


def draw_returns(axes: Axes, runs: Sequence[Run], looks: dict[str, style.Look]) -> None:
    """Every run's return over training, beside the reference policies'."""
    for run in runs:
        style.draw_line(axes, *interval_over_seeds(run, RETURN), looks[run.label], run.label)
    style.draw_references(axes, runs[0].references)
    style.episodes_axis(axes, [run.episodes[-1] for run in runs])


def learning_curves(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 4: a panel for each task."""
    tasks = by_task(runs)
    figure, every = style.panels(len(tasks))
    looks = style.looks([run.label for run in runs])
    for axes, (task, compared) in zip(every, tasks.items(), strict=True):
        draw_returns(axes, compared, looks)
        axes.set_title(f"{task.title} ({seeds_text(compared)})", fontsize=10)
        axes.set_ylabel("training return per episode")
    style.legend(figure, every)
    return {"": figure}


def seeds_text(runs: Sequence[Run]) -> str:
    """How many seeds the runs have, in words."""
    counts = sorted({len(run.seeds) for run in runs})
    return f"{counts[0]} seed{'s' if counts[0] > 1 else ''}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def dilemma(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 1a and 10: MAAC, MAMD and MAMD-OP where nobody, two or all of three agents depend on each other."""
    tasks = by_task(sorted(runs, key=lambda run: DILEMMA.index(run.task.env)))
    figure, every = style.panels(len(tasks))
    looks = style.looks([run.label for run in runs])
    for axes, (task, compared) in zip(every, tasks.items(), strict=True):
        draw_returns(axes, compared, looks)
        axes.set_title(f"{task.title} ({seeds_text(compared)})", fontsize=10)
        if task.env in SAME_AS_OPTIMAL and not any(run.algo == "mamd_op" for run in compared):
            axes.text(
                0.98, 0.04, f"mamd_op is {SAME_AS_OPTIMAL[task.env]} here", transform=axes.transAxes, ha="right", fontsize=8
            )
    every[0].set_ylabel("training return per episode")
    style.legend(figure, every)
    return {"": figure}


def normalised(run: Run) -> np.ndarray:
    """Return over the last fifth of training, 0 where random plays and 1 where the scripted policy does; (R,)."""
    random, scripted = run.references["random"], run.references["scripted"]
    return (last_fifth(curve(run, RETURN)) - random) / (scripted - random)


def by_label(runs: Sequence[Run]) -> dict[str, dict[Task, Run]]:
    """Runs of every label, by task."""
    labels: dict[str, dict[Task, Run]] = {}
    for run in runs:
        labels.setdefault(run.label, {})[run.task] = run
    return labels


def improvement(runs: Sequence[Run]) -> dict[str, Figure]:
    """Normalised returns over tasks, and the probability that an algorithm's run beats one of MAAC on a task that both have."""
    labels = by_label(runs)
    figure, (scores, chances) = style.panels(2, size=(5.2, 0.9 + 0.36 * len(labels)))
    looks = style.looks(list(labels))
    rows: dict[int, str] = {}
    for row, (label, tasks) in enumerate(labels.items()):
        known = [run for run in tasks.values() if {"random", "scripted"} <= run.references.keys()]
        if known:
            draw_point(scores, row, bootstrap(interquartile_mean, [normalised(run) for run in known]), looks[label])
        rows[row] = f"{label}, {len(known)} task{'s' if len(known) > 1 else ''}"
    scores.set_yticks(list(rows), list(rows.values()), fontsize=8)
    scores.set_xlabel("normalised return (0 random, 1 scripted), IQM")
    compared = draw_chances(chances, labels, looks)
    chances.set_yticks(range(len(compared)), compared, fontsize=8)
    chances.axvline(0.5, color="0.45", linestyle="--", linewidth=1)
    chances.set(xlabel=f"probability that it ends above {BASELINE}", xlim=(-0.03, 1.03))
    for axes in (scores, chances):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.invert_yaxis()
    return {"": figure}


def chance(runs: dict[Task, Run], others: dict[Task, Run]) -> Interval:
    """P(a run ends above one of the others on a task that both have)."""
    strata = [last_fifth(curve(which[task], RETURN)) for which in (runs, others) for task in runs if task in others]
    return bootstrap(probability_of_improvement, strata)


def draw_chances(axes: Axes, labels: dict[str, dict[Task, Run]], looks: dict[str, style.Look]) -> list[str]:
    """P(x > baseline) for every other label; their names in order."""
    names = []
    for label, tasks in labels.items():
        common = [task for task in tasks if task in labels.get(BASELINE, {})]
        if label == BASELINE or not common:
            continue
        draw_point(axes, len(names), chance(tasks, labels[BASELINE]), looks[label])
        names.append(f"{label}, {len(common)} task{'s' if len(common) > 1 else ''}")
    return names


def draw_point(axes: Axes, row: int, found: Interval, look: style.Look) -> None:
    """An estimate and its interval."""
    axes.plot([found.low, found.high], [row, row], color=look.color, linewidth=5, alpha=0.3, solid_capstyle="butt")
    axes.plot([found.value], [row], color=look.color, marker=look.marker, markersize=6)
