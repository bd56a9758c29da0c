"""Figure and tables of `experiments/theory.py`: Fig. 8, the theorems, and estimates of the joint divergence."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.markdown import markdown
from analysis.results import committed_runs, read_result
from mamt_jax.analysis import style
from mamt_jax.analysis.runs import Run, curve, having
from mamt_jax.analysis.statistics import Interval, bootstrap, interquartile_mean

ESTIMATES = {
    "mean_field": ("mean-field sum", style.Look("#000000", "-", "o")),
    "d_ns": ("$D_{ns}$", style.Look("#0072B2", "-.", "^")),
    "network": ("TRD-Net, taught $D_{ns}$", style.Look("#D55E00", "--", "D")),
    "network_taught_truth": ("TRD-Net, taught the truth", style.Look("#009E73", ":", "s")),
}
ACTIONS = {"a11": style.Look("#D55E00", "--", "D"), "a12": style.Look("#0072B2", "-.", "^")}


def draw(content: Mapping[str, Any]) -> Figure:
    """Draws six panels: Fig. 8 and its ratio, Theorem 2, two scatter plots of estimates, and their errors by coupling."""
    figure, every = style.panels(6, height=3)
    draw_figure_8(every[0], every[1], content["figure_8"])
    draw_theorem_2(every[2], content["theorem_2"])
    rows = content["estimation"]["rows"]
    for axes, row in zip(every[3:5], [row for row in rows if "shown" in row], strict=True):
        draw_scatter(axes, row)
    draw_errors(every[5], rows)
    for axes in every:
        axes.grid(alpha=0.25, linewidth=0.6)
        style.legend_below(axes, columns=2)
    return figure


def draw_figure_8(divergence: Axes, ratio: Axes, content: Mapping[str, Any]) -> None:
    """Draws KL of policies and of transitions over m, exact and simulated, and their ratio."""
    m, policy = np.array(content["m"]), np.array(content["policy_kl"])
    divergence.plot(m, policy, color="black", label="policy")
    for name, look in ACTIONS.items():
        row, drawn = content["actions"][name], content["simulation"]["m"]
        transition = np.array(row["transition_kl"])
        divergence.plot(m, transition, color=look.color, linestyle=look.linestyle, label=f"transition, {name}")
        divergence.errorbar(
            drawn, row["simulated_mean"], row["simulated_std"],
            color=look.color, marker=look.marker, markersize=4, linestyle="", capsize=2, label=f"simulated, {name}",
        )  # fmt: skip
        ratio.plot(m, transition / policy, color=look.color, linestyle=look.linestyle, label=name)
    divergence.set(xlabel="m", ylabel="nats", yscale="log")
    ratio.set(xlabel="m", ylabel="ratio", ylim=(0, None))
    style.title(divergence, "Fig. 8", "KL of policy and of transition")
    style.title(ratio, "Theorem 1: no proportion", "KL of transition / KL of policy")


def draw_theorem_2(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws quantiles of the ratio of the others' mean divergence to the joint divergence."""
    for row in rows:
        found = {float(q): value for q, value in row["others_over_joint"].items()}
        look = style.Look("#0072B2", "-", "s") if row["factorised"] else style.Look("#D55E00", "-", "o")
        place = row["num_agents"] + (0.12 if row["factorised"] else -0.12)
        axes.plot([place, place], [found[0.0], found[1.0]], color=look.color, linewidth=1)
        axes.plot([place, place], [found[0.05], found[0.95]], color=look.color, linewidth=5, alpha=0.4)
        label = ("factorised" if row["factorised"] else "correlated") if row["num_agents"] == 2 else None
        axes.plot(place, found[0.5], color=look.color, marker=look.marker, linestyle="", label=label)
    axes.axhline(1, color="0.45", linestyle="--", linewidth=1)
    axes.set_xticks([2, 3, 4])
    axes.set(xlabel="agents", ylabel="ratio", ylim=(0, 1.08))
    style.title(axes, "Theorem 2: below 1", "mean KL of others / joint KL")


