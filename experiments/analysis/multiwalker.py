"""Compares our Multi-Walker with the original: distributions of episodes, single steps, and extremes of random play."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.markdown import markdown
from analysis.results import read_result
from mamt_jax.analysis import style

QUANTITIES = {"length": "steps", "return": "return per agent", "displacement": "m"}
"""The compared quantities and their units."""
SOLVERS = {"original": "-", "fast": ":"}
"""Our solvers and their line styles."""


def draw(results: dict[str, Any]) -> Figure:
    """Draws the cumulative distribution of each quantity, with one row per policy."""
    figure, every = style.panels(len(results) * len(QUANTITIES), columns=len(QUANTITIES), height=2.1)
    panels = itertools.product(results.items(), QUANTITIES.items())
    for axes, ((policy, result), (name, unit)) in zip(every, panels, strict=True):
        sides = {f"ours, solver {solver}": (result[name]["ours"][solver], line) for solver, line in SOLVERS.items()}
        for label, (side, line) in (sides | {"the original": (result[name]["original"], "--")}).items():
            values = np.sort(side["values"])
            axes.step(values, np.arange(1, len(values) + 1) / len(values), line, label=label)
        p_values = ", ".join(f"{result[name]['ours'][solver]['p']:.2g} ({solver})" for solver in SOLVERS)
        style.title(axes, f"{policy}: {name}", f"p = {p_values}")
        axes.set(xlabel=unit, ylabel="share of episodes")
        axes.grid(alpha=0.25)
    style.legend(figure, every)
    return figure


def _mean(side: dict[str, Any]) -> str:
    return f"{side['mean']:.3g} ± {side['std_error']:.2g}"


def episodes_table(results: dict[str, Any]) -> str:
    """A table of means over episodes, with the p values of the two-sample tests."""
    columns = [column for solver in SOLVERS for column in (f"ours, {solver} solver", "p")]
    rows: list[Sequence[str]] = [("policy", "", "the original", *columns)]
    for policy, result in results.items():
        for name in QUANTITIES:
            ours = [result[name]["ours"][solver] for solver in SOLVERS]
            cells = [cell for side in ours for cell in (_mean(side), f"{side['p']:.2g}")]
            rows.append((policy, name, _mean(result[name]["original"]), *cells))
    return markdown(rows)


def steps_table(content: dict[str, Any]) -> str:
    """A table of the shares of bodies, walkers and states that end a step within 1 mm and 1 mrad of the original."""
    rows: list[Sequence[str]] = [
        ("solver", "velocity iterations", "the original's", "policy", "steps", "bodies", "walkers", "whole states", "flags")
    ]
    for row in content["steps"]:
        iterations, shares = (
            row["ours"]["velocity_iterations"],
            [f"{row[name]:.0%}" for name in ("bodies", "walkers", "whole_states")],
        )
        rows.append(
            (
                row["ours"]["solver"],
                f"{iterations:,}",
                f"{row['original_velocity_iterations']:,}",
                row["policy"],
                f"{row['states']:,}",
                *shares,
                f"{row['flags']:.1%}",
            )
        )
    return markdown(rows)


def endurance_table(content: dict[str, Any]) -> str:
    """A table of the extremes under random actions."""
    largest = ("largest overlap, m", "fastest, m/s", "fastest spin, rad/s")
    rows: list[Sequence[str]] = [("random actions", "steps", "not finite", "overlap over 0.1 m", *largest)]
    for side, found in content["endurance"].items():
        worst = (f"{found[name]['largest']:.3g}" for name in ("overlap", "speed", "spin"))
        rows.append((side, f"{found['steps']:,}", f"{found['not_finite']}", f"{found['overlap_over_0.1']:.2%}", *worst))
    return markdown(rows)


TABLES: dict[str, Callable[[], str]] = {
    "multiwalker_episodes": lambda: episodes_table(read_result("multiwalker_statistics")["policies"]),
    "multiwalker_steps": lambda: steps_table(read_result("multiwalker_parity")),
    "multiwalker_endurance": lambda: endurance_table(read_result("multiwalker_parity")),
}
"""Functions that make the tables, by name."""
