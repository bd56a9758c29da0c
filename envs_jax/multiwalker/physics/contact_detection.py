"""Contact detection: walkers with the ground, the package and their neighbours.

There are n walkers with five bodies each. Contact points have a fixed number of slots, the used ones first. Vectors and axes
are as in `geometry`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import BODIES, COLLISION_MARGIN, HULL, LEGS, NUM_BODIES, single
from envs_jax.multiwalker.physics.clearance import package_on_ground
from envs_jax.multiwalker.physics.geometry import Placed, place, rotate, running_count
from envs_jax.multiwalker.physics.manifold import Manifold, ground_manifold, polygon_manifold
from envs_jax.multiwalker.physics.masked_loops import apply_where

EDGES, LEG_EDGES = 6, 4  # largest number of ground edges under a hull, and under a leg
PAIRS = 3  # pairs of bodies per pair of neighbours whose manifolds are computed
AT_A_TIME = 1 / 8  # of all pairs of neighbours
NO_CONTACT, NUM_TOUCHABLE = -9, LEG_EDGES + 3
_GEOMETRY = np.concatenate(
    [*np.moveaxis(BODIES.corner, -1, 0), *np.moveaxis(BODIES.normal, -1, 0), BODIES.real, [np.arange(NUM_BODIES)]]
)  # (5 V + 1, 5): of each body its corners, its normals, which sides are real, and its index
_SHAPES = model.Polygons(*(array[:, :, None] for array in BODIES))  # (V, 5, 1, 2), for poses (3, 5, n, E)


class ContactPoints(NamedTuple):
    """Contact points on bodies of walkers. Unused slots are zeros.

    The second body is that of the walker, and in contacts of neighbours that of the right walker.
    """

    normal: jax.Array  # (2, K, n, E), direction of the normal impulse on the body
    r: jax.Array  # (2, K, n, E), from the body's centre of mass to the point
    separation: jax.Array  # (K, n, E), negative where the skins overlap
    one_hot: jax.Array  # (5, K, n, E) float, one-hot index of the body
    inv_mass: jax.Array  # (K, n, E), 1 / mass of the body
    inv_inertia: jax.Array  # (K, n, E), 1 / inertia of the body
    friction: jax.Array  # (K, n, E), coefficient of friction
    feature_id: jax.Array  # (K, n, E) float, by which the next step finds the accumulated impulse; 0 for unused slots
    reference_is_second: jax.Array  # (K, n, E) bool, whether the reference side belongs to the second body

    @property
    def used(self) -> jax.Array:
        """Slots that hold a contact point, (K, n, E) bool."""
        return self.feature_id > 0


class Contacts(NamedTuple):
    """All contacts at one time.

    Features of ground manifolds are unique among a body's points, and 0 for points that do not exist.
    """

    ground: Manifold  # of bodies with the ground edges under them, from left to right (6, 5, n, E)
    package: ContactPoints  # contacts of walkers with the package, two points
    package_r: jax.Array  # (2, 2 points, n, E), from the package's centre of mass to those points
    neighbours: tuple[
        ContactPoints, ContactPoints
    ]  # of the left and the right walkers of n - 1 pairs of neighbours, two points
    feet: (
        jax.Array
    )  # (k, 2, n, E) int32, what lower legs touch: numbers of ground edges, negative ones of bodies, -9 for nothing
    fallen: jax.Array  # (n, E) bool, whether the hull touches the ground or another walker
    dropped: jax.Array  # (E,) bool, whether the package touches the ground or a leg


def _make_points(
    normal: jax.Array, r: jax.Array, separation: jax.Array, feature_id: jax.Array, friction: np.ndarray
) -> ContactPoints:
    """Makes contact points. `feature_id` mod 5 is the body. `feature_id` // 5 mod 8 is 4 `reference_is_second` + `feature`."""
    number = jnp.arange(NUM_BODIES, dtype=jnp.float32).reshape(-1, *[1] * feature_id.ndim)
    one_hot = (((feature_id % NUM_BODIES)[None] == number) & (feature_id > 0)).astype(jnp.float32)

    def of_body(values: np.ndarray) -> jax.Array:
        return fold(jnp.add, one_hot * single(values).reshape(number.shape))

    mass, reference_is_second = (of_body(1 / model.MASS), of_body(1 / model.INERTIA)), feature_id // (4 * NUM_BODIES) % 2 > 0
    return ContactPoints(normal, r, separation, one_hot, *mass, of_body(friction), feature_id, reference_is_second)


