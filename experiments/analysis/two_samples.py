"""Multi-Walker here beside the original: distributions of whole episodes, and the test that tells them apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mamt_jax.analysis.markdown import markdown

QUANTITIES = ("length", "return", "displacement")


SOLVERS = {"original": "-", "fast": ":"}
"""Ours, and how their lines look."""


def draw(results: dict[str, Any]) -> Figure:
    """Distribution functions side by side, a row a policy."""
    figure = Figure(figsize=(11, 2.6 * len(results)), layout="constrained")
    rows = figure.subplots(len(results), len(QUANTITIES), squeeze=False)
    for axes, (policy, result) in zip(rows, results.items(), strict=True):
        for one, name in zip(axes, QUANTITIES, strict=True):
            sides = {f"ours, solver {solver}": (result[name]["ours"][solver], line) for solver, line in SOLVERS.items()}
            for label, (side, line) in (sides | {"the original": (result[name]["original"], "--")}).items():
                values = np.sort(side["values"])
                one.step(values, np.arange(1, len(values) + 1) / len(values), line, label=label)
            p_values = ", ".join(f"{result[name]['ours'][solver]['p']:.2g}" for solver in SOLVERS)
            one.set(title=f"{policy}, p = {p_values}", xlabel=name, ylabel="share of episodes")
            one.grid(alpha=0.25)
    rows[0, 0].legend(edgecolor="none", fontsize=7)
    return figure


def _mean(side: dict[str, Any]) -> str:
    return f"{side['mean']:.3g} ± {side['std_error']:.2g}"


def table(results: dict[str, Any]) -> str:
    """Means and p values."""
    columns = [column for solver in SOLVERS for column in (f"ours, {solver} solver", "p")]
    rows: list[Sequence[str]] = [("policy", "", "the original", *columns)]
    for policy, result in results.items():
        for name in QUANTITIES:
            ours = [result[name]["ours"][solver] for solver in SOLVERS]
            cells = [cell for side in ours for cell in (_mean(side), f"{side['p']:.2g}")]
            rows.append((policy, name, _mean(result[name]["original"]), *cells))
    return markdown(rows)
