"""Where polygons touch each other and the ground, as Box2D's manifolds have it. Arrays have the batch as their last axis.

Vectors are pairs (x, y) of arrays, so that all that is done to them is done to long rows of numbers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import body, terrain
from envs_jax.multiwalker.body import SKIN, single

Vector = tuple[Any, Any]
"""x and y, arrays of any one shape."""
Sides = tuple[tuple[tuple[Vector, Vector], tuple[Vector, Vector]], tuple[tuple[Vector, Vector], tuple[Vector, Vector]]]
"""Of a first and a second thing: from where to where the side goes that decides, and the side that is cut."""
_NEVER = 1e9


class Placed(NamedTuple):
    """Polygons somewhere, all arrays (V, ..., E).

    Attributes:
        corner: from the centre of mass of whatever the coordinates are about.
        normal: outward, of the side from each corner to the next.
        real: whether that side has a length.
    """

    corner: Vector
    normal: Vector
    real: jax.Array


class Manifold(NamedTuple):
    """The (up to) two points where two things touch.

    Attributes:
        normal: (..., E), in which direction the second is pushed.
        point: (2, ..., E), halfway between the two skins.
        separation: (2, ..., E), negative where the skins overlap.
        touching: (2, ..., E) bool, whether there is such a point.
        kind: (..., E) bool, whether a side of the second decides the normal.
        number: (2, ..., E) float, 0 to 3, tells a manifold's points from each other: which end of the side that is cut it
            was, and whether it was cut.
    """

    normal: Vector
    point: Vector
    separation: jax.Array
    touching: jax.Array
    kind: jax.Array
    number: jax.Array


def dot(a: Vector, b: Vector) -> jax.Array:
    """Inner product."""
    return a[0] * b[0] + a[1] * b[1]


def cross(a: Vector, b: Vector) -> jax.Array:
    """a_x b_y - a_y b_x: the torque of force `b` at `a`."""
    return a[0] * b[1] - a[1] * b[0]


def minus(a: Vector, b: Vector) -> Vector:
    """A - b."""
    return a[0] - b[0], a[1] - b[1]


def rotate(cos: jax.Array, sin: jax.Array, vector: Vector) -> Vector:
    """`vector` turned."""
    return cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]


def place(shape: body.Polygons, pose: jax.Array, origin: Vector) -> Placed:
    """Polygons (V, ..., 2) at `pose` (3, ..., E), in world axes about `origin` (..., E)."""
    corner, normal = ((single(a[..., 0, None]), single(a[..., 1, None])) for a in (shape.corner, shape.normal))

    def turn(pose: jax.Array, origin: Vector) -> tuple[Vector, Vector]:
        cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
        x, y = rotate(cos, sin, corner)
        return (x + (pose[0] - origin[0]), y + (pose[1] - origin[1])), rotate(cos, sin, normal)

    corner, normal = separately(turn, pose, origin)
    return Placed(corner, normal, jnp.broadcast_to(shape.real[..., None], corner[0].shape))


def best(score: jax.Array, values: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The highest of `score` (V, ..., E), and the entries of each of `values` there; the first where several are."""
    top, *found = score[0], *(value[0] for value in values)
    for i in range(1, len(score)):
        better = score[i] > top
        top = jnp.maximum(score[i], top)
        found = [jnp.where(better, value[i], old) for value, old in zip(values, found, strict=True)]
    return top, *found


class Clipped(NamedTuple):
    """A side cut to the width of another.

    Attributes:
        point: its two ends, (2, ..., E), in the order in which Box2D's cuts leave them.
        height: over the other side, (2, ..., E).
        left: (..., E) bool, whether anything was left.
        number: (2, ..., E), which end it was, and 2 more where it was cut.
    """

    point: Vector
    height: jax.Array
    left: jax.Array
    number: jax.Array


def clip(side: tuple[Vector, Vector], normal: Vector, incident: tuple[Vector, Vector], margin: float) -> Clipped:
    """The incident side cut to the width of the reference side."""
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
    """The manifold of the sides of a first and a second thing, with their normals; the first's is the reference or not."""

    def choose(first: Vector, second: Vector) -> Vector:
        return jnp.where(first_decides, first[0], second[0]), jnp.where(first_decides, first[1], second[1])

    (first, second), (cut_first, cut_second) = sides
    reference = choose(first[0], second[0]), choose(first[1], second[1])
    incident = choose(cut_second[0], cut_first[0]), choose(cut_second[1], cut_first[1])
    normal = choose(*normals)
    point, separation, left, number = clip(reference, normal, incident, margin)
    point = point[0] - 0.5 * separation * normal[0], point[1] - 0.5 * separation * normal[1]
    sign = jnp.where(first_decides, 1.0, -1.0)
    touching = (near & left) & (separation <= SKIN)
    return Manifold((sign * normal[0], sign * normal[1]), point, separation - SKIN, touching, ~first_decides, number)


def _prefer_second(first: jax.Array, second: jax.Array) -> jax.Array:
    """Whether the second thing's sides tell better where the two separate."""
    return second > 0.98 * first + 0.001


def ground_manifold(shape: Placed, left: Vector, right: Vector, exists: jax.Array) -> Manifold:
    """Edges of the ground from `left` to `right` (k, ..., E) against polygons (V, ..., E), which they push up.

    Unlike the original's, an edge pushes up even what has its middle under it.
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
    near = exists & (edge_separation <= SKIN) & (side_separation <= SKIN)
    own = (ax, ay), (bx, by)
    sides = ((right, left), own), ((left, right), own)
    return separately(functools.partial(_manifold, margin=0.0), by_edge, sides, ((x, y), (nx, ny)), near)


def clearance(shape: Placed, x: jax.Array, height: jax.Array) -> jax.Array:
    """How high polygons (V, ..., E) are over the ground's points (k, ..., E), `terrain.STEP` apart, in the same coordinates.

    The least of their corners' height over its lines, and of its points' distance from their sides, (..., E).
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
    """Polygons (V, ..., E) against others, in the same coordinates."""

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
    near = (first_separation <= SKIN) & (second_separation <= SKIN)
    both = ((a[0], a[1]), (a[2], a[3])), ((b[0], b[1]), (b[2], b[3]))
    sides = both, both
    return separately(functools.partial(_manifold, margin=SKIN), by_first, sides, ((a[4], a[5]), (b[4], b[5])), near)


def _values(shape: Placed) -> tuple[jax.Array, ...]:
    """Of each side its two corners and its normal."""
    return *shape.corner, *(jnp.roll(c, -1, 0) for c in shape.corner), *shape.normal