def draw_scatter(axes: Axes, row: Mapping[str, Any]) -> None:
    """Draws estimates of the joint KL against its true value."""
    truth = np.array(row["shown"]["truth"])
    for name, (label, look) in ESTIMATES.items():
        if name != "network_taught_truth":
            axes.scatter(
                truth, row["shown"][name], s=9, color=look.color, marker=look.marker, alpha=0.55, linewidths=0, label=label
            )
    ends = [truth.min(), truth.max()]
    axes.plot(ends, ends, color="0.45", linestyle="--", linewidth=1)
    kind = "policies factorise" if row["coupling"] == 0 else f"correlated, coupling {row['coupling']:g}"
    axes.set(xlabel="joint KL, nats", ylabel="estimate, nats", xscale="log", yscale="log")
    style.title(axes, "estimates of the joint KL", kind)
    axes.set_ylim(ends[0] / 3, ends[1] * 3)


def score(row: Mapping[str, Any], estimate: str, measure: str) -> Interval:
    """Interquartile mean over seeds of a measure of an estimate, with its interval."""
    return bootstrap(interquartile_mean, [np.array(row["scores"][estimate][measure])])


def draw_errors(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the relative error of every estimate by the coupling of agents."""
    places = np.arange(len(rows))
    for name, (label, look) in ESTIMATES.items():
        found = [score(row, name, "relative_error") for row in rows]
        joined = Interval(*(np.array([each[part] for each in found]) for part in range(3)))
        style.draw_line(axes, places, joined, look, label)
    axes.set_xticks(places, [f"{row['coupling']:g}" for row in rows])
    axes.set(xlabel="coupling", ylabel="ratio", ylim=(0, None))
    style.title(axes, "error of estimates", "RMSE / mean joint KL")


def theorems_table(content: Mapping[str, Any]) -> str:
    """A table of quantiles of the ratios in Theorems 1 to 3."""
    quantities = [("KL of transition / KL of the others' policy", "random games", content["theorem_1"]["ratio"])]
    for row in content["theorem_2"]:
        kind = f"{row['num_agents']} agents, {'factorised' if row['factorised'] else 'correlated'}"
        quantities.append(("mean KL of others / joint KL", kind, row["others_over_joint"]))
        quantities.append(("sum of own KL / joint KL", kind, row["mean_field_over_joint"]))
    rows: list[Sequence[str]] = [("ratio", "of", "smallest", "5 %", "median", "95 %", "largest")]
    rows += [(ratio, kind, *(f"{value:.3g}" for value in found.values())) for ratio, kind, found in quantities]
    return markdown(rows)


def estimation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of every estimate's relative error, with its interval over seeds, and its correlation with the truth."""
    labels = [label.replace("$D_{ns}$", "D_ns") for label, _ in ESTIMATES.values()]
    lines: list[Sequence[str]] = [("coupling", *labels)]
    for row in rows:
        cells = []
        for name in ESTIMATES:
            error, correlation = score(row, name, "relative_error"), score(row, name, "correlation")
            shown = f"{error.value:.2f} ({error.low:.2f} to {error.high:.2f})" if error.value > 0.005 else "0"
            cells.append(f"{shown}, r = {correlation.value:.2f}")
        lines.append((f"{row['coupling']:g}", *cells))
    return markdown(lines)


def training_table(runs: Sequence[Run]) -> str:
    """A table of the estimates of MAMT's network during training, and of the joint KL.

    The joint KL is the sum of the agents' own, because their policies factorise.
    """
    titles = ("estimate", "D_ns", "joint KL to the old policy", "joint KL to the previous policy", "r, old", "r, previous")
    rows: list[Sequence[str]] = [("", *titles)]
    for run in having(runs, "estimated_divergence", "non_stationarity", "kl_old", "kl_consecutive"):
        estimate, old, previous = (
            curve(run, name).values.sum(2) for name in ("estimated_divergence", "kl_old", "kl_consecutive")
        )
        d_ns = curve(run, "non_stationarity").values
        means = [f"{values.mean():.3g}" for values in (estimate, d_ns, old, previous)]
        alike = [
            ", ".join(f"{np.corrcoef(a, b)[0, 1]:.2f}" for a, b in zip(estimate, truth, strict=True))
            for truth in (old, previous)
        ]
        rows.append((run.task.title, *means, *alike))
    return markdown(rows)


TABLES: dict[str, Callable[[], str]] = {
    "theorems": lambda: theorems_table(read_result("theory")),
    "estimation": lambda: estimation_table(read_result("theory")["estimation"]["rows"]),
    "estimates_in_training": lambda: training_table(committed_runs()),
}
"""Functions that make the tables, by name."""
