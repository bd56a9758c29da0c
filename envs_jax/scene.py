"""Drawing of a state as shapes in the environment's own units, which `envs_jax.rendering` turns into pictures."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

# Colour-blind safe palette (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C00", "#7F7F7F")
INK, WALL, PALE = "#222222", "#555555", "#BBBBBB"


class Shape(NamedTuple):
    """A disc, ring or square around (x, y), or a polygon.

    Attributes:
        kind: "disc", "ring", "square" or "polygon".
        x: horizontal position of the centre.
        y: vertical position of the centre, upwards.
        radius: half of the width.
        colour: "#RRGGBB", or "#RRGGBBAA" for a transparent shape.
        label: text in the centre.
        corners: corners of a polygon, (x, y) each.
    """

    kind: Literal["disc", "ring", "square", "polygon"]
    x: float
    y: float
    radius: float
    colour: str
    label: str = ""
    corners: tuple[tuple[float, float], ...] = ()


class Scene(NamedTuple):
    """Drawing of one state.

    Attributes:
        low: (x, y) of the lower left corner of the region that is shown.
        high: (x, y) of the upper right corner of that region.
        shapes: shapes from back to front.
        caption: line of text above the drawing.
        frames_per_second: default playback speed of a film.
        moving_camera: whether each frame of a film shows the region of its own scene, all of which have the same size.
            Otherwise all frames show the union of the regions.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    shapes: Sequence[Shape]
    caption: str = ""
    frames_per_second: float = 10.0
    moving_camera: bool = False


def colour(index: int) -> str:
    """Colour of agent `index`."""
    return COLOURS[index % len(COLOURS)]


def shape_at(
    kind: Literal["disc", "ring", "square"], position: np.ndarray | jax.Array, radius: float, colour: str, label: str = ""
) -> Shape:
    """Shape around `position`, (2,)."""
    return Shape(kind, float(position[0]), float(position[1]), radius, colour, label)


def polygon(corners: np.ndarray, colour: str) -> Shape:
    """Polygon with the corners (V, 2)."""
    x, y = (float(value) for value in np.mean(corners, 0))
    radius = float(np.abs(corners - np.array([x, y])).max())
    return Shape("polygon", x, y, radius, colour, corners=tuple((float(a), float(b)) for a, b in corners))


def arena(caption: str, shapes: Sequence[Shape]) -> Scene:
    """Square scene around the origin that shows at least [-1.2, 1.2] and all shapes, at 4 frames per second."""
    reach = max(1.2, *(max(abs(shape.x), abs(shape.y)) + shape.radius for shape in shapes))
    return Scene((-reach, -reach), (reach, reach), shapes, caption, frames_per_second=4.0)
