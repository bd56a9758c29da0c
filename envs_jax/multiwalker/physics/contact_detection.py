"""Contact detection: walkers with the ground, the package and their neighbours. Arrays have the batch as their last axis.

There are n walkers with five bodies each. Contact points are stored in a fixed number of slots, the used ones first.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import BODIES, COLLISION_MARGIN, HULL, NUM_BODIES, single
from envs_jax.multiwalker.physics.clearance import package_on_ground
from envs_jax.multiwalker.physics.manifold import (
    Manifold,
    Placed,
    Vector,
    ground_manifold,
    minus,
    place,
    polygon_manifold,
    rotate,
)
from envs_jax.multiwalker.physics.masked_loops import apply_where

LEG_EDGES, HULL_EDGES = 4, 6  # largest number of edges under a body
PAIRS = 3  # pairs of bodies per pair of neighbours whose manifolds are computed
AT_A_TIME = 1 / 8  # of all pairs of neighbours
NO_CONTACT, NUM_TOUCHABLE = -9, LEG_EDGES + 3
_GEOMETRY = np.concatenate(
    [*np.moveaxis(BODIES.corner, -1, 0), *np.moveaxis(BODIES.normal, -1, 0), BODIES.real, [np.arange(NUM_BODIES)]]
)  # (5 V + 1, 5): of each body its corners, its normals, which sides are real, and its index
_PARTS = len(BODIES.real) * np.arange(1, 6)
_SHAPES = model.Polygons(*(array[:, :, None] for array in BODIES))  # (V, 5, 1, 2), for poses (3, 5, n, E)


class ContactPoints(NamedTuple):
    """Contact points on bodies of walkers. Arrays are (K, n, E), and unused slots are zeros.

    Attributes:
        normal: direction of the normal impulse on the body.
        r: from the body's centre of mass to the point.
        separation: negative where the skins overlap.
        one_hot: (5, K, n, E) float, one-hot index of the body.
        inv_mass: 1 / mass of the body.
        inv_inertia: 1 / inertia of the body.
        friction: coefficient of friction.
        feature_id: feature id, by which the next step finds the accumulated impulse; 0 for unused slots.
        reference_is_second: bool, whether the reference side belongs to the second body. The second body is the walker's in
            contacts with the ground and the package, and the right walker's in contacts of neighbours.
    """

    normal: Vector
    r: Vector
    separation: jax.Array
    one_hot: jax.Array
    inv_mass: jax.Array
    inv_inertia: jax.Array
    friction: jax.Array
    feature_id: jax.Array
    reference_is_second: jax.Array


class GroundManifolds(NamedTuple):
    """Manifolds of bodies with the edges under them.

    Attributes:
        manifold: (edges, bodies, n, E).
        first: (bodies, n, E) int32, number of the first edge under each body.
    """

    manifold: Manifold
    first: jax.Array


class Contacts(NamedTuple):
    """All contacts at one time.

    Attributes:
        legs: legs on the ground.
        hull: hulls on the ground.
        package: contacts of walkers with the package, (2, n, E).
        package_arm: arms of those points from the package's centre of mass.
        neighbours: contacts (2, n - 1, E) of the left walkers of all pairs of neighbours, and those of the right walkers.
        feet: (k, 2, n, E) int32, what each lower leg touches: numbers of ground edges, negative numbers for other bodies, -9
            for nothing.
        fallen: (n, E) bool, whether the hull touches the ground or another walker.
        dropped: (E,) bool, whether the package touches the ground or a leg.
    """

    legs: GroundManifolds
    hull: GroundManifolds
    package: ContactPoints
    package_arm: Vector
    neighbours: tuple[ContactPoints, ContactPoints]
    feet: jax.Array
    fallen: jax.Array
    dropped: jax.Array


class _Candidates(NamedTuple):
    """Candidates for the slots of contact points, (C, n, E) each."""

    normal: Vector
    r: Vector
    separation: jax.Array
    feature_id: jax.Array
    touching: jax.Array


def _choose(candidates: _Candidates, ground_points: int, friction: np.ndarray) -> ContactPoints:
    """Fills the slots with the first candidates that touch."""
    rank = jnp.cumsum(candidates.touching.astype(jnp.int32), 0)
    index = (rank[None] <= jnp.arange(ground_points).reshape(-1, 1, 1, 1)).astype(jnp.int32).sum(1)
    used = index < len(rank)
    index = jnp.minimum(index, len(rank) - 1)

    def take(value: jax.Array) -> jax.Array:
        return jnp.where(used, jnp.take_along_axis(value, index, 0, mode="promise_in_bounds"), 0.0)

    feature_id = take(candidates.feature_id)
    return _contacts(
        (take(candidates.normal[0]), take(candidates.normal[1])),
        (take(candidates.r[0]), take(candidates.r[1])),
        take(candidates.separation),
        feature_id,
        friction,
    )


def _contacts(normal: Vector, r: Vector, separation: jax.Array, feature_id: jax.Array, friction: np.ndarray) -> ContactPoints:
    """Makes contacts. `feature_id` mod 5 is the body. `feature_id` // 5 mod 8 is 4 `reference_is_second` + `feature`."""
    number = jnp.arange(NUM_BODIES, dtype=jnp.float32).reshape(-1, *[1] * feature_id.ndim)
    one_hot = ((feature_id % NUM_BODIES)[None] == number) & (feature_id > 0)
    one_hot = one_hot.astype(jnp.float32)

    def own(values: np.ndarray) -> jax.Array:
        return fold(jnp.add, one_hot * single(values).reshape(number.shape))

    return ContactPoints(
        normal,
        r,
        separation,
        one_hot,
        own(1 / model.MASS),
        own(1 / model.INERTIA),
        own(friction),
        feature_id,
        feature_id // (4 * NUM_BODIES) % 2 > 0,
    )


