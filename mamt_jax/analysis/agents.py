"""Figures per agent: divergence of policies (Fig. 5, 16-19), trust regions (Fig. 6), estimated divergence (Fig. 20-23)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamt_jax.analysis import style
from mamt_jax.analysis.runs import Curve, Run, by_task, curve, having, mean_over_agents

DIVERGENCE = "kl_old"


def of_agent(found: Curve, agent: int) -> Curve:
    """The curve of one agent, (R, T)."""
    return found._replace(values=found.values[:, :, agent])


def policy_divergence(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 5. Upper panels: KL to the old policies, mean over agents. Lower panels: D_ns of MAMT."""
    tasks = by_task(runs)
    estimated = by_task(having(runs, "non_stationarity"))
    figure, every = style.panels(len(tasks) + len(estimated), height=2.2)
    looks = style.looks([run.label for run in runs])
    for axes, (task, compared) in zip(every[: len(tasks)], tasks.items(), strict=True):
        for run in compared:
            style.draw_curve(axes, mean_over_agents(curve(run, DIVERGENCE)), looks[run.label], run.label)
        style.title(axes, task.title, "mean KL to the old policy")
        style.logarithmic_values(axes)
        style.episodes_axis(axes, [run.episodes[-1] for run in compared])
    for axes, (task, compared) in zip(every[len(tasks) :], estimated.items(), strict=True):
        for run in compared:
            style.draw_curve(axes, curve(run, "non_stationarity"), looks[run.label], run.label)
        style.title(axes, task.title, "$D_{ns}$")
        style.episodes_axis(axes, [run.episodes[-1] for run in compared])
    for axes in every:
        axes.set_ylabel("nats")
    style.legend(figure, every)
    return {"": figure}


def policy_divergence_of_agents(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 16-19: KL to the old policy, with one figure per task and one panel per agent."""
    figures = {}
    for task, compared in by_task(runs).items():
        agents, looks = compared[0].agents, style.looks([run.label for run in compared])
        figure, every = style.panels(len(agents), columns=4 if len(agents) > 3 else 3, height=2.1)
        for agent, axes in enumerate(every):
            for run in compared:
                style.draw_curve(axes, of_agent(curve(run, DIVERGENCE), agent), looks[run.label], run.label)
            style.title(axes, agents[agent])
            style.logarithmic_values(axes)
            style.episodes_axis(axes, [run.episodes[-1] for run in compared])
            axes.set_ylabel("nats")
            axes.label_outer(remove_inner_ticks=True)
        style.share_values(every)
        figure.suptitle(f"{task.title}: KL to the old policy", fontsize=10)
        style.legend(figure, every)
        figures[f"_{task.file_name}"] = figure
    return figures


def estimated_divergence(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 20-23: the decomposition network's estimate of each agent's share of the joint divergence."""
    return {"": lines_of_agents(runs, "estimated_divergence", r"$\widehat{KL}_i$, nats")}


def lines_of_agents(runs: Sequence[Run], metric: str, label: str) -> Figure:
    """A figure of a metric of every agent over training, with one panel per run."""
    figure, every = style.panels(len(runs))
    for axes, run in zip(every, runs, strict=True):
        draw_agents(axes, run, metric)
        style.title(axes, f"{run.task.title}, {run.label}")
        axes.set_ylabel(label)
    return figure


def draw_agents(axes: Axes, run: Run, metric: str) -> None:
    """Draws a metric of every agent over training, with a legend below."""
    found = curve(run, metric)
    for agent, look in enumerate(style.agent_looks(len(run.agents))):
        style.draw_curve(axes, of_agent(found, agent), look, run.agents[agent])
    style.episodes_axis(axes, [run.episodes[-1]])
    style.legend_below(axes)


def trust_regions(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 6. Upper panels: mean and deviation of each agent's epsilon. Lower panels: epsilon over training."""
    figure, every = style.panels(2 * len(runs), height=2.3)
    for upper, lower, run in zip(every[: len(runs)], every[len(runs) :], runs, strict=True):
        draw_spread(upper, run)
        draw_agents(lower, run, "epsilon")
        style.title(upper, f"{run.task.title}, {run.label}", r"mean and deviation of $\varepsilon_i$")
        style.title(lower, f"{run.task.title}, {run.label}", r"$\varepsilon_i$ over training")
        for axes in (upper, lower):
            axes.set_ylabel(r"$\varepsilon_i$")
    return {"": figure}


def draw_spread(axes: Axes, run: Run) -> None:
    """Draws the mean and deviation of each agent's epsilon over training and seeds, both of its logarithm.

    The axis spans the allowed range of epsilon.
    """
    logarithms = np.log(curve(run, "epsilon").values)
    mean, deviation = (np.exp(logarithms.mean((0, 1))), logarithms.std((0, 1)))
    for agent, look in enumerate(style.agent_looks(len(run.agents))):
        error = mean[agent] * np.abs(np.exp(np.array([[-deviation[agent]], [deviation[agent]]])) - 1)
        axes.errorbar(agent, mean[agent], error, color=look.color, marker=look.marker, capsize=3, markersize=5)
    axes.set_yscale("log")
    axes.set_ylim(0.01, 100)
    style.names_axis(axes.xaxis, run.agents, slanted=len(run.agents) > 3)
    axes.set_xlim(-0.5, len(run.agents) - 0.5)
    axes.grid(alpha=0.25, linewidth=0.6)