def _on_ground(shape: Placed, pose: jax.Array, heights: jax.Array, present: jax.Array) -> tuple[Manifold, jax.Array]:
    """Manifolds of bodies at `pose` (3, 5, n, E) with the ground, as in `Contacts`, and the number of the first edge (5, n, E).

    They and `shape` are relative to the centres of mass.
    """
    left = pose[0] + fold(jnp.minimum, shape.corner[0]) - COLLISION_MARGIN
    x, y, there, first = terrain.window(heights, left, EDGES + 1)
    point = jnp.stack([x - pose[0], y - pose[1]])
    manifold = ground_manifold(shape, point[:, :-1], point[:, 1:], there[:-1] & there[1:])
    touching = manifold.touching & present
    number = first.astype(jnp.float32) + jnp.arange(2.0, EDGES + 2).reshape(-1, 1, 1, 1)
    feature = jnp.where(touching, 8 * number + 4 * manifold.reference_is_second + manifold.feature, 0.0)
    return manifold._replace(touching=touching, feature=feature), first


def _candidates(ground: Manifold, bodies: slice, edges: int) -> jax.Array:
    """Points of bodies with their first edges: normal, r, separation and feature id, (6, 2 * edges * B, n, E)."""
    manifold = jax.tree.map(lambda leaf: leaf[..., :edges, bodies, :, :], ground)
    which = jnp.arange(NUM_BODIES, dtype=jnp.float32)[bodies].reshape(-1, 1, 1)
    feature_id = jnp.where(manifold.touching, NUM_BODIES * manifold.feature + which, 0.0)
    values = *manifold.normal, *manifold.point, manifold.separation, feature_id
    return jnp.stack([jnp.broadcast_to(each, feature_id.shape).reshape(-1, *feature_id.shape[3:]) for each in values])


def ground_contact_points(contacts: Contacts, count: int) -> ContactPoints:
    """The first `count` contact points of walkers with the ground. Legs come before hulls."""
    friction = np.sqrt(model.FRICTION * model.TERRAIN_FRICTION)

    def choose(candidates: jax.Array) -> ContactPoints:
        rank = running_count(candidates[5] > 0)
        index = (rank[None] <= jnp.arange(count).reshape(-1, 1, 1, 1)).astype(jnp.int32).sum(1)
        index, used = jnp.minimum(index, len(rank) - 1)[None], index < len(rank)
        chosen = jnp.where(used, jnp.take_along_axis(candidates, index, 1, mode="promise_in_bounds"), 0.0)
        return _make_points(chosen[:2], chosen[2:4], chosen[4], chosen[5], friction)

    parts = _candidates(contacts.ground, LEGS, LEG_EDGES), _candidates(contacts.ground, slice(0, 1), EDGES)
    return separately(choose, jnp.concatenate(parts, 1))


