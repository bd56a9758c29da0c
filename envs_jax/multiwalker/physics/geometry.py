"""Vectors and convex polygons.

A vector is an array (2, ...). Arrays have the batch as their last axis, along which elementwise operations vectorize. Vectors
are not stacked from components in loops, because XLA's concatenations on a CPU do not vectorize.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import single

FAR = 1e9


Vector = jax.Array | np.ndarray


class Motion(NamedTuple):
    """Velocity or displacement of a body: linear (2, ...) and angular (...)."""

    linear: jax.Array
    angular: jax.Array


def motion(values: jax.Array) -> Motion:
    """Takes x, y and angle (3, ...) apart."""
    return Motion(values[:2], values[2])


def joined(parts: Motion) -> jax.Array:
    """Joins x, y and angle, (3, ...)."""
    return jnp.concatenate([parts.linear, parts.angular[None]])


def add_scaled(before: Motion, inv_mass: Any, inv_inertia: Any, impulse: jax.Array, torque: jax.Array) -> Motion:
    """Motion of a body after an impulse (2, ...) and an angular impulse."""
    return Motion(before.linear + inv_mass * impulse, before.angular + inv_inertia * torque)


class Placed(NamedTuple):
    """Polygons with V corners at given poses, in world axes."""

    corner: jax.Array  # (2, V, ..., E), relative to the origin that the caller chose
    normal: jax.Array  # (2, V, ..., E), outward unit normal of the side from each corner to the next
    real: jax.Array  # (V, ..., E) bool, whether that side has a positive length


def dot(a: Vector, b: Vector) -> jax.Array:
    """Inner product."""
    return jnp.asarray(a[0] * b[0] + a[1] * b[1])


def cross(a: Vector, b: Vector) -> jax.Array:
    """Cross product a_x b_y - a_y b_x, for example the torque of a force `b` at the lever `a`."""
    return jnp.asarray(a[0] * b[1] - a[1] * b[0])


def perpendicular(vector: Vector) -> jax.Array:
    """Rotates `vector` by a right angle, (-y, x)."""
    return jnp.asarray(single([-1, 1]).reshape(2, *[1] * (vector.ndim - 1)) * vector[::-1])


def tangent(normal: jax.Array) -> jax.Array:
    """Direction of friction (n_y, -n_x), as in Box2D."""
    return -perpendicular(normal)


def rotate(cos: jax.Array, sin: jax.Array, vector: Vector) -> jax.Array:
    """Rotates `vector` by the angle with this cosine and sine."""
    return cos * vector + sin * perpendicular(vector)


def place(shape: model.Polygons, pose: jax.Array, origin: jax.Array) -> Placed:
    """Places polygons (V, ..., 2) at `pose` (3, ..., E), with corners relative to `origin` (2, ..., E)."""
    corner, normal = (single(np.moveaxis(a, -1, 0))[..., None] for a in (shape.corner, shape.normal))

    def turn(pose: jax.Array, origin: jax.Array) -> tuple[jax.Array, jax.Array]:
        cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
        return rotate(cos, sin, corner) + (pose[:2] - origin)[:, None], rotate(cos, sin, normal)

    corner, normal = separately(turn, pose, origin)
    return Placed(corner, normal, jnp.broadcast_to(shape.real[..., None], corner.shape[1:]))


class Segment(NamedTuple):
    """Sides of polygons, or ground edges: start, end and outward normal, (2, ..., E) each."""

    start: jax.Array
    end: jax.Array
    normal: jax.Array


def best_side(score: jax.Array, shape: Placed) -> tuple[jax.Array, Segment]:
    """Maximum of the `score` (V, ..., E) of sides, and the side that has it. The first wins a tie."""
    corner, normal = shape.corner, shape.normal
    each = [Segment(corner[:, i], corner[:, (i + 1) % len(score)], normal[:, i]) for i in range(len(score))]
    top, found = score[0], each[0]
    for value, side in zip(score[1:], each[1:], strict=True):
        found = jax.tree.map(functools.partial(jnp.where, value > top), side, found)
        top = jnp.maximum(value, top)
    return top, found


def running_count(flags: jax.Array) -> jax.Array:
    """Number of True `flags` (K, ...) up to and including each, int32.

    It is a matrix product, because XLA compiles a cumulative sum to a slow window reduction on a CPU.
    """
    return jnp.tensordot(np.tri(len(flags), dtype=np.float32), flags.astype(jnp.float32), 1).astype(jnp.int32)


def clearance(shape: Placed, x: jax.Array, height: jax.Array) -> jax.Array:
    """Clearance of polygons above ground points (k, ..., E) that are `terrain.STEP` apart, in the same coordinates, (..., E).

    It is the minimum of the corners' heights above the ground and of the ground points' signed distances from the polygons.
    """
    at = (shape.corner[0] - x[0]) * single(1 / terrain.STEP)
    below = fold(jnp.add, (jnp.maximum(1.0 - jnp.abs(at - k), 0.0) * each for k, each in enumerate(height)))
    of_corners = fold(jnp.minimum, shape.corner[1] - below)
    reach = dot(shape.normal, shape.corner)
    planes = zip(shape.normal[0], shape.normal[1], reach, shape.real, strict=True)
    of_sides = (jnp.where(real, nx * x + ny * height - offset, -FAR) for nx, ny, offset, real in planes)
    return jnp.minimum(of_corners, fold(jnp.minimum, fold(jnp.maximum, of_sides)))
