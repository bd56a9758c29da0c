"""Style of the figures: colours for colour-blind readers, and lines and markers that stay distinct in greyscale."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from mamt_jax.algorithms.registry import ALGORITHMS
from mamt_jax.analysis.runs import Curve
from mamt_jax.analysis.statistics import Interval, over_seeds
from mamt_jax.training.references import Reference


class Look(NamedTuple):
    """Colour, line style and marker of a line."""

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
"""Looks of the algorithm variants in the committed results."""
LOOKS = VARIANTS | {name: Look(each.color, each.linestyle, each.marker) for name, each in ALGORITHMS.items()}
"""Looks by algorithm and variant, the same in every figure."""
OTHERS = (("#661100", "-", "h"), ("#6699CC", "--", "p"), ("#AA4499", "-.", "d"), ("#332288", ":", "8"), ("#DDCC77", "-", "H"))
REFERENCE_LINES = {"random": ":", "do_nothing": (0, (3, 1, 1, 1, 1, 1)), "scripted": "--"}
WIDTH = 8.8
"""Width of a figure in inches. Pages show it about 760 pixels wide, where a font of 8 points has about 10 pixels."""
WIDEST = 6.4
"""Largest width of a panel in inches."""
DPI = 140
LOG_TICKS = ((30, (1.0, 2.0, 5.0)), (300, (1.0, 3.0)))
"""Ticks of logarithmic axes: (largest ratio of the ends, multiples of powers of ten)."""
MOST_LINES = 8
"""Largest number of lines in a panel."""


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """The look of each label. Labels outside `LOOKS` get one of `OTHERS`, in order of appearance."""
    unknown = [label for label in dict.fromkeys(labels) if label not in LOOKS]
    return {
        label: LOOKS[label] if label in LOOKS else Look(*OTHERS[unknown.index(label) % len(OTHERS)])
        for label in dict.fromkeys(labels)
    }


def agent_looks(num_agents: int) -> list[Look]:
    """One look per agent, with colours from dark to light."""
    shades = colormaps["viridis"](np.linspace(0, 0.88, num_agents))
    return [
        Look("#" + "".join(f"{round(255 * part):02x}" for part in shade[:3]), ("-", "--", "-.", ":")[i % 4], "osD^vPX*"[i % 8])
        for i, shade in enumerate(shades)
    ]


def panels(count: int, columns: int = 3, height: float | None = None) -> tuple[Figure, list[Axes]]:
    """Makes a figure of `count` panels in rows of `columns`, four in two rows of two. Rows are `height` inches high."""
    columns = min(2 if (count, columns) == (4, 3) else columns, count)
    rows, width = -(-count // columns), min(WIDTH / columns, WIDEST)
    height = 0.6 * width + 0.65 if height is None else height
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, place(figure, [columns] * rows, count)


def place(figure: FigureBase, rows: Sequence[int], count: int | None = None) -> list[Axes]:
    """Divides a figure, or a part of one, into rows with the given numbers of panels; makes the first `count` panels."""
    parts = math.lcm(*rows)
    spec = figure.add_gridspec(len(rows), parts)
    cells = [(i, parts // row * j, parts // row * (j + 1)) for i, row in enumerate(rows) for j in range(row)]
    every = [figure.add_subplot(spec[i, start:stop]) for i, start, stop in cells[:count]]
    for axes in every:
        axes.tick_params(labelsize=8)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_fontsize(8.5)
        axes.yaxis.get_offset_text().set_fontsize(8)
    return every


def title(axes: Axes, *lines: str) -> None:
    """Sets the title of a panel."""
    axes.set_title("\n".join(lines), fontsize=9)


def draw_line(axes: Axes, x: np.ndarray, found: Interval, look: Look, label: str) -> None:
    """Draws a line with its interval, and with sparse markers that distinguish lines in greyscale."""
    axes.fill_between(x, found.low, found.high, color=look.color, alpha=0.18, linewidth=0)
    axes.plot(
        x, found.value, label=label, color=look.color, linestyle=look.linestyle, marker=look.marker,
        markevery=0.14, markersize=4, linewidth=1.4,
    )  # fmt: skip


def draw_curve(axes: Axes, found: Curve, look: Look, label: str) -> None:
    """Draws the interquartile mean over seeds of a curve (R, T), with its interval."""
    draw_line(axes, found.episodes, over_seeds(found.values), look, label)


def draw_references(axes: Axes, references: Mapping[str, Reference]) -> None:
    """Draws the returns of the reference policies as grey lines, with bands of one standard error to each side."""
    for name, line in REFERENCE_LINES.items():
        if name in references:
            value, error = references[name]
            if math.isfinite(error):
                axes.axhspan(value - error, value + error, color="0.45", alpha=0.15, linewidth=0, zorder=0)
            axes.axhline(value, color="0.45", linestyle=line, linewidth=1, zorder=1, label=name.replace("_", " "))


def share_values(axes: Sequence[Axes]) -> None:
    """Gives drawn panels a common y axis that fits all of them."""
    for each in axes[1:]:
        each.sharey(axes[0])
    axes[0].autoscale(axis="y")


def short(value: float) -> str:
    """Formats a number for an axis, such as 2.5k or 1M. Numbers below 1 have no prefix: m could mean metres or millions."""
    return EngFormatter(sep="")(value) if abs(value) >= 1 else f"{value:g}"


def short_numbers(axis: Axis) -> None:
    """Formats the numbers of an axis with `short`. A logarithmic axis of few decades shows more than powers of ten."""
    low, high = axis.get_view_interval()
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=next((subs for ratio, subs in LOG_TICKS if high < ratio * low), (1.0,))))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def episodes_axis(axes: Axes, lengths: Sequence[float]) -> None:
    """Makes the x axis show episodes, with a logarithmic scale if lengths differ by more than a factor of 4."""
    axes.set_xlabel("episodes")
    if max(lengths) > 4 * min(lengths):
        axes.set_xscale("log")
    short_numbers(axes.xaxis)
    axes.grid(alpha=0.25, linewidth=0.6)


def names_axis(axis: Axis, names: Sequence[str], slanted: bool = False) -> None:
    """Writes names at the ticks 0, 1, ..."""
    slant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axis.set_ticks(range(len(names)), names, fontsize=7.5, **slant)


def logarithmic_values(axes: Axes) -> None:
    """Makes the y axis logarithmic, with plain numbers at 1, 2 and 5 times the powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def labelled(axes: Sequence[Axes]) -> dict[str, Any]:
    """Legend handles of all panels, by label."""
    found: dict[str, Any] = {}
    for handle, label in itertools.chain(*(zip(*each.get_legend_handles_labels(), strict=True) for each in axes)):
        found.setdefault(label, handle)
    return found


