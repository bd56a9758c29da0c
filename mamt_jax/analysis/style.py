"""How figures look: colours that the colour-blind tell apart, lines and markers that hold in grey."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from mamt_jax.algorithms.registry import ALGORITHMS
from mamt_jax.analysis.runs import Curve
from mamt_jax.analysis.statistics import Interval, over_seeds
from mamt_jax.training.references import Reference


class Look(NamedTuple):
    """Of a line."""

    color: str
    linestyle: str
    marker: str


VARIANTS = {
    "mappo_shared": Look("#56B4E9", "-", "P"),
    "mappo_annealed": Look("#332288", "-", "p"),
    "mappo_events": Look("#AA4499", "-", "h"),
    "mappo_local": Look("#44AA99", "--", "d"),
    "mappo_local_shared": Look("#882255", "-", "8"),
    "maddpg_shared": Look("#8C6BB1", ":", "*"),
    "lola_naive": Look("#999933", ":", ">"),
}
"""Looks of variants of algorithms among the committed results."""
LOOKS = VARIANTS | {name: Look(each.color, each.linestyle, each.marker) for name, each in ALGORITHMS.items()}
"""Each algorithm keeps its own look in every figure."""
OTHERS = (("#661100", "-", "h"), ("#6699CC", "--", "p"), ("#AA4499", "-.", "d"), ("#332288", ":", "8"), ("#DDCC77", "-", "H"))
REFERENCE_LINES = {"random": ":", "do_nothing": (0, (3, 1, 1, 1, 1, 1)), "scripted": "--"}
PANEL = (3.7, 2.9)
DPI = 110


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Each label's look; algorithms have theirs, others get one in order of appearance."""
    unknown = [label for label in dict.fromkeys(labels) if label not in LOOKS]
    return {
        label: LOOKS[label] if label in LOOKS else Look(*OTHERS[unknown.index(label) % len(OTHERS)])
        for label in dict.fromkeys(labels)
    }


def agent_looks(num_agents: int) -> list[Look]:
    """Looks of agents, from dark to light."""
    shades = colormaps["viridis"](np.linspace(0, 0.88, num_agents))
    return [
        Look("#" + "".join(f"{round(255 * part):02x}" for part in shade[:3]), ("-", "--", "-.", ":")[i % 4], "osD^vPX*"[i % 8])
        for i, shade in enumerate(shades)
    ]


def stacked_panels(count: int, columns: int = 3) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure of `count` pairs of panels, one above the other, in rows of `columns` pairs."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, every = panels(2 * columns * rows, columns, size=(3.7, 2.4))
    grid = np.array(every, dtype=object).reshape(rows, 2, columns).swapaxes(1, 2).reshape(-1, 2)
    for unused in grid[count:].ravel():
        unused.set_visible(False)
    return figure, [(upper, lower) for upper, lower in grid[:count]]


def panels(count: int, columns: int = 3, size: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = np.atleast_1d(np.asarray(figure.subplots(rows, columns, squeeze=False))).ravel()
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, list(axes[:count])


def draw_line(axes: Axes, x: np.ndarray, found: Interval, look: Look, label: str) -> None:
    """A line with its interval, and markers few enough to tell lines apart in grey."""
    axes.fill_between(x, found.low, found.high, color=look.color, alpha=0.18, linewidth=0)
    axes.plot(
        x, found.value, label=label, color=look.color, linestyle=look.linestyle, marker=look.marker,
        markevery=0.14, markersize=4, linewidth=1.4,
    )  # fmt: skip


def draw_curve(axes: Axes, found: Curve, look: Look, label: str) -> None:
    """The interquartile mean over seeds of values (R, T), with its interval."""
    draw_line(axes, found.episodes, over_seeds(found.values), look, label)


def draw_references(axes: Axes, references: Mapping[str, Reference]) -> None:
    """What the reference policies earn: grey lines, and bands of one standard error to each side."""
    for name, line in REFERENCE_LINES.items():
        if name in references:
            value, error = references[name]
            if math.isfinite(error):
                axes.axhspan(value - error, value + error, color="0.45", alpha=0.15, linewidth=0, zorder=0)
            axes.axhline(value, color="0.45", linestyle=line, linewidth=1, zorder=1, label=name.replace("_", " "))


def episodes_axis(axes: Axes, lengths: Sequence[float]) -> None:
    """Episodes, on a logarithmic scale where runs are of very different lengths."""
    axes.set_xlabel("episodes")
    if max(lengths) > 4 * min(lengths):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}"))
    axes.grid(alpha=0.25, linewidth=0.6)


def logarithmic_values(axes: Axes) -> None:
    """A logarithmic axis of values with plain numbers at 1, 2 and 5."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Sequence[Axes], columns: int = 6) -> None:
    """One legend for all panels, below them."""
    found: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = max(1, min(columns, int(figure.get_figwidth() / 1.7)))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure; a PNG with a palette of its own, less than half the size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".png":
        figure.savefig(path)
        return
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    # This way of choosing 256 colours keeps those of thin lines, which the default one merges.
    palette = Image.open(buffer).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)
