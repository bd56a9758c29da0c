"""The paper's figures by name: what each shows, which runs it needs, and the commands that train missing runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from mamt_jax.analysis import agents, pairs, returns, style
from mamt_jax.analysis.runs import FAMILY, Run, Task, by_task, having


class PaperFigure(NamedTuple):
    """A figure that is drawn from runs.

    Attributes:
        paper: number of the figure or section in the paper.
        ingredient: what the figure shows, in words.
        metrics: metrics that the runs must have recorded.
        algo: an algorithm that records these metrics.
        draw: (runs with these metrics) -> figures by suffix of the file's name.
        fewest: smallest number of agents for which the figure shows anything.
    """

    paper: str
    ingredient: str
    metrics: tuple[str, ...]
    algo: str
    draw: Callable[[Sequence[Run]], dict[str, Figure]]
    fewest: int = 1


_COORDINATION = ("coordination coefficients", ("coordination_mean", "coordination_variance"), "mamt")
_DIVERGENCE = ("divergence from old policies", ("kl_old",), "mamt")
FIGURES = {
    "learning_curves": PaperFigure("Fig. 4", "training returns", ("train_return",), "mamt", returns.learning_curves),
    "improvement": PaperFigure("Sec. 6", "training returns", ("train_return",), "maac", returns.improvement),
    "dilemma": PaperFigure("Fig. 1a, 10", "training returns on Spread-3", ("train_return",), "mamd_op", returns.dilemma),
    "attention": PaperFigure("Fig. 11", "attention weights", ("attention",), "maac", pairs.attention, fewest=3),
    "policy_divergence": PaperFigure("Fig. 5", *_DIVERGENCE, agents.policy_divergence),
    "policy_divergence_of_agents": PaperFigure("Fig. 16-19", *_DIVERGENCE, agents.policy_divergence_of_agents),
    "trust_regions": PaperFigure(
        "Fig. 6", "learnt trust regions", ("epsilon", "estimated_divergence"), "mamt", agents.trust_regions
    ),
    "coordination": PaperFigure("Fig. 7", *_COORDINATION, pairs.coordination, fewest=3),
    "coordination_over_time": PaperFigure("Fig. 14, 15", *_COORDINATION, pairs.coordination_over_time, fewest=3),
    "estimated_divergence": PaperFigure(
        "Fig. 20-23", "estimates of the joint divergence", ("estimated_divergence",), "mamt", agents.estimated_divergence
    ),
}


def command(task: Task, algo: str) -> str:
    """The command that trains `algo` on `task`."""
    return f"mamt train {task.arguments} --algo {algo} --out runs/{task.file_name}-{algo}"


def folders(runs: Sequence[Run]) -> str:
    """Lists the folders of runs in words; it names at most three."""
    here = Path.cwd()
    paths = [run.folder.relative_to(here) if run.folder.is_relative_to(here) else run.folder for run in runs]
    names = list(dict.fromkeys(map(str, paths)))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def drawn_from(name: str, runs: Sequence[Run]) -> list[Run]:
    """The runs that a figure can show."""
    found = [run for run in having(runs, *FIGURES[name].metrics) if len(run.agents) >= FIGURES[name].fewest]
    if name == "dilemma":
        return [run for run in found if run.task.env in returns.DILEMMA]
    if FIGURES[name].metrics == ("kl_old",):
        return [run for run in found if run.algo in FAMILY] or found
    if name == "improvement":
        compared = {task for task, each in by_task(found).items() if any(run.label == returns.BASELINE for run in each)}
        return [run for run in found if run.task in compared] if any(run.label != returns.BASELINE for run in found) else []
    return found


def missing(name: str, runs: Sequence[Run]) -> list[str]:
    """One sentence for each thing that a figure lacks, with the command that makes it."""
    if name == "dilemma":
        return missing_dilemma(runs)
    if name == "improvement":
        return missing_comparison(runs)
    figure = FIGURES[name]
    small = [run for run in runs if len(run.agents) < figure.fewest]
    equal = (
        [f"the runs in {folders(small)} are left out: with two agents all {figure.ingredient} are 1 by definition."]
        if small
        else []
    )
    return equal + [
        f"the runs in {folders(each)} have no {figure.ingredient}: train with `{command(task, figure.algo)}`."
        for task, each in by_task(runs).items()
        if len(each[0].agents) >= figure.fewest and not having(each, *figure.metrics)
    ]


def missing_dilemma(runs: Sequence[Run]) -> list[str]:
    """One sentence per missing run of the comparison in App. F, or a single one if all are missing."""
    there = {(run.task.env, run.algo) for run in drawn_from("dilemma", runs)}
    if not there:
        envs, algos = " ".join(returns.DILEMMA), " ".join(returns.DILEMMA["spread3_mix"])
        sweep = f"mamt sweep --env {envs} --algo {algos} --out runs/dilemma"
        return [f"there are no runs on Spread-3 in {folders(runs)}: train with `{sweep}`."]
    return [
        f"there is no run of {algo} on {env}: train with `{command(Task(env, ()), algo)}`."
        for env, algos in returns.DILEMMA.items()
        for algo in algos
        if (env, algo) not in there
    ]


def missing_comparison(runs: Sequence[Run]) -> list[str]:
    """One sentence per task that lacks the baseline, or has no other algorithm to compare with it."""
    sentences = []
    for task, each in by_task(having(runs, returns.RETURN)).items():
        labels = {run.label for run in each}
        if returns.BASELINE not in labels:
            sentences.append(
                f"there is no run of {returns.BASELINE} in {folders(each)}: train with `{command(task, returns.BASELINE)}`."
            )
        elif len(labels) == 1:
            sentences.append(
                f"there are only runs of {returns.BASELINE} in {folders(each)}: train mamt with `{command(task, 'mamt')}`."
            )
    return sentences


def save_figures(names: Sequence[str], runs: Sequence[Run], out: Path, file_format: str = "png") -> list[str]:
    """Writes the figures that can be drawn from `runs` to `out`; returns a message for each thing that is missing."""
    sentences = []
    for name in names:
        sentences += [f"{name}: {sentence}" for sentence in missing(name, runs)]
        shown = drawn_from(name, runs)
        for suffix, figure in (FIGURES[name].draw(shown) if shown else {}).items():
            path = out / f"{name}{suffix}.{file_format}"
            style.save(figure, path)
            print(f"{path}  {FIGURES[name].paper}")
    return sentences
