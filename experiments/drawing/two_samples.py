"""Multi-Walker here beside the original: distributions of whole episodes, and the test that tells them apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing.markdown import markdown

QUANTITIES = ("length", "return", "displacement")


def draw(results: dict[str, Any]) -> Figure:
    """Distribution functions side by side, a row a policy."""
    figure = Figure(figsize=(11, 2.6 * len(results)), layout="constrained")
    rows = figure.subplots(len(results), len(QUANTITIES), squeeze=False)
    for axes, (policy, result) in zip(rows, results.items(), strict=True):
        for one, name in zip(axes, QUANTITIES, strict=True):
            for side, line in (("ours", "-"), ("original", "--")):
                values = np.sort(result[name][side]["values"])
                one.step(values, np.arange(1, len(values) + 1) / len(values), line, label=side)
            one.set(title=f"{policy}, p = {result[name]['p']:.2g}", xlabel=name, ylabel="share of episodes")
            one.grid(alpha=0.25)
    rows[0, 0].legend(edgecolor="none")
    return figure


def table(results: dict[str, Any]) -> str:
    """Means and p values."""
    rows: list[Sequence[str]] = [("policy", "", "ours", "original", "p")]
    for policy, result in results.items():
        for name in QUANTITIES:
            means = [f"{result[name][s]['mean']:.3g} ± {result[name][s]['std_error']:.2g}" for s in ("ours", "original")]
            rows.append((policy, name, *means, f"{result[name]['p']:.2g}"))
    return markdown(rows)