def _deepest(manifold: Manifold, at: jax.Array, body: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which of K manifolds (K, ...) touch, (K, ...) bool, and values of the points of the deepest one.

    Args:
        manifold: the manifolds.
        at: (C, K, ...), further values of each manifold.
        body: (B, K, ...), indices of bodies. They are added to the feature ids.

    Returns:
        Which manifolds touch; normal, point, separation, feature id for each index, and further values: (5 + B + C, 2, ...).
    """
    touches = manifold.touching.any(0)
    depth = jnp.where(touches, jnp.minimum(*manifold.separation), 1.0)
    taken = (touches & (depth == fold(jnp.minimum, depth)))[None] & manifold.touching
    feature_id = NUM_BODIES * (8 + 4 * manifold.reference_is_second + manifold.feature)
    values = *manifold.normal, *manifold.point, manifold.separation, *(feature_id + each for each in body), *at
    values = jnp.stack([jnp.broadcast_to(each, taken.shape) for each in values])
    return touches, jnp.where(taken, values, 0.0).sum(2)


def _with_package(
    package: model.Package, package_pose: jax.Array, shape: Placed, from_package: jax.Array
) -> tuple[ContactPoints, jax.Array, jax.Array]:
    """Contact points of the deepest body with the package, their `package_r`, and which bodies touch it, (5, n, E) bool.

    Shapes are relative to the centres of mass of the bodies, which are at `from_package` (2, 5, n, E).
    """
    box = model.Polygons(*(array[:, None, None] for array in package.shape))
    moved = shape._replace(corner=shape.corner + from_package[:, None])
    manifold = polygon_manifold(place(box, package_pose[:, None, None], package_pose[:2, None, None]), moved)
    number = jnp.arange(NUM_BODIES, dtype=jnp.float32).reshape(1, -1, 1, 1)
    touches, values = _deepest(manifold, from_package, number)
    normal, point, separation, feature_id, body_at = values[:2], values[2:4], values[4], values[5], values[6:]
    friction = np.sqrt(model.FRICTION * model.PACKAGE_FRICTION)
    return _make_points(normal, point - body_at, separation, feature_id, friction), point, touches


def _nearest_pairs(left: jax.Array, right: jax.Array) -> jax.Array:
    """One-hot indices of the pairs of bodies with the nearest bounding boxes, (PAIRS, 25, m, E) float."""
    one, other = (place(_SHAPES, pose, jnp.zeros((2, 1, 1, 1))).corner for pose in (left, right))
    gap = jnp.maximum(one.min(1)[:, :, None] - other.max(1)[:, None], other.min(1)[:, None] - one.max(1)[:, :, None])
    gap = jnp.maximum(*gap)
    gap = gap.reshape(NUM_BODIES**2, *gap.shape[2:])
    # Distinct values make each minimum unique.
    gap = gap + 1e-5 * jnp.arange(len(gap), dtype=jnp.float32).reshape(-1, 1, 1)
    chosen = []
    for _ in range(PAIRS):
        nearest = gap == gap.min(0)
        chosen.append(nearest)
        gap = jnp.where(nearest, 1e6, gap)
    return jnp.stack(chosen).astype(jnp.float32)


def _picked(pose: jax.Array, chosen: jax.Array) -> tuple[Placed, jax.Array, jax.Array]:
    """Shapes, positions (2, ...) and indices of the `chosen` bodies (PAIRS, 5, m, E) of walkers at `pose` (3, 5, m, E)."""

    def pick(values: jax.Array | np.ndarray) -> jax.Array:
        """Picks from values of the bodies (K, 5, m, E): (K, PAIRS, m, E)."""
        return fold(jnp.add, (chosen[:, b] * values[:, b : b + 1] for b in range(NUM_BODIES)))

    picked, geometry = pick(pose), pick(single(_GEOMETRY)[..., None, None])
    turned = functools.partial(rotate, jnp.cos(picked[2]), jnp.sin(picked[2]))
    vectors = geometry[:-1].reshape(5, len(BODIES.real), *geometry.shape[1:])
    shape = Placed(turned(vectors[:2]) + picked[:2, None], turned(vectors[2:4]), vectors[4] > 0.5)
    return shape, picked[:2], geometry[-1]


def _between(left: jax.Array, right: jax.Array) -> tuple[ContactPoints, ContactPoints, jax.Array]:
    """Contact points of left and of right walkers at poses (3, 5, m, E), and which bodies touch, (5, 5, m, E) bool."""
    origin = jnp.stack([left[0, HULL], left[1, HULL], jnp.zeros_like(left[0, HULL])])[:, None]
    left, right = left - origin, right - origin
    pairs = _nearest_pairs(left, right)
    by_body = pairs.reshape(PAIRS, NUM_BODIES, NUM_BODIES, *pairs.shape[2:])
    one, one_at, one_number = _picked(left, by_body.sum(2))
    other, other_at, other_number = _picked(right, by_body.sum(1))
    at, numbers = jnp.concatenate([one_at, other_at]), jnp.stack([one_number, other_number])
    touches, values = _deepest(polygon_manifold(one, other), at, numbers)
    normal, point, separation = values[:2], values[2:4], values[4]
    sides = (-normal, values[7:9], values[5]), (normal, values[9:], values[6])
    first, second = (
        _make_points(direction, point - at, separation, ids, np.sqrt(model.FRICTION)) for direction, at, ids in sides
    )
    shared = {"friction": first.friction * second.friction, "feature_id": first.feature_id + 100 * second.feature_id}
    touching_bodies = (by_body * touches[:, None, None]).sum(0) > 0
    return first._replace(**shared), second._replace(**shared), touching_bodies


def _neighbours(pose: jax.Array, present: jax.Array) -> tuple[ContactPoints, ContactPoints, jax.Array]:
    """Result of `_between` for all pairs of neighbours, computed where they are close."""
    shape = pose.shape[2] - 1, pose.shape[3]

    def column(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(*leaf.shape[:-2], 1, -1)

    poses, between = (column(pose[:, :, :-1]), column(pose[:, :, 1:])), jax.jit(_between)
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(between, *poses))
    if shape[0]:
        half = np.hypot(*np.moveaxis(BODIES.corner, -1, 0)).max(0)[:, None, None] + COLLISION_MARGIN
        low, high = (pose[0] - half).min(0), (pose[0] + half).max(0)
        close = present[:-1] & present[1:] & (high[:-1] >= low[1:]) & (high[1:] >= low[:-1])
        none = apply_where(close.reshape(-1), lambda poses, _: between(*poses), poses, none, AT_A_TIME)
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:-2], *shape), none)


def onto_left(values: jax.Array) -> jax.Array:
    """Values of pairs of neighbours (..., n - 1, E) at the left walker of each, (..., n, E); zeros for the last walker."""
    return jnp.pad(values, [(0, 0)] * (values.ndim - 2) + [(0, 1), (0, 0)])


def onto_right(values: jax.Array) -> jax.Array:
    """Values of pairs of neighbours (..., n - 1, E) at the right walker of each, (..., n, E); zeros for the first walker."""
    return jnp.pad(values, [(0, 0)] * (values.ndim - 2) + [(1, 0), (0, 0)])


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
    shape = place(_SHAPES, pose, pose[:2])

    ground, first = separately(_on_ground, shape, pose, heights, present)
    from_package = pose[:2] + jnp.where(present, 0.0, 1e3) - package_pose[:2, None, None]
    with_package, package_r, on_package = separately(
        functools.partial(_with_package, package), package_pose, shape, from_package
    )

    one, other, pair_touches = _neighbours(pose, present)
    by_right, by_left = onto_left(pair_touches.any(1)), onto_right(pair_touches.any(0))

    foot_edges = jnp.arange(LEG_EDGES).reshape(-1, 1, 1, 1) + first[model.LOWER_LEGS]
    on_edges = jnp.where(ground.touching.any(0)[:LEG_EDGES, model.LOWER_LEGS], foot_edges, NO_CONTACT)
    touched = (-3, on_package), (-4, by_left), (-5, by_right)
    others = [jnp.where(on[model.LOWER_LEGS], number, NO_CONTACT) for number, on in touched]
    return Contacts(
        ground=ground,
        package=with_package,
        package_r=package_r,
        neighbours=(one, other),
        feet=jnp.concatenate([on_edges, jnp.stack(others)]).astype(jnp.int32),
        fallen=ground.touching[:, :, HULL].any((0, 1)) | by_left[HULL] | by_right[HULL],
        dropped=on_package[1:].any((0, 1)) | package_on_ground(package, package_pose, heights, COLLISION_MARGIN),
    )
