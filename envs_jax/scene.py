"""What there is to see in a state, as shapes in the environment's own units; `envs_jax.rendering` draws them."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

# Colours that readers with any colour vision can tell apart (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C00", "#7F7F7F")
INK, WALL, PALE = "#222222", "#555555", "#BBBBBB"


class Shape(NamedTuple):
    """A disc, ring or square around (x, y), or a polygon.

    Attributes:
        kind: "disc", "ring", "square" or "polygon".
        x: of its centre.
        y: of its centre, upwards.
        radius: half its width.
        colour: "#RRGGBB", or "#RRGGBBAA" to let others shine through.
        label: written in its middle.
        corners: of a polygon, (x, y) each.
    """

    kind: Literal["disc", "ring", "square", "polygon"]
    x: float
    y: float
    radius: float
    colour: str
    label: str = ""
    corners: tuple[tuple[float, float], ...] = ()


class Scene(NamedTuple):
    """Everything to draw.

    Attributes:
        low: (x, y) of the lower left corner of what is shown.
        high: (x, y) of the upper right corner.
        shapes: from back to front.
        caption: a line of text above.
        frames_per_second: of a film, unless told otherwise.
        moving_camera: whether a film shows in each frame that frame's own place, which are equally large. Otherwise all
            frames show whatever any of them does.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    shapes: Sequence[Shape]
    caption: str = ""
    frames_per_second: float = 10.0
    moving_camera: bool = False


def colour(index: int) -> str:
    """Agent `index`'s colour."""
    return COLOURS[index % len(COLOURS)]


def shape_at(
    kind: Literal["disc", "ring", "square"], position: np.ndarray | jax.Array, radius: float, colour: str, label: str = ""
) -> Shape:
    """A shape around `position`, (2,)."""
    return Shape(kind, float(position[0]), float(position[1]), radius, colour, label)


def polygon(corners: np.ndarray, colour: str) -> Shape:
    """A polygon with the corners (V, 2)."""
    x, y = (float(value) for value in np.mean(corners, 0))
    radius = float(np.abs(corners - np.array([x, y])).max())
    return Shape("polygon", x, y, radius, colour, corners=tuple((float(a), float(b)) for a, b in corners))


def arena(caption: str, shapes: Sequence[Shape]) -> Scene:
    """A square around the origin that shows at least [-1.2, 1.2] and all shapes; its film is slow."""
    reach = max(1.2, *(max(abs(shape.x), abs(shape.y)) + shape.radius for shape in shapes))
    return Scene((-reach, -reach), (reach, reach), shapes, caption, frames_per_second=4.0)