def _on_ground(shape: Placed, pose: jax.Array, heights: jax.Array, present: jax.Array, edges: int) -> GroundManifolds:
    """Manifolds of bodies at `pose` (3, B, n, E) with the ground. They and `shape` are relative to the centres of mass."""
    x, y, there, first = terrain.window(heights, pose[0] + fold(jnp.minimum, shape.corner[0]) - COLLISION_MARGIN, edges + 1)
    x, y = x - pose[0], y - pose[1]
    manifold = ground_manifold(shape, (x[:-1], y[:-1]), (x[1:], y[1:]), there[:-1] & there[1:])
    return GroundManifolds(manifold._replace(touching=manifold.touching & present), first)


def ground_feature_ids(ground: GroundManifolds) -> jax.Array:
    """Feature ids (2, edges, bodies, n, E): positive integers that are unique among a body's points."""
    manifold = ground.manifold
    number = jnp.arange(len(manifold.reference_is_second), dtype=jnp.float32).reshape(-1, 1, 1, 1)
    return 8 * (ground.first.astype(jnp.float32) + number + 2) + 4 * manifold.reference_is_second + manifold.feature


def _points(ground: GroundManifolds, bodies: slice) -> _Candidates:
    """All points of bodies with edges, (2 * edges * B, n, E)."""
    manifold = ground.manifold
    which = jnp.arange(NUM_BODIES, dtype=jnp.float32)[bodies].reshape(-1, 1, 1)
    feature_id = NUM_BODIES * ground_feature_ids(ground) + which

    def flat(value: jax.Array) -> jax.Array:
        return jnp.broadcast_to(value, feature_id.shape).reshape(-1, *feature_id.shape[3:])

    normal, point = manifold.normal, manifold.point
    vectors = (flat(normal[0]), flat(normal[1])), (flat(point[0]), flat(point[1]))
    return _Candidates(*vectors, flat(manifold.separation), flat(feature_id), flat(manifold.touching))


