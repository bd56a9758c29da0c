"""Contact manifolds of convex polygons and ground edges, as in Box2D. Arrays have the batch as their last axis.

Vectors are pairs (x, y) of arrays. Every operation on them therefore vectorizes over the batch.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import COLLISION_MARGIN, single

Vector = tuple[Any, Any]
"""Components x and y, arrays of the same shape."""
Sides = tuple[tuple[tuple[Vector, Vector], tuple[Vector, Vector]], tuple[tuple[Vector, Vector], tuple[Vector, Vector]]]
"""Reference sides of the first and the second shape, then their incident sides. A side is its start and its end."""
_NEVER = 1e9


class Placed(NamedTuple):
    """Polygons at given poses, in world axes. All arrays are (V, ..., E).

    Attributes:
        corner: relative to the origin that the caller chose.
        normal: outward unit normal of the side from each corner to the next.
        real: bool, whether that side has a positive length.
    """

    corner: Vector
    normal: Vector
    real: jax.Array


class Manifold(NamedTuple):
    """Contact manifold of a first and a second shape: up to two points.

    Attributes:
        normal: (..., E), unit normal from the first to the second shape.
        point: (2, ..., E), contact points, halfway between the two surfaces.
        separation: (2, ..., E), negative where the skins overlap.
        touching: (2, ..., E) bool, whether the point exists.
        reference_is_second: (..., E) bool, whether the reference side belongs to the second shape.
        feature: (2, ..., E) float, feature id within the manifold, 0 to 3: index of the end of the incident side, plus 2 if
            that end was clipped.
    """

    normal: Vector
    point: Vector
    separation: jax.Array
    touching: jax.Array
    reference_is_second: jax.Array
    feature: jax.Array


def dot(a: Vector, b: Vector) -> jax.Array:
    """Inner product."""
    return a[0] * b[0] + a[1] * b[1]


def cross(a: Vector, b: Vector) -> jax.Array:
    """Cross product a_x b_y - a_y b_x, for example the torque of a force `b` with the arm `a`."""
    return a[0] * b[1] - a[1] * b[0]


def minus(a: Vector, b: Vector) -> Vector:
    """Difference a - b."""
    return a[0] - b[0], a[1] - b[1]


def rotate(cos: jax.Array, sin: jax.Array, vector: Vector) -> Vector:
    """Rotates `vector` by the angle with this cosine and sine."""
    return cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]


def place(shape: model.Polygons, pose: jax.Array, origin: Vector) -> Placed:
    """Places polygons (V, ..., 2) at `pose` (3, ..., E), with corners relative to `origin` (..., E)."""
    corner, normal = ((single(a[..., 0, None]), single(a[..., 1, None])) for a in (shape.corner, shape.normal))

    def turn(pose: jax.Array, origin: Vector) -> tuple[Vector, Vector]:
        cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
        x, y = rotate(cos, sin, corner)
        return (x + (pose[0] - origin[0]), y + (pose[1] - origin[1])), rotate(cos, sin, normal)

    corner, normal = separately(turn, pose, origin)
    return Placed(corner, normal, jnp.broadcast_to(shape.real[..., None], corner[0].shape))


def best(score: jax.Array, values: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Maximum of `score` (V, ..., E) over the first axis, and the entries of each of `values` there. The first wins a tie."""
    stacked = jnp.stack(jnp.broadcast_arrays(*values), 1)
    top, found = score[0], stacked[0]
    for i in range(1, len(score)):
        found = jnp.where(score[i] > top, stacked[i], found)
        top = jnp.maximum(score[i], top)
    return top, *found


class Clipped(NamedTuple):
    """Incident side after clipping to the reference side.

    Attributes:
        point: (2, ..., E), its ends, in the order in which Box2D's b2ClipSegmentToLine leaves them.
        height: (2, ..., E), signed distances of the ends from the reference side.
        left: (..., E) bool, whether any part of the side remains.
        feature: (2, ..., E), feature ids, as in `Manifold`.
    """

    point: Vector
    height: jax.Array
    left: jax.Array
    feature: jax.Array


