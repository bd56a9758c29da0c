"""Who touches whom: a walker the ground, the package and its neighbours. Arrays have the batch as their last axis.

Walkers are n, each with five bodies; what touches is gathered into a fixed number of slots, those in use first.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import body, terrain
from envs_jax.multiwalker.body import BODIES, HULL, NUM_BODIES, SKIN, single
from envs_jax.multiwalker.collision import Manifold, Placed, Vector, ground_manifold, minus, place, polygon_manifold
from envs_jax.multiwalker.falls import package_on_ground
from envs_jax.multiwalker.selecting import only_where

LEG_EDGES, HULL_EDGES = 4, 6  # as many as a body can lie over
PAIRS = 3  # of bodies of neighbours that are looked at closely
AT_A_TIME = 1 / 8  # of all pairs of neighbours
NOTHING, NUM_TOUCHABLE = -9, LEG_EDGES + 3
_SHAPES = body.Polygons(*(array[:, :, None] for array in BODIES))  # (V, 5, 1, 2), to be placed at poses (3, 5, n, E)


class Contacts(NamedTuple):
    """Points in which bodies of walkers are pushed; all arrays (K, n, E), a slot not in use is zeros.

    Attributes:
        normal: direction of the push.
        arm: from the body's centre of mass to the point.
        separation: below 0 where skins overlap.
        member: (5, K, n, E) float, 1 for the body that is pushed.
        light: 1 / mass of the body.
        light_turn: 1 / its inertia.
        friction: coefficient.
        code: a whole number that tells points from each other, so that impulses are found again a step later; 0 in no use.
        by_second: bool, whether a side of the second of the two things decides the normal, which then turns with it. The second
            is the walker on ground and package, and the right one of neighbours.
    """

    normal: Vector
    arm: Vector
    separation: jax.Array
    member: jax.Array
    light: jax.Array
    light_turn: jax.Array
    friction: jax.Array
    code: jax.Array
    by_second: jax.Array


class OnGround(NamedTuple):
    """Edges under bodies.

    Attributes:
        manifold: (edges, bodies, n, E).
        first: (bodies, n, E) int32, the number of each one's first edge.
    """

    manifold: Manifold
    first: jax.Array


class Touching(NamedTuple):
    """Everything that touches at one moment.

    Attributes:
        legs: on the ground.
        hull: on the ground.
        package: points of walkers on the package, (2, n, E).
        package_arm: those points from the package's middle.
        neighbours: the points of each walker but the last on the next one, and of each but the first on the one before:
            two times (2, n - 1, E).
        feet: (k, 2, n, E) int32, numbers of what each lower leg touches: edges of the ground, other things below 0; -9 for
            nothing.
        fallen: (n, E) bool, the hull touches the ground or another walker.
        dropped: (E,) bool, the package touches the ground or a leg.
    """

    legs: OnGround
    hull: OnGround
    package: Contacts
    package_arm: Vector
    neighbours: tuple[Contacts, Contacts]
    feet: jax.Array
    fallen: jax.Array
    dropped: jax.Array


class _Candidates(NamedTuple):
    """Points from which slots are filled, all (C, n, E)."""

    normal: Vector
    arm: Vector
    separation: jax.Array
    code: jax.Array
    touching: jax.Array


def _choose(candidates: _Candidates, slots: int, friction: np.ndarray) -> Contacts:
    """The first `slots` candidates that touch."""
    rank = jnp.cumsum(candidates.touching.astype(jnp.int32), 0)
    index = (rank[None] <= jnp.arange(slots).reshape(-1, 1, 1, 1)).astype(jnp.int32).sum(1)
    used = index < len(rank)
    index = jnp.minimum(index, len(rank) - 1)

    def take(value: jax.Array) -> jax.Array:
        return jnp.where(used, jnp.take_along_axis(value, index, 0, mode="promise_in_bounds"), 0.0)

    code = take(candidates.code)
    return _contacts(
        (take(candidates.normal[0]), take(candidates.normal[1])),
        (take(candidates.arm[0]), take(candidates.arm[1])),
        take(candidates.separation),
        code,
        friction,
    )


def _contacts(normal: Vector, arm: Vector, separation: jax.Array, code: jax.Array, friction: np.ndarray) -> Contacts:
    """Contacts whose `code` mod 5 is the body, a fifth of it mod 8 the point: 4 times the manifold's kind, and its number."""
    number = jnp.arange(NUM_BODIES, dtype=jnp.float32).reshape(-1, *[1] * code.ndim)
    member = ((code % NUM_BODIES)[None] == number) & (code > 0)
    member = member.astype(jnp.float32)

    def own(values: np.ndarray) -> jax.Array:
        return fold(jnp.add, member * single(values).reshape(number.shape))

    return Contacts(
        normal,
        arm,
        separation,
        member,
        own(1 / body.MASS),
        own(1 / body.INERTIA),
        own(friction),
        code,
        code // (4 * NUM_BODIES) % 2 > 0,
    )