def _in_order(*parts: _Candidates) -> _Candidates:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _deepest(manifold: Manifold) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Which manifolds touch, (K, ...) bool, and a function that takes the values of the deepest, (2, K, ...) -> (2, ...)."""
    touches = manifold.touching.any(0)
    depth = jnp.where(touches, jnp.minimum(*manifold.separation), 1.0)
    taken = (touches & (depth == fold(jnp.minimum, depth)))[None] & manifold.touching

    def take(value: jax.Array) -> jax.Array:
        return jnp.where(taken, value, 0.0).sum(1)

    return touches, take


def _with_package(
    package: model.Package, package_pose: jax.Array, shape: Placed, from_body: Vector
) -> tuple[ContactPoints, Vector, jax.Array]:
    """Contacts with the package: points of the deepest body, their arms (2, n, E), and which bodies touch it, (5, n, E) bool.

    Shapes are relative to the centres of mass of the bodies, which are at `from_body` (5, n, E) relative to the package's.
    """
    middle = package_pose[0], package_pose[1]
    box = model.Polygons(*(array[:, None, None] for array in package.shape))
    there = shape._replace(corner=(shape.corner[0] + from_body[0], shape.corner[1] + from_body[1]))
    manifold = polygon_manifold(place(box, package_pose[:, None, None], middle), there)
    touches, take = _deepest(manifold)
    number = jnp.arange(NUM_BODIES, dtype=jnp.float32).reshape(-1, 1, 1)
    normal, point = (take(manifold.normal[0]), take(manifold.normal[1])), (take(manifold.point[0]), take(manifold.point[1]))
    r = minus(point, (take(from_body[0]), take(from_body[1])))
    feature_id = take(NUM_BODIES * (8 + 4 * manifold.reference_is_second + manifold.feature) + number)
    friction = np.sqrt(model.FRICTION * model.PACKAGE_FRICTION)
    return _contacts(normal, r, take(manifold.separation), feature_id, friction), point, touches


def _nearest_pairs(left: jax.Array, right: jax.Array) -> jax.Array:
    """One-hot indices of the pairs of bodies with the nearest bounding boxes, (PAIRS, 25, m, E) float."""
    boxes = []
    for pose in (left, right):
        shape = place(_SHAPES, pose, (jnp.zeros(()), jnp.zeros(())))
        boxes.append([(c.min(0), c.max(0)) for c in shape.corner])
    gaps = []
    for (low, high), (other_low, other_high) in zip(*boxes, strict=True):
        gaps.append(jnp.maximum(low[:, None] - other_high[None], other_low[None] - high[:, None]))
    gap = jnp.maximum(*gaps)
    gap = gap.reshape(-1, *gap.shape[2:])
    # Distinct values make each minimum unique.
    gap = gap + 1e-5 * jnp.arange(len(gap), dtype=jnp.float32).reshape(-1, 1, 1)
    chosen = []
    for _ in range(PAIRS):
        nearest = gap == gap.min(0)
        chosen.append(nearest)
        gap = jnp.where(nearest, 1e6, gap)
    return jnp.stack(chosen).astype(jnp.float32)


def _picked(pose: jax.Array, chosen: jax.Array) -> tuple[Placed, Vector, jax.Array]:
    """Shapes, positions and indices of the `chosen` bodies (PAIRS, 5, m, E) of walkers at `pose` (3, 5, m, E)."""

    def pick(values: jax.Array | np.ndarray) -> jax.Array:
        """Picks from values of the bodies (K, 5, m, E): (K, PAIRS, m, E)."""
        return fold(jnp.add, (chosen[:, b] * values[:, b : b + 1] for b in range(NUM_BODIES)))

    x, y, angle = pick(pose)
    turned = functools.partial(rotate, jnp.cos(angle), jnp.sin(angle))
    *vectors, real, number = jnp.split(pick(single(_GEOMETRY)[..., None, None]), _PARTS)
    corner = turned((vectors[0], vectors[1]))
    shape = Placed((corner[0] + x, corner[1] + y), turned((vectors[2], vectors[3])), real > 0.5)
    return shape, (x, y), number[0]


def _between(left: jax.Array, right: jax.Array) -> tuple[ContactPoints, ContactPoints, jax.Array]:
    """Contacts (2, m, E) of left and of right walkers at poses (3, 5, m, E), and which bodies touch, (5, 5, m, E) bool."""
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
    kind = NUM_BODIES * (8 + 4 * manifold.reference_is_second + manifold.feature)
    sides = []
    for at, number, sign in ((one_at, one_number, -1.0), (other_at, other_number, 1.0)):
        r = minus(point, (take(at[0]), take(at[1])))
        vector = sign * normal[0], sign * normal[1]
        sides.append(_contacts(vector, r, separation, take(kind + number), np.sqrt(model.FRICTION)))
    first, second = sides
    friction = first.friction * second.friction
    feature_id = first.feature_id + 100 * second.feature_id  # identifies both bodies
    touching_bodies = (by_body * touches[:, None, None]).sum(0) > 0
    return (
        first._replace(friction=friction, feature_id=feature_id),
        second._replace(friction=friction, feature_id=feature_id),
        touching_bodies,
    )


def _no_neighbours(shape: tuple[int, ...]) -> tuple[ContactPoints, ContactPoints, jax.Array]:
    zeros = jnp.zeros((2, *shape))
    none = ContactPoints(
        (zeros, zeros), (zeros, zeros), zeros, jnp.zeros((NUM_BODIES, *zeros.shape)), zeros, zeros, zeros, zeros, zeros > 0
    )
    return none, none, jnp.zeros((NUM_BODIES, NUM_BODIES, *shape), bool)


def _reach(pose: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Left and right bound (n, E) of what each walker can touch."""
    half = np.hypot(*np.moveaxis(BODIES.corner, -1, 0)).max(0)[:, None, None] + COLLISION_MARGIN
    return (pose[0] - half).min(0), (pose[0] + half).max(0)


