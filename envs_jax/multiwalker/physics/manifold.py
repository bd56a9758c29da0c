"""Contact manifolds of ground edges and convex polygons, as in Box2D (b2CollideEdge.cpp, b2CollidePolygon.cpp).

The shape whose side separates the two most has the reference side. The side of the other shape that faces it most is clipped
to its width. What remains of that side gives up to two contact points. Vectors and axes are as in `geometry`.
"""

import functools
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker.model import COLLISION_MARGIN
from envs_jax.multiwalker.physics.geometry import FAR, Placed, Segment, best_side, dot, tangent

T = TypeVar("T")


class Manifold(NamedTuple):
    """Contact manifold of a first and a second shape: up to two points."""

    normal: jax.Array  # (2, ..., E), unit normal from the first to the second shape
    point: jax.Array  # (2, 2 points, ..., E), halfway between the two surfaces
    separation: jax.Array  # (2 points, ..., E), negative where the skins overlap
    touching: jax.Array  # (2 points, ..., E) bool, whether the point exists
    reference_is_second: jax.Array  # (..., E) bool, whether the reference side belongs to the second shape
    feature: jax.Array  # (2 points, ..., E) float, 0 to 3: index of the end of the incident side, plus 2 if it was clipped


def select_manifolds(manifold: Manifold, rank: jax.Array, count: int) -> Manifold:
    """The manifolds of ranks 1 to `count`, of K manifolds with distinct ranks (K, ...); zeros where a rank is missing."""
    chosen = rank[None] == jnp.arange(1, count + 1).reshape(-1, *[1] * rank.ndim)

    def take(leaf: jax.Array) -> jax.Array:
        axis = leaf.ndim - rank.ndim
        return jnp.where(chosen, jnp.expand_dims(leaf, axis), 0).sum(axis + 1).astype(leaf.dtype)

    return jax.tree.map(take, manifold)


class Clipped(NamedTuple):
    """Incident side after clipping to the reference side."""

    point: jax.Array  # (2, 2 ends, ..., E), in the order in which Box2D's b2ClipSegmentToLine leaves them
    height: jax.Array  # (2 ends, ..., E), signed distances of the ends from the reference side
    remains: jax.Array  # (..., E) bool, whether any part of the side remains
    feature: jax.Array  # (2 ends, ..., E), feature ids, as in `Manifold`


def clip(reference: Segment, incident: Segment, margin: float) -> Clipped:
    """Clips the incident side to the width of the reference side, extended by `margin` at both ends."""
    along_reference = -tangent(reference.normal)
    width = dot(along_reference, reference.end - reference.start)
    ends = jnp.stack([incident.start, incident.end], 1)
    along = dot(along_reference[:, None], ends - reference.start[:, None])
    low, high = -margin, width + margin
    remains = (jnp.maximum(*along) >= low) & (jnp.minimum(*along) <= high)
    slope = along[1] - along[0]
    kept = jnp.clip(along, low, high)
    fraction = jnp.clip((kept - along[0]) / jnp.where(jnp.abs(slope) < 1e-9, 1e-9, slope), 0.0, 1.0)
    feature = jnp.arange(2.0).reshape(-1, *[1] * slope.ndim) + 2.0 * (kept != along)
    late, early = along[0] > high, along[0] < low
    swapped = late | (early & (along[1] <= high))
    fraction, feature = (jnp.where(swapped, values[::-1], values) for values in (fraction, feature))
    point = ends[:, :1] + fraction * (ends[:, 1:] - ends[:, :1])
    height = dot(reference.normal[:, None], point - reference.start[:, None])
    return Clipped(point, height, remains, feature)


def _manifold(first_is_reference: jax.Array, reference: Segment, incident: Segment, margin: float) -> Manifold:
    """Manifold of two shapes that are close enough to touch.

    Args:
        first_is_reference: (..., E) bool, whether the first shape has the reference side.
        reference: the reference side.
        incident: the incident side.
        margin: extension of the reference side.
    """
    point, height, remains, feature = clip(reference, incident, margin)
    point = point - 0.5 * height * reference.normal[:, None]
    touching = remains & (height <= COLLISION_MARGIN)
    sign = jnp.where(first_is_reference, 1.0, -1.0)
    return Manifold(sign * reference.normal, point, height - COLLISION_MARGIN, touching, ~first_is_reference, feature)


