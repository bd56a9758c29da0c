"""Contacts of hulls and the package with the ground at the end of a step. Arrays have the batch as their last axis.

Box2D's continuous collision detection stops hulls and the package at the ground within a step, as it does legs
(`continuous_collision`), and reports the contact in that step. Here they are not stopped: their poses at the end of the step
are tested. Contacts that form slowly are found at the beginning of the next step (`contact_detection`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import BODIES, COLLISION_MARGIN, HULL, single
from envs_jax.multiwalker.physics.geometry import clearance, place
from envs_jax.multiwalker.physics.time_of_impact import TARGET, TOLERANCE

_REACH = float(np.hypot(*BODIES.corner[:, HULL].T).max())
POINTS = int(np.ceil(2 * _REACH / terrain.STEP)) + 2  # ground points under a hull at any angle
_HULL = model.Polygons(*(array[:, HULL, None] for array in BODIES))
WITHIN_STEP = TARGET + TOLERANCE


def hull_on_ground(pose: jax.Array, heights: jax.Array, within: float) -> jax.Array:
    """Whether the clearance of hulls at `pose` (3, n, E) above the ground is less than `within`, (n, E) bool."""
    x, height, there, _ = terrain.window(heights, pose[0] - _REACH, POINTS)
    shape = place(_HULL, pose, pose[:2])
    return clearance(shape, x - pose[0], jnp.where(there, height, 0.0) - pose[1]) < within


def package_on_ground(package: model.Package, pose: jax.Array, heights: jax.Array, within: float) -> jax.Array:
    """Whether the clearance of the package at `pose` (3, E) above the ground is at most `within`, (E,) bool."""
    cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
    half, thickness = package.length / 2, single(-package.shape.corner[:, 1].min())
    reach = int(np.ceil(package.length / terrain.STEP)) + 2
    x, y, there, _ = terrain.window(heights, pose[0] - half - COLLISION_MARGIN, reach)
    x, y = x - pose[0], y - pose[1]
    along, above = cos * x + sin * y, cos * y - sin * x
    poked = (there & (jnp.abs(along) <= half + within) & (above >= -thickness - within)).any(0)
    end = single([-half, half])[:, None]
    end_x, end_y = cos * end + sin * thickness, sin * end - cos * thickness
    x, y, there, _ = terrain.window(heights, pose[0] + end_x, 2)
    fraction = (pose[0] + end_x - x[0]) / terrain.STEP
    sunk = there.all(0) & (pose[1] + end_y <= y[0] + fraction * (y[1] - y[0]) + within)
    return poked | sunk.any(0)