def clip(side: tuple[Vector, Vector], normal: Vector, incident: tuple[Vector, Vector], margin: float) -> Clipped:
    """Clips the incident side to the width of the reference `side` with its `normal`, extended by `margin` at both ends."""
    tangent = -normal[1], normal[0]
    width = dot(tangent, minus(side[1], side[0]))
    along = jnp.stack([dot(tangent, minus(point, side[0])) for point in incident])
    low, high = -margin, width + margin
    left = (along.max(0) >= low) & (along.min(0) <= high)
    slope = along[1] - along[0]
    kept = jnp.clip(along, low, high)
    share = jnp.clip((kept - along[0]) / jnp.where(jnp.abs(slope) < 1e-9, 1e-9, slope), 0.0, 1.0)
    number = jnp.arange(2.0).reshape(-1, *[1] * slope.ndim) + 2.0 * (kept != along)
    late, early = along[0] > high, along[0] < low
    swapped = late | (early & (along[1] <= high))
    share, number = (jnp.where(swapped, values[::-1], values) for values in (share, number))
    start, way = incident[0], minus(incident[1], incident[0])
    point = start[0] + share * way[0], start[1] + share * way[1]
    return Clipped(point, dot(normal, minus(point, side[0])), left, number)


def _manifold(
    first_decides: jax.Array,
    sides: Sides,
    normals: tuple[Vector, Vector],
    near: jax.Array,
    margin: float,
) -> Manifold:
    """Manifold of two shapes from their sides and normals. Where `first_decides`, the first shape has the reference side."""

    def choose(first: Vector, second: Vector) -> Vector:
        return jnp.where(first_decides, first[0], second[0]), jnp.where(first_decides, first[1], second[1])

    (first, second), (cut_first, cut_second) = sides
    reference = choose(first[0], second[0]), choose(first[1], second[1])
    incident = choose(cut_second[0], cut_first[0]), choose(cut_second[1], cut_first[1])
    normal = choose(*normals)
    point, separation, left, number = clip(reference, normal, incident, margin)
    point = point[0] - 0.5 * separation * normal[0], point[1] - 0.5 * separation * normal[1]
    sign = jnp.where(first_decides, 1.0, -1.0)
    touching = (near & left) & (separation <= COLLISION_MARGIN)
    return Manifold(
        (sign * normal[0], sign * normal[1]), point, separation - COLLISION_MARGIN, touching, ~first_decides, number
    )


def _prefer_second(first: jax.Array, second: jax.Array) -> jax.Array:
    """Whether the second shape has the reference side, given both largest separations. Box2D's tolerances favour the first."""
    return second > 0.98 * first + 0.001


def ground_manifold(shape: Placed, left: Vector, right: Vector, exists: jax.Array) -> Manifold:
    """Manifolds of ground edges from `left` to `right` (k, ..., E) with polygons (V, ..., E), as in Box2D's b2EPCollider.

    Edges have one side here: they push a polygon upwards even if its centre is below them. Box2D pushes it downwards then.
    """

    def measure(shape: Placed, left: Vector, right: Vector) -> tuple[jax.Array, ...]:
        edge = minus(right, left)
        length = jnp.sqrt(dot(edge, edge))
        up = -edge[1] / length, edge[0] / length
        corner, normal = (tuple(c[:, None] for c in vectors) for vectors in (shape.corner, shape.normal))
        of_edge = (corner[0] - left[0]) * up[0] + (corner[1] - left[1]) * up[1]
        height = dot(normal, corner)
        ends = [normal[0] * end[0] + normal[1] * end[1] - height for end in (left, right)]
        real = shape.real[:, None]
        of_side = jnp.where(real, jnp.minimum(*ends), -_NEVER)
        facing = jnp.where(real, -(normal[0] * up[0] + normal[1] * up[1]), -_NEVER)
        return *up, fold(jnp.minimum, of_edge), of_side, facing

    def choose(shape: Placed, of_side: jax.Array, facing: jax.Array, by_edge: jax.Array) -> tuple[jax.Array, ...]:
        corner, normal = (tuple(c[:, None] for c in vectors) for vectors in (shape.corner, shape.normal))
        following = tuple(jnp.roll(c, -1, 0) for c in corner)
        return best(jnp.where(by_edge[None], facing, of_side), (*corner, *following, *normal))[1:]

    x, y, edge_separation, of_side, facing = separately(measure, shape, left, right)
    side_separation = fold(jnp.maximum, of_side)
    by_edge = ~_prefer_second(edge_separation, side_separation)
    ax, ay, bx, by, nx, ny = separately(choose, shape, of_side, facing, by_edge)
    near = exists & (edge_separation <= COLLISION_MARGIN) & (side_separation <= COLLISION_MARGIN)
    own = (ax, ay), (bx, by)
    sides = ((right, left), own), ((left, right), own)
    return separately(functools.partial(_manifold, margin=0.0), by_edge, sides, ((x, y), (nx, ny)), near)