def _choose(first: jax.Array, one: T, other: T) -> T:
    """Arrays of `one` where `first`, otherwise of the `other`."""
    return jax.tree.map(functools.partial(jnp.where, first), one, other)


def _prefer_second(first: jax.Array, second: jax.Array) -> jax.Array:
    """Whether the second shape has the reference side, given both largest separations. Box2D's tolerances favour the first."""
    return second > 0.98 * first + 0.001


def ground_manifold(shape: Placed, left: jax.Array, right: jax.Array, exists: jax.Array) -> Manifold:
    """Manifolds of ground edges from `left` to `right` (2, k, ..., E) with polygons, as in Box2D's b2EPCollider.

    Edges have one side here: they push a polygon upwards even if its centre is below them. Box2D pushes it downwards then.
    """

    def measure(shape: Placed, left: jax.Array, right: jax.Array) -> tuple[jax.Array, ...]:
        edge = right - left
        up = jnp.stack([-edge[1], edge[0]]) / jnp.sqrt(dot(edge, edge))
        corner, normal = shape.corner[:, :, None], shape.normal[:, :, None]
        of_edge = dot(corner - left[:, None], up[:, None])
        height = dot(normal, corner)
        ends = (dot(normal, end[:, None]) - height for end in (left, right))
        real = shape.real[:, None]
        of_side = jnp.where(real, jnp.minimum(*ends), -FAR)
        facing = jnp.where(real, -dot(normal, up[:, None]), -FAR)
        return up, fold(jnp.minimum, of_edge), of_side, facing

    def choose(shape: Placed, of_side: jax.Array, facing: jax.Array, edge_is_reference: jax.Array) -> Segment:
        under_each = Placed(shape.corner[:, :, None], shape.normal[:, :, None], shape.real[:, None])
        return best_side(jnp.where(edge_is_reference, facing, of_side), under_each)[1]

    up, edge_separation, of_side, facing = separately(measure, shape, left, right)
    side_separation = fold(jnp.maximum, of_side)
    edge_is_reference = ~_prefer_second(edge_separation, side_separation)
    side = separately(choose, shape, of_side, facing, edge_is_reference)
    near = exists & (edge_separation <= COLLISION_MARGIN) & (side_separation <= COLLISION_MARGIN)

    def make(edge_is_reference: jax.Array, side: Segment, left: jax.Array, right: jax.Array, up: jax.Array) -> Manifold:
        reference = _choose(edge_is_reference, Segment(right, left, up), side)
        incident = _choose(edge_is_reference, side, Segment(left, right, up))
        return _manifold(edge_is_reference, reference, incident, margin=0.0)

    manifold = separately(make, edge_is_reference, side, left, right, up)
    return manifold._replace(touching=manifold.touching & near)


def polygon_manifold(first: Placed, second: Placed) -> Manifold:
    """Manifolds of polygons with others in the same coordinates, as in Box2D's b2CollidePolygons. All have V corners."""

    def separation(one: Placed, other: Placed) -> tuple[jax.Array, Segment]:
        reach = fold(jnp.minimum, (dot(one.normal, corner[:, None]) for corner in jnp.moveaxis(other.corner, 1, 0)))
        return best_side(jnp.where(one.real, reach - dot(one.normal, one.corner), -FAR), one)

    def facing(first_is_reference: jax.Array, first: Placed, second: Placed, towards: jax.Array) -> Segment:
        other = _choose(first_is_reference, second, first)
        return best_side(jnp.where(other.real, -dot(other.normal, towards[:, None]), -FAR), other)[1]

    first_separation, of_first = separately(separation, first, second)
    second_separation, of_second = separately(separation, second, first)
    first_is_reference = ~_prefer_second(first_separation, second_separation)
    reference = _choose(first_is_reference, of_first, of_second)
    incident = separately(facing, first_is_reference, first, second, reference.normal)
    manifold = separately(functools.partial(_manifold, margin=COLLISION_MARGIN), first_is_reference, reference, incident)
    near = (first_separation <= COLLISION_MARGIN) & (second_separation <= COLLISION_MARGIN)
    return manifold._replace(touching=manifold.touching & near)