def _on_ground(shape: Placed, pose: jax.Array, heights: jax.Array, present: jax.Array, edges: int) -> OnGround:
    """What bodies at `pose` (3, B, n, E) have under them, about their centres of mass as the `shape`s are."""
    x, y, there, first = terrain.window(heights, pose[0] + fold(jnp.minimum, shape.corner[0]) - SKIN, edges + 1)
    x, y = x - pose[0], y - pose[1]
    manifold = ground_manifold(shape, (x[:-1], y[:-1]), (x[1:], y[1:]), there[:-1] & there[1:])
    return OnGround(manifold._replace(touching=manifold.touching & present), first)


def ground_code(ground: OnGround) -> jax.Array:
    """(2, edges, bodies, n, E): whole numbers above 0 that tell a body's points from each other."""
    manifold = ground.manifold
    number = jnp.arange(len(manifold.kind), dtype=jnp.float32).reshape(-1, 1, 1, 1)
    return 8 * (ground.first.astype(jnp.float32) + number + 2) + 4 * manifold.kind + manifold.number


def _points(ground: OnGround, bodies: slice) -> _Candidates:
    """All points, (2 edges B, n, E)."""
    manifold = ground.manifold
    which = jnp.arange(NUM_BODIES, dtype=jnp.float32)[bodies].reshape(-1, 1, 1)
    code = NUM_BODIES * ground_code(ground) + which

    def flat(value: jax.Array) -> jax.Array:
        return jnp.broadcast_to(value, code.shape).reshape(-1, *code.shape[3:])

    normal, point = manifold.normal, manifold.point
    vectors = (flat(normal[0]), flat(normal[1])), (flat(point[0]), flat(point[1]))
    return _Candidates(*vectors, flat(manifold.separation), flat(code), flat(manifold.touching))


