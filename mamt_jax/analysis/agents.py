"""What agents have each: divergence of policies (Fig. 5, 16-19), trust regions (Fig. 6), estimated divergence (Fig. 20-23)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mamt_jax.analysis import style
from mamt_jax.analysis.runs import Curve, Run, by_task, curve, having, mean_over_agents

DIVERGENCE = "kl_old"


def of_agent(found: Curve, agent: int) -> Curve:
    """One agent's."""
    return found._replace(values=found.values[:, :, agent])


def policy_divergence(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 5: above, KL from the old policies, mean over agents; below, D_ns of MAMT."""
    tasks = by_task(runs)
    figure, pairs = style.stacked_panels(len(tasks))
    looks = style.looks([run.label for run in runs])
    for (upper, lower), (task, compared) in zip(pairs, tasks.items(), strict=True):
        estimated = having(compared, "non_stationarity")
        for run in compared:
            style.draw_curve(upper, mean_over_agents(curve(run, DIVERGENCE)), looks[run.label], run.label)
        for run in estimated:
            style.draw_curve(lower, curve(run, "non_stationarity"), looks[run.label], run.label)
        upper.set(title=task.title, ylabel="KL to old policy, nats")
        style.logarithmic_values(upper)
        lower.set(ylabel="$D_{ns}$, nats", visible=bool(estimated))
        for axes, drawn in ((upper, compared), (lower, estimated or compared)):
            style.episodes_axis(axes, [run.episodes[-1] for run in drawn])
    style.legend(figure, [upper for upper, _ in pairs])
    return {"": figure}


def policy_divergence_of_agents(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 16-19: KL from the old policy, a panel for each agent; a figure for each task."""
    figures = {}
    for task, compared in by_task(runs).items():
        agents, looks = compared[0].agents, style.looks([run.label for run in compared])
        figure, every = style.panels(len(agents), columns=4, size=(2.7, 2.2))
        for agent, axes in enumerate(every):
            for run in compared:
                style.draw_curve(axes, of_agent(curve(run, DIVERGENCE), agent), looks[run.label], run.label)
            axes.set_title(agents[agent], fontsize=9)
            style.logarithmic_values(axes)
            style.episodes_axis(axes, [run.episodes[-1] for run in compared])
        for axes in every[::4]:
            axes.set_ylabel("KL to the old policy, nats", fontsize=8)
        figure.suptitle(task.title, fontsize=11)
        style.legend(figure, every)
        figures[f"_{task.file_name}"] = figure
    return figures


def estimated_divergence(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 20-23: what the decomposition network says each agent's share of the joint divergence is."""
    return {"": lines_of_agents(runs, "estimated_divergence", r"$\widehat{KL}_i$, nats")}


def lines_of_agents(runs: Sequence[Run], metric: str, title: str) -> Figure:
    """A metric of every agent over training, a panel for each run."""
    figure, every = style.panels(len(runs))
    for axes, run in zip(every, runs, strict=True):
        draw_agents(axes, run, metric)
        axes.set_ylabel(title)
    legend_of_agents(every)
    return figure


def draw_agents(axes: Axes, run: Run, metric: str) -> None:
    """A metric of every agent over training."""
    found = curve(run, metric)
    for agent, look in enumerate(style.agent_looks(len(run.agents))):
        style.draw_curve(axes, of_agent(found, agent), look, run.agents[agent])
    axes.set_title(f"{run.task.title}, {run.label}", fontsize=10)
    style.episodes_axis(axes, [run.episodes[-1]])


def legend_of_agents(every: Sequence[Axes]) -> None:
    """Each panel's agents, which differ from task to task."""
    for axes in every:
        labels = axes.get_legend_handles_labels()[1]
        axes.legend(fontsize=6, frameon=False, ncols=2 if len(labels) > 3 else 1)


def trust_regions(runs: Sequence[Run]) -> dict[str, Figure]:
    """Fig. 6: above, mean and deviation of every agent's epsilon over training and seeds; below, epsilon over training."""
    figure, pairs = style.stacked_panels(len(runs))
    for (upper, lower), run in zip(pairs, runs, strict=True):
        draw_spread(upper, run)
        draw_agents(lower, run, "epsilon")
        lower.set(title="", ylabel=r"$\varepsilon_i$")
    legend_of_agents([lower for _, lower in pairs])
    return {"": figure}


def draw_spread(axes: Axes, run: Run) -> None:
    """Mean of every agent's epsilon and its deviation over training and seeds, on the whole range that is allowed."""
    logarithms = np.log(curve(run, "epsilon").values)
    mean, deviation = (np.exp(logarithms.mean((0, 1))), logarithms.std((0, 1)))
    for agent, look in enumerate(style.agent_looks(len(run.agents))):
        error = mean[agent] * np.abs(np.exp(np.array([[-deviation[agent]], [deviation[agent]]])) - 1)
        axes.errorbar(agent, mean[agent], error, color=look.color, marker=look.marker, capsize=3, markersize=5)
    axes.set_yscale("log")
    axes.set_ylim(0.01, 100)
    axes.set_xticks(range(len(run.agents)), run.agents, rotation=45 if len(run.agents) > 3 else 0, ha="center", fontsize=7)
    axes.set_title(f"{run.task.title}, {run.label}", fontsize=10)
    axes.set_ylabel(r"$\varepsilon_i$, mean and deviation", fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