def clearance(shape: Placed, x: jax.Array, height: jax.Array) -> jax.Array:
    """Clearance of polygons (V, ..., E) above ground points (k, ..., E) that are `terrain.STEP` apart, (..., E).

    It is the minimum of the corners' heights above the ground and of the ground points' signed distances from the polygons.
    Both are given in the same coordinates.
    """
    corner, normal = shape.corner, shape.normal
    at = (corner[0] - x[0]) * single(1 / terrain.STEP)
    shares = (jnp.maximum(1.0 - jnp.abs(at - k), 0.0) * each for k, each in enumerate(height))
    of_corners = fold(jnp.minimum, corner[1] - sum(shares, jnp.zeros(())))
    reach = dot(normal, corner)
    sides = zip(normal[0], normal[1], reach, shape.real, strict=True)
    of_sides = (jnp.where(real, nx * x + ny * height - from_middle, -_NEVER) for nx, ny, from_middle, real in sides)
    return jnp.minimum(of_corners, fold(jnp.minimum, fold(jnp.maximum, of_sides)))


def polygon_manifold(first: Placed, second: Placed) -> Manifold:
    """Manifolds of polygons (V, ..., E) with others in the same coordinates, as in Box2D's b2CollidePolygons."""

    def separations(one: Placed, other: Placed) -> tuple[jax.Array, ...]:
        height = dot(one.normal, one.corner)
        reach = fold(jnp.minimum, (dot(one.normal, corner) for corner in zip(*other.corner, strict=True)))
        return best(jnp.where(one.real, reach - height, -_NEVER), _values(one))

    def facing(one: Placed, towards: Vector) -> tuple[jax.Array, ...]:
        against = -(one.normal[0] * towards[0] + one.normal[1] * towards[1])
        return best(jnp.where(one.real, against, -_NEVER), _values(one))[1:]

    first_separation, *a = separately(separations, first, second)
    second_separation, *b = separately(separations, second, first)
    by_first = ~_prefer_second(first_separation, second_separation)
    towards = jnp.where(by_first, a[4], b[4]), jnp.where(by_first, a[5], b[5])
    incident_first, incident_second = separately(facing, first, towards), separately(facing, second, towards)
    a = [jnp.where(by_first, reference, incident) for reference, incident in zip(a, incident_first, strict=True)]
    b = [jnp.where(by_first, incident, reference) for reference, incident in zip(b, incident_second, strict=True)]
    near = (first_separation <= COLLISION_MARGIN) & (second_separation <= COLLISION_MARGIN)
    both = ((a[0], a[1]), (a[2], a[3])), ((b[0], b[1]), (b[2], b[3]))
    sides = both, both
    return separately(
        functools.partial(_manifold, margin=COLLISION_MARGIN), by_first, sides, ((a[4], a[5]), (b[4], b[5])), near
    )


def _values(shape: Placed) -> tuple[jax.Array, ...]:
    """The two corners and the normal of each side."""
    return *shape.corner, *(jnp.roll(c, -1, 0) for c in shape.corner), *shape.normal
