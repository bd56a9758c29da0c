"""Observations of the walkers. Arrays have the batch as their last axis."""

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import fold
from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import BODIES, HULL, HULL_CENTRE, LEGS, single
from envs_jax.multiwalker.physics.articulation import CHILD, PARENT, joint_angles
from envs_jax.multiwalker.physics.geometry import cross, dot, place, rotate
from envs_jax.multiwalker.physics.world import World

NUM_RAYS, RANGE = 10, 160 / model.SCALE
NUM_POINTS = int(np.ceil(RANGE / terrain.STEP)) + 2  # ground points under a ray
SIZE, NUM_NOISY = 31, 7
_ANGLES = 1.5 * np.arange(NUM_RAYS) / NUM_RAYS
_RAYS = RANGE * np.stack([np.sin(_ANGLES), -np.cos(_ANGLES)])
_FAR = 1e3
_HALF_LEGS = BODIES.corner[:, LEGS].max(0).T  # half widths and half heights, (2, 4)


def hull_origin(pose: jax.Array) -> jax.Array:
    """Positions of the hulls' origins, (2, n, E). Poses are those of the centres of mass."""
    angle = pose[2, HULL]
    return pose[:2, HULL] - rotate(jnp.cos(angle), jnp.sin(angle), single(HULL_CENTRE)[:, None, None])


def _ray_to_ground(heights: jax.Array, origin: jax.Array) -> jax.Array:
    """Fraction of each ray at which it hits the ground, (10, n, E); 1 for no hit."""
    x, y, there, _ = terrain.window(heights, origin[0], NUM_POINTS)
    point = jnp.stack([x - origin[0], y - origin[1]])
    edge = point[:, 1:] - point[:, :-1]
    # The ray d meets the edge e from p where s d = p + t e: s = p x e / (d x e), and d x p changes its sign along the edge.
    at_edge = cross(point[:, :-1], edge)
    ray = single(_RAYS)[..., None, None]
    side = [cross(ray, point[:, k]) for k in range(NUM_POINTS)]
    numerator, denominator = jnp.ones_like(side[0]), jnp.ones_like(side[0])
    for k in reversed(range(NUM_POINTS - 1)):  # rays go to the right, and the leftmost edge is the nearest
        change = side[k + 1] - side[k]
        hit = ((side[k] <= 0) != (side[k + 1] <= 0)) & (at_edge[k] * change >= 0) & there[k] & there[k + 1]
        numerator, denominator = jnp.where(hit, at_edge[k], numerator), jnp.where(hit, change, denominator)
    return jnp.minimum(numerator / denominator, 1.0)


def _nearest(enters: jax.Array, leaves: jax.Array, seen: jax.Array) -> jax.Array:
    hit = (enters <= leaves) & (enters >= 0) & (enters <= 1) & seen
    return jnp.where(hit, enters, 1.0)


def _to_legs(ray: jax.Array, cos: jax.Array, sin: jax.Array, start: jax.Array, seen: jax.Array) -> jax.Array:
    """Fraction of a ray (2,) at which it hits a leg; 1 for no hit. It begins at `start`, in the frames of the legs (4, ...)."""
    enters, leaves = -_FAR, _FAR
    speeds = cos * ray[0] + sin * ray[1], cos * ray[1] - sin * ray[0]
    for at, speed, half in zip(start, speeds, _HALF_LEGS, strict=True):
        half = single(half).reshape(-1, *[1] * (at.ndim - 1))
        inverse = 1 / jnp.where(jnp.abs(speed) < 1e-6, 1e-6, speed)
        middle, reach = -at * inverse, jnp.abs(half * inverse)
        enters, leaves = jnp.maximum(enters, middle - reach), jnp.minimum(leaves, middle + reach)
    return fold(jnp.minimum, _nearest(jnp.asarray(enters), jnp.asarray(leaves), seen))


def _to_hulls(ray: jax.Array, sides: jax.Array, start: jax.Array, seen: jax.Array) -> jax.Array:
    """Fraction of a ray (2,) at which it hits a hull; 1 for no hit. `sides` (V, ...) are normals, `start` their distances."""
    speed = sides[0] * ray[0] + sides[1] * ray[1]
    at = start / jnp.where(jnp.abs(speed) < 1e-6, 1e-6, speed)
    enters, leaves = fold(jnp.maximum, jnp.where(speed < 0, at, -_FAR)), fold(jnp.minimum, jnp.where(speed > 0, at, _FAR))
    return _nearest(enters, leaves, seen)