def _in_order(*parts: _Candidates) -> _Candidates:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _deepest(manifold: Manifold) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Who touches (K, ...) bool, and what reads values (2, K, ...) at the touching points of the deepest of them, (2, ...)."""
    touches = manifold.touching.any(0)
    depth = jnp.where(touches, jnp.minimum(*manifold.separation), 1.0)
    taken = (touches & (depth == fold(jnp.minimum, depth)))[None] & manifold.touching

    def take(value: jax.Array) -> jax.Array:
        return jnp.where(taken, value, 0.0).sum(1)

    return touches, take


def _with_package(
    package: body.Package, package_pose: jax.Array, shape: Placed, from_body: Vector
) -> tuple[Contacts, Vector, jax.Array]:
    """The deepest body's points (2, n, E), from the package's middle, and who touches it (5, n, E) bool.

    Bodies have `shape`s about their centres of mass, which are `from_body` (5, n, E) from the package's middle.
    """
    middle = package_pose[0], package_pose[1]
    box = body.Polygons(*(array[:, None, None] for array in package.shape))
    there = shape._replace(corner=(shape.corner[0] + from_body[0], shape.corner[1] + from_body[1]))
    manifold = polygon_manifold(place(box, package_pose[:, None, None], middle), there)
    touches, take = _deepest(manifold)
    number = jnp.arange(NUM_BODIES, dtype=jnp.float32).reshape(-1, 1, 1)
    normal, point = (take(manifold.normal[0]), take(manifold.normal[1])), (take(manifold.point[0]), take(manifold.point[1]))
    arm = minus(point, (take(from_body[0]), take(from_body[1])))
    code = take(NUM_BODIES * (8 + 4 * manifold.kind + manifold.number) + number)
    friction = np.sqrt(body.FRICTION * body.PACKAGE_FRICTION)
    return _contacts(normal, arm, take(manifold.separation), code, friction), point, touches


def _nearest_pairs(left: jax.Array, right: jax.Array) -> jax.Array:
    """(PAIRS, 25, m, E) float: for each of the pairs of bodies with the nearest bounding boxes, a 1 where it is."""
    boxes = []
    for pose in (left, right):
        shape = place(_SHAPES, pose, (jnp.zeros(()), jnp.zeros(())))
        boxes.append([(c.min(0), c.max(0)) for c in shape.corner])
    gaps = []
    for (low, high), (other_low, other_high) in zip(*boxes, strict=True):
        gaps.append(jnp.maximum(low[:, None] - other_high[None], other_low[None] - high[:, None]))
    gap = jnp.maximum(*gaps)
    gap = gap.reshape(-1, *gap.shape[2:])
    # No two the same: then a minimum has one place.
    gap = gap + 1e-5 * jnp.arange(len(gap), dtype=jnp.float32).reshape(-1, 1, 1)
    chosen = []
    for _ in range(PAIRS):
        nearest = gap == gap.min(0)
        chosen.append(nearest)
        gap = jnp.where(nearest, 1e6, gap)
    return jnp.stack(chosen).astype(jnp.float32)


def _picked(pose: jax.Array, chosen: jax.Array) -> tuple[Placed, Vector, jax.Array]:
    """The bodies that are `chosen` (PAIRS, 5, m, E) of walkers at pose (3, 5, m, E): shapes, where they are, which."""

    def pick(values: jax.Array | np.ndarray) -> jax.Array:
        return sum((chosen[:, b] * values[b] for b in range(NUM_BODIES)), jnp.zeros(()))

    x, y, angle = (pick(value) for value in pose)
    cos, sin = jnp.cos(angle), jnp.sin(angle)

    def turned(vectors: np.ndarray) -> Vector:
        own = [jnp.stack([pick(single(vector)) for vector in vectors[..., i]]) for i in (0, 1)]
        return cos * own[0] - sin * own[1], sin * own[0] + cos * own[1]

    corner = turned(BODIES.corner)
    real = jnp.stack([pick(single(side)) > 0.5 for side in BODIES.real])
    return Placed((corner[0] + x, corner[1] + y), turned(BODIES.normal), real), (x, y), pick(np.arange(5.0, dtype=np.float32))


def _between(left: jax.Array, right: jax.Array) -> tuple[Contacts, Contacts, jax.Array]:
    """Walkers at poses (3, 5, m, E) against those right of them: points of each (2, m, E), and who touches, (5, 5, m, E)."""
    origin = jnp.stack([left[0, HULL], left[1, HULL], jnp.zeros_like(left[0, HULL])])[:, None]
    left, right = left - origin, right - origin
    pairs = _nearest_pairs(left, right)
    by_body = pairs.reshape(PAIRS, NUM_BODIES, NUM_BODIES, *pairs.shape[2:])
    one, one_at, one_number = _picked(left, by_body.sum(2))
    other, other_at, other_number = _picked(right, by_body.sum(1))
    manifold = polygon_manifold(one, other)
    touches, take = _deepest(manifold)
    normal, point = (take(manifold.normal[0]), take(manifold.normal[1])), (take(manifold.point[0]), take(manifold.point[1]))
    separation = take(manifold.separation)
    kind = NUM_BODIES * (8 + 4 * manifold.kind + manifold.number)
    sides = []
    for at, number, sign in ((one_at, one_number, -1.0), (other_at, other_number, 1.0)):
        arm = minus(point, (take(at[0]), take(at[1])))
        vector = sign * normal[0], sign * normal[1]
        sides.append(_contacts(vector, arm, separation, take(kind + number), np.sqrt(body.FRICTION)))
    first, second = sides
    friction = first.friction * second.friction
    code = first.code + 100 * second.code  # so that both know which pair of bodies it was
    touching_bodies = (by_body * touches[:, None, None]).sum(0) > 0
    return first._replace(friction=friction, code=code), second._replace(friction=friction, code=code), touching_bodies


def _no_neighbours(shape: tuple[int, ...]) -> tuple[Contacts, Contacts, jax.Array]:
    zeros = jnp.zeros((2, *shape))
    none = Contacts(
        (zeros, zeros), (zeros, zeros), zeros, jnp.zeros((NUM_BODIES, *zeros.shape)), zeros, zeros, zeros, zeros, zeros > 0
    )
    return none, none, jnp.zeros((NUM_BODIES, NUM_BODIES, *shape), bool)


def _reach(pose: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Left and right end (n, E) of all that a walker may touch."""
    half = np.hypot(*np.moveaxis(BODIES.corner, -1, 0)).max(0)[:, None, None] + SKIN
    return (pose[0] - half).min(0), (pose[0] + half).max(0)


