"""Pictures of Multi-Walker."""

import numpy as np

from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import BODIES, NUM_BODIES
from envs_jax.scene import PALE, WALL, Scene, Shape, colour, polygon

MARGIN, ABOVE, MARKS = 4.0, 8.0, 5
ORDER = (1, 2, 0, 3, 4)  # the left leg behind the hull


def outline(shape: model.Polygons, which: int, pose: np.ndarray) -> np.ndarray:
    """Corners (V, 2) of a polygon at `pose` (3,)."""
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    corner = shape.corner.reshape(len(shape.corner), -1, 2)[:, which]
    return corner @ np.array([[cos, sin], [-sin, cos]]) + pose[:2]


def picture(
    package: model.Package,
    pose: np.ndarray,
    package_pose: np.ndarray,
    heights: np.ndarray,
    present: np.ndarray,
    start: float,
    caption: str,
) -> Scene:
    """Draws the walkers that are present, the package, the ground, and marks at every fifth metre from x = `start`."""
    left, right = package_pose[0] - package.length / 2 - MARGIN, package_pose[0] + package.length / 2 + MARGIN
    x = terrain.STEP * np.arange(len(heights))
    shown = (x > left - 60) & (x < right + 60)
    ground = np.stack([x[shown], heights[shown]], 1)
    floor = terrain.HEIGHT - 2.0
    below = np.array([[ground[-1, 0], floor - 5], [ground[0, 0], floor - 5]])
    shapes: list[Shape] = [
        polygon(np.concatenate([ground, below]), PALE),
        polygon(outline(package.shape, 0, package_pose), WALL),
    ]
    for metres in range(0, 500, MARKS):
        if left < start + metres < right:
            shapes.append(Shape("square", start + metres, floor + 0.8, 0.5, PALE, f"{metres} m"))
    for walker in np.flatnonzero(present):
        for b in ORDER[:NUM_BODIES]:
            shade = "" if b in (0, 3, 4) else "A0"
            shapes.append(polygon(outline(BODIES, b, pose[:, b, walker]), colour(int(walker)) + shade))
    return Scene((left, floor), (right, floor + ABOVE), shapes, caption, frames_per_second=50.0, moving_camera=True)