def _neighbours(pose: jax.Array, present: jax.Array) -> tuple[ContactPoints, ContactPoints, jax.Array]:
    """Result of `_between` for all pairs of neighbours, computed where they are close."""
    shape = pose.shape[2] - 1, pose.shape[3]
    if not shape[0]:
        return _no_neighbours(shape)
    low, high = _reach(pose)
    close = present[:-1] & present[1:] & (high[:-1] >= low[1:]) & (high[1:] >= low[:-1])

    def column(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(*leaf.shape[:-2], 1, -1)

    poses = column(pose[:, :, :-1]), column(pose[:, :, 1:])
    none = jax.tree.map(column, _no_neighbours(shape))
    found = apply_where(close.reshape(-1), lambda poses, _: _between(*poses), poses, none, AT_A_TIME)
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-2], *shape), found)


def ground_contact_points(contacts: Contacts, ground_points: int) -> ContactPoints:
    """The first contact points of walkers with the ground, (slots, n, E). Legs come before hulls."""
    friction = np.sqrt(model.FRICTION * model.TERRAIN_FRICTION)
    points = _in_order(_points(contacts.legs, model.LEGS), _points(contacts.hull, slice(0, 1)))
    return separately(functools.partial(_choose, ground_points=ground_points, friction=friction), points)


def detect_contacts(
    package: model.Package, pose: jax.Array, package_pose: jax.Array, present: jax.Array, heights: jax.Array
) -> Contacts:
    """Finds all contacts.

    Args:
        package: the package.
        pose: (3, 5, n, E), x, y and angle of every body.
        package_pose: (3, E).
        present: (n, E) bool, walkers that have not been removed.
        heights: (T, E), heights of the ground.
    """
    centre = pose[0], pose[1]
    shape = place(_SHAPES, pose, centre)

    def on_ground(bodies: slice, edges: int) -> GroundManifolds:
        own = jax.tree.map(lambda leaf: leaf[:, bodies], shape)
        return separately(functools.partial(_on_ground, edges=edges), own, pose[:, bodies], heights, present)

    legs, hull = on_ground(model.LEGS, LEG_EDGES), on_ground(slice(0, 1), HULL_EDGES)
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
    on_edges = jnp.where(legs.manifold.touching.any(0)[:, 1::2], foot_edges, NO_CONTACT)
    others = [
        jnp.where(on[model.LOWER_LEGS], number, NO_CONTACT) for number, on in ((-3, on_package), (-4, by_left), (-5, by_right))
    ]
    return Contacts(
        legs=legs,
        hull=hull,
        package=with_package,
        package_arm=package_arm,
        neighbours=(one, other),
        feet=jnp.concatenate([on_edges, jnp.stack(others)]).astype(jnp.int32),
        fallen=hull.manifold.touching.any((0, 1, 2)) | by_left[HULL] | by_right[HULL],
        dropped=on_package[1:].any((0, 1)) | package_on_ground(package, package_pose, heights, COLLISION_MARGIN),
    )