def _neighbours(pose: jax.Array, present: jax.Array) -> tuple[Contacts, Contacts, jax.Array]:
    """`_between` all walkers and those right of them, where they are close."""
    shape = pose.shape[2] - 1, pose.shape[3]
    if not shape[0]:
        return _no_neighbours(shape)
    low, high = _reach(pose)
    close = present[:-1] & present[1:] & (high[:-1] >= low[1:]) & (high[1:] >= low[:-1])

    def column(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(*leaf.shape[:-2], 1, -1)

    poses = column(pose[:, :, :-1]), column(pose[:, :, 1:])
    none = jax.tree.map(column, _no_neighbours(shape))
    found = only_where(close.reshape(-1), lambda poses, _: _between(*poses), poses, none, AT_A_TIME)
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-2], *shape), found)


def ground_slots(touch: Touching, slots: int) -> Contacts:
    """The first points of walkers on the ground, (slots, n, E); feet first."""
    friction = np.sqrt(body.FRICTION * body.TERRAIN_FRICTION)
    points = _in_order(_points(touch.legs, body.LEGS), _points(touch.hull, slice(0, 1)))
    return separately(functools.partial(_choose, slots=slots, friction=friction), points)


def touching(
    package: body.Package, pose: jax.Array, package_pose: jax.Array, present: jax.Array, heights: jax.Array
) -> Touching:
    """All contacts.

    Args:
        package: its shape.
        pose: (3, 5, n, E), x, y and angle of every body.
        package_pose: (3, E).
        present: (n, E) bool, walkers that were not taken away.
        heights: (T, E), of the ground.
    """
    centre = pose[0], pose[1]
    shape = place(_SHAPES, pose, centre)

    def on_ground(bodies: slice, edges: int) -> OnGround:
        own = jax.tree.map(lambda leaf: leaf[:, bodies], shape)
        return separately(functools.partial(_on_ground, edges=edges), own, pose[:, bodies], heights, present)

    legs, hull = on_ground(body.LEGS, LEG_EDGES), on_ground(slice(0, 1), HULL_EDGES)
    far = jnp.where(present, 0.0, 1e3)
    from_package = pose[0] + far - package_pose[0], pose[1] + far - package_pose[1]
    with_package, package_arm, on_package = separately(
        functools.partial(_with_package, package), package_pose, shape, from_package
    )

    one, other, pair_touches = _neighbours(pose, present)
    padding = jnp.zeros((NUM_BODIES, 1, pose.shape[3]), bool)
    by_right = jnp.concatenate([pair_touches.any(1), padding], 1)
    by_left = jnp.concatenate([padding, pair_touches.any(0)], 1)

    foot_edges = jnp.arange(LEG_EDGES).reshape(-1, 1, 1, 1) + legs.first[1::2]
    on_edges = jnp.where(legs.manifold.touching.any(0)[:, 1::2], foot_edges, NOTHING)
    others = [
        jnp.where(on[body.LOWER_LEGS], number, NOTHING) for number, on in ((-3, on_package), (-4, by_left), (-5, by_right))
    ]
    return Touching(
        legs=legs,
        hull=hull,
        package=with_package,
        package_arm=package_arm,
        neighbours=(one, other),
        feet=jnp.concatenate([on_edges, jnp.stack(others)]).astype(jnp.int32),
        fallen=hull.manifold.touching.any((0, 1, 2)) | by_left[HULL] | by_right[HULL],
        dropped=on_package[1:].any((0, 1)) | package_on_ground(package, package_pose, heights, SKIN),
    )