def _ray_to_bodies(pose: jax.Array, origin: jax.Array, others: jax.Array) -> jax.Array:
    """Fraction of each ray at which it hits a leg or another walker's hull, (10, n, E); 1 for no hit.

    `others` (n, E) are the walkers that are present. Axes inside are (bodies, seen walker, observing walker, E).
    """
    legs = pose[:, LEGS, :, None]
    cos, sin = jnp.cos(legs[2]), jnp.sin(legs[2])
    start = rotate(cos, -sin, origin[:, None, None] - legs[:2])
    hull_shape = model.Polygons(*(array[:, HULL, None] for array in BODIES))
    hull = place(hull_shape, pose[:, HULL], pose[:2, HULL])
    sides = hull.normal[:, :, :, None]
    from_hull = origin[:, None] - pose[:2, HULL][:, :, None]
    ahead = dot(hull.normal, hull.corner)[:, :, None] - dot(sides, from_hull[:, None])
    there = others[:, None]
    not_own = there & ~jnp.eye(pose.shape[2], dtype=bool)[..., None]

    def cast(ray: jax.Array) -> jax.Array:
        to_legs = _to_legs(ray, cos, sin, start, there)
        return fold(jnp.minimum, jnp.minimum(to_legs, _to_hulls(ray, sides, ahead, not_own)))

    return jax.lax.map(cast, jnp.asarray(_RAYS.T, jnp.float32))


def lidar(pose: jax.Array, present: jax.Array, heights: jax.Array) -> jax.Array:
    """Fraction of each ray at which it hits the ground, own legs or another walker, (10, n, E); 1 for no hit."""
    origin = hull_origin(pose)
    return jnp.minimum(_ray_to_ground(heights, origin), _ray_to_bodies(pose, origin, present))


def neighbour_offsets(x: jax.Array, y: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Offsets to the left and right neighbour, x and y of each (4, n, E), and whether the neighbours are present."""
    offsets, there = [], []
    for step in (1, -1):
        exists = jnp.roll(present, step, 0).at[0 if step == 1 else -1].set(False)
        offsets += [jnp.roll(x, step, 0) - x, jnp.roll(y, step, 0) - y]
        there += [exists, exists]
    return jnp.stack(offsets), jnp.stack(there)


def observe(
    world: World, flags: jax.Array, present: jax.Array, heights: jax.Array, noise: jax.Array, length: float
) -> jax.Array:
    """Observations as in the original, (31, n, E); zeros for walkers that are not present.

    Args:
        world: poses and velocities.
        flags: (2, n, E) bool, contact flags of the lower legs.
        present: (n, E) bool, walkers that have not been removed.
        heights: (T, E), heights of the ground.
        noise: (7, n, E), added to the last seven entries, except those of missing neighbours.
        length: length of the package.
    """
    pose, velocity, package_pose = world.pose, world.velocity, world.package_pose
    spin, joint = velocity[2], joint_angles(pose[2])
    speed = spin[np.array(CHILD)] - spin[np.array(PARENT)]
    hull = [pose[2, HULL], 2 * spin[HULL] * model.TIME_STEP, 0.12 * velocity[0, HULL], 0.08 * velocity[1, HULL]]
    sides = [[joint[h], speed[h] / 4, joint[h + 1] + 1, speed[h + 1] / 6, flags[h // 2].astype(jnp.float32)] for h in (0, 2)]
    x, y = hull_origin(pose)
    offsets, there = neighbour_offsets(x, y, present)
    to_package = jnp.stack(
        [(package_pose[0] - x) / length, (package_pose[1] - y) / length, jnp.broadcast_to(package_pose[2], x.shape)]
    )
    near = jnp.where(there, offsets / length + noise[:4], 0.0)
    shown = [jnp.stack([*hull, *sides[0], *sides[1]]), lidar(pose, present, heights), near, to_package + noise[4:]]
    return jnp.where(present, jnp.concatenate(shown), 0.0)