def legend(figure: Figure, axes: Sequence[Axes], columns: int = 6) -> None:
    """Draws one legend for all panels of a figure: in free cells of the last row, else below the panels."""
    found = labelled(axes)
    if not found:
        return
    last = figure.axes[-1].get_subplotspec()
    size = last.get_gridspec().ncols if last else 1
    free = size - last.colspan.stop if last else 0
    room = figure.get_figwidth() * (free / size if free else 1)
    lines = -(-len(found) // max(1, min(columns, int(room / 1.4))))
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "ncols": -(-len(found) // lines)}
    if last and free:
        cell = figure.add_subplot(last.get_gridspec()[last.rowspan.start, last.colspan.stop :])
        cell.set_axis_off()
        cell.legend(found.values(), found.keys(), loc="center", **style)
    else:
        figure.set_figheight(figure.get_figheight() + 0.15 + 0.17 * lines)
        figure.legend(found.values(), found.keys(), loc="outside lower center", **style)


def legend_below(axes: Axes, columns: int = 3) -> None:
    """Draws the legend of one panel below the label of its x axis."""
    found = labelled([axes])
    below = axes.transAxes + ScaledTranslation(0, -0.46, axes.figure.dpi_scale_trans)
    axes.legend(
        found.values(), found.keys(), loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, borderaxespad=0,
        ncols=columns, frameon=False, fontsize=7, columnspacing=1, labelspacing=0.3, handlelength=2.2,
    )  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Writes a figure. A PNG gets a palette of 256 colours, which more than halves its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".png":
        figure.savefig(path)
        return
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    # MAXCOVERAGE keeps the colours of thin lines, which the default method merges. kmeans keeps greys grey.
    colors = Image.open(buffer).convert("RGB")
    palette = colors.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)
