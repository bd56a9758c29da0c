"""Legs that would shoot into the ground within a step stop where they meet it, as by Box2D's continuous collision.

A leg is taken back to when it is first 5 mm above the ground, loses there, alone, the speed with which it comes down, and goes
on with the rest for the rest of the step; the next step pulls its joints together. Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import body, terrain
from envs_jax.multiwalker.body import LEG_HEIGHT, LEGS, LOWER_WIDTH, TIME_STEP, UPPER_WIDTH, single
from envs_jax.multiwalker.collision import Placed, Vector, cross, ground_manifold, rotate
from envs_jax.multiwalker.selecting import only_where

TARGET, TOLERANCE = 0.005, 0.00125
SLOP, SHARE = 0.005, 0.75
LOOKS, ROOT_STEPS, PUSHES, SWEEPS = 4, 6, 3, 8
SLOTS = 3  # points in which a landing leg is stopped
POINTS = 7  # of the ground under all places of a leg in a step
AT_A_TIME = 0.25  # of all legs
_SIDES = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])  # normals of a box, from its lowest left corner on
_REACH = float(np.hypot(UPPER_WIDTH, LEG_HEIGHT) / 2)
_FRICTION = float(np.sqrt(body.FRICTION[LEGS.start] * body.TERRAIN_FRICTION))


class _Legs(NamedTuple):
    """Legs and what they move over, with as many columns as legs (M).

    Attributes:
        before: (3, M), at the beginning of the step.
        after: where they would end.
        left: (M,), where the first point of the ground is.
        height: (k, M), of that and the next points.
        lower: (M,) bool, which leg it is.
    """

    before: jax.Array
    after: jax.Array
    left: jax.Array
    height: jax.Array
    lower: jax.Array


def _half_width(legs: _Legs) -> jax.Array:
    return jnp.where(legs.lower, LOWER_WIDTH / 2, UPPER_WIDTH / 2)


def _place(legs: _Legs, pose: jax.Array) -> Placed:
    """Legs at `pose` (3, M), about their middles."""
    cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
    across, along = single([-1, 1, 1, -1])[:, None] * _half_width(legs), single([-1, -1, 1, 1])[:, None] * LEG_HEIGHT / 2
    side = single(_SIDES)[..., None]
    corner = rotate(cos, sin, (across, along))
    return Placed(corner, rotate(cos, sin, (side[:, 0], side[:, 1])), jnp.ones(corner[0].shape, bool))


def _ground_points(legs: _Legs, pose: jax.Array) -> Vector:
    """The ground's (k, M), about the legs' middles."""
    number = jnp.arange(POINTS, dtype=jnp.float32)[:, None]
    return legs.left + terrain.STEP * number - pose[0], legs.height - pose[1]


def _gap(legs: _Legs, share: jax.Array) -> jax.Array:
    """How far legs are from the ground, (M,), a `share` of the way: corners from its lines, its points from their sides."""
    pose = legs.before + share * (legs.after - legs.before)
    corner = _place(legs, pose).corner
    at = (pose[0] + corner[0] - legs.left) * single(1 / terrain.STEP)
    shares = (jnp.maximum(1.0 - jnp.abs(at - k), 0.0) * height for k, height in enumerate(legs.height))
    of_corners = (pose[1] + corner[1] - sum(shares, jnp.zeros(()))).min(0)
    x, y = _ground_points(legs, pose)
    cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
    aside, along = jnp.abs(cos * x + sin * y) - _half_width(legs), jnp.abs(cos * y - sin * x) - LEG_HEIGHT / 2
    return jnp.minimum(of_corners, jnp.maximum(aside, along).min(0))


def _first_touch(legs: _Legs) -> tuple[jax.Array, jax.Array]:
    """When in the step legs come down to `TARGET`, and whether they do, (M,).

    Box2D's search and its tolerance, begun where one of a few looks at the way first finds the leg too low.
    """
    zero = jnp.zeros(legs.left.shape)
    first = _gap(legs, zero)
    low, high, gap_low, gap_high, meets = zero, zero + 1, first, first, first < TARGET + TOLERANCE
    for look in range(1, LOOKS + 1):
        share = look / LOOKS
        now = _gap(legs, zero + share)
        high, gap_high = jnp.where(meets, high, share), jnp.where(meets, gap_high, now)
        meets |= now < TARGET - TOLERANCE
        low, gap_low = jnp.where(meets, low, share), jnp.where(meets, gap_low, now)

    def search(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low, high, gap_low, gap_high, found, done = carry
        secant = low + (TARGET - gap_low) * (high - low) / jnp.where(gap_high == gap_low, 1.0, gap_high - gap_low)
        share = jnp.where(number % 2 == 0, 0.5 * (low + high), secant)
        now = _gap(legs, share)
        found = jnp.where(done, found, share)
        done |= jnp.abs(now - TARGET) < TOLERANCE
        above = now > TARGET
        low, gap_low = jnp.where(above, share, low), jnp.where(above, now, gap_low)
        high, gap_high = jnp.where(above, high, share), jnp.where(above, gap_high, now)
        return low, high, gap_low, gap_high, found, done

    carry = (low, high, gap_low, gap_high, zero, first < TARGET + TOLERANCE)
    return jax.lax.fori_loop(0, ROOT_STEPS, search, carry)[4], meets & (first > 0)


class _Points(NamedTuple):
    """Where legs touch the ground and what an impulse there does to them, arrays (SLOTS, M)."""

    normal: Vector
    arm: Vector
    separation: jax.Array
    used: jax.Array
    light: jax.Array
    light_turn: jax.Array


def _points(legs: _Legs, pose: jax.Array) -> _Points:
    """The first few points in which legs at `pose` (3, M) touch the ground."""
    x, y = _ground_points(legs, pose)
    there = jnp.ones(x[1:].shape, bool)
    manifold = ground_manifold(_place(legs, pose), (x[:-1], y[:-1]), (x[1:], y[1:]), there)

    def flat(value: jax.Array) -> jax.Array:
        return jnp.broadcast_to(value, manifold.separation.shape).reshape(-1, value.shape[-1])

    touching = flat(manifold.touching)
    rank = jnp.where(touching, jnp.cumsum(touching.astype(jnp.int32), 0), 0)
    chosen = rank[None] == jnp.arange(1, SLOTS + 1).reshape(-1, 1, 1)

    def take(value: jax.Array) -> jax.Array:
        return jnp.where(chosen, flat(value)[None], 0.0).sum(1)

    light, light_turn = (jnp.where(legs.lower, 1 / of[2], 1 / of[1]) for of in (body.MASS, body.INERTIA))
    normal, arm = ((take(vector[0]), take(vector[1])) for vector in (manifold.normal, manifold.point))
    return _Points(normal, arm, take(manifold.separation), chosen.any(1), light, light_turn)


class _Rows(NamedTuple):
    """Points along one direction: their torque and the impulse that a unit of speed asks for, (SLOTS, M)."""

    direction: Vector
    torque: jax.Array
    mass: jax.Array


def _rows(points: _Points, direction: Vector) -> _Rows:
    torque = cross(points.arm, direction)
    return _Rows(direction, torque, jnp.where(points.used, 1 / (points.light + points.light_turn * torque**2), 0.0))


def _speed(rows: _Rows, k: int, velocity: jax.Array) -> jax.Array:
    """Of point k, (M,)."""
    return rows.direction[0][k] * velocity[0] + rows.direction[1][k] * velocity[1] + rows.torque[k] * velocity[2]


def _change(points: _Points, rows: _Rows, k: int, impulse: jax.Array) -> jax.Array:
    """What an impulse (M,) at point k does to the legs, (3, M)."""
    x, y = rows.direction[0][k] * impulse, rows.direction[1][k] * impulse
    return jnp.stack([points.light * x, points.light * y, points.light_turn * rows.torque[k] * impulse])


def _push_out(points: _Points, onto: _Rows) -> jax.Array:
    """How legs are moved, (3, M), so that hardly anything overlaps."""

    def again(_: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moved, wrong = carry
        deepest = jnp.zeros(wrong.shape)
        for k in range(SLOTS):
            separation = points.separation[k] + _speed(onto, k, moved)
            deepest = jnp.where(points.used[k], jnp.minimum(deepest, separation), deepest)
            push = jnp.where(wrong, -jnp.clip(SHARE * (separation + SLOP), -0.2, 0.0), 0.0) * onto.mass[k]
            moved = moved + _change(points, onto, k, push)
        return moved, wrong & (deepest < -1.5 * SLOP)

    moved = jnp.zeros((3, *points.light.shape))
    return jax.lax.fori_loop(0, PUSHES, again, (moved, jnp.ones(moved.shape[1:], bool)))[0]


def _stop(points: _Points, onto: _Rows, velocity: jax.Array) -> jax.Array:
    """Velocities (3, M) that do not go into the ground."""
    along = _rows(points, (onto.direction[1], -onto.direction[0]))

    def again(_: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        velocity, rub, press = carry
        rubs, presses = list(rub), list(press)
        for k in range(SLOTS):
            limit = _FRICTION * presses[k]
            new = jnp.clip(rubs[k] - _speed(along, k, velocity) * along.mass[k], -limit, limit)
            velocity, rubs[k] = velocity + _change(points, along, k, new - rubs[k]), new
            new = jnp.maximum(presses[k] - _speed(onto, k, velocity) * onto.mass[k], 0.0)
            velocity, presses[k] = velocity + _change(points, onto, k, new - presses[k]), new
        return velocity, jnp.stack(rubs), jnp.stack(presses)

    nothing = jnp.zeros(points.separation.shape)
    return jax.lax.fori_loop(0, SWEEPS, again, (velocity, nothing, nothing))[0]


def _land_some(legs: _Legs, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Places and velocities (3, M) of legs that may come down."""
    after, velocity = ends
    share, meets = _first_touch(legs)
    pose = legs.before + share * (legs.after - legs.before)
    points = _points(legs, pose)
    onto = _rows(points, points.normal)
    stopped = _stop(points, onto, velocity)
    pose = pose + _push_out(points, onto) + (1 - share) * TIME_STEP * stopped
    return jnp.where(meets, pose, after), jnp.where(meets, stopped, velocity)


def _may_land(legs: _Legs) -> jax.Array:
    """Whether any place on the way is low enough, (M,). Between its ends a corner sinks no further below them than `sunk`."""
    low = [(pose[1] + _place(legs, pose).corner[1]).min(0) for pose in (legs.before, legs.after)]
    sunk = _REACH / 8 * (legs.after[2] - legs.before[2]) ** 2
    return jnp.minimum(*low) - sunk < legs.height.max(0) + TARGET + TOLERANCE


def land(
    heights: jax.Array, present: jax.Array, before: jax.Array, after: jax.Array, velocity: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Places and velocities at the end of the step.

    Args:
        heights: (T, E), of the ground.
        present: (n, E) bool, walkers whose legs move.
        before: (3, 4, n, E), of the legs at the beginning.
        after: where they would end.
        velocity: (3, 4, n, E), with which.
    """
    x, height, _, _ = terrain.window(heights, jnp.minimum(before[0], after[0]) - _REACH, POINTS)
    lower = jnp.broadcast_to(jnp.array([False, True] * 2)[:, None, None], before.shape[1:])

    def flat(value: jax.Array, axes: int) -> jax.Array:
        return value.reshape(*value.shape[:axes], -1)

    legs = _Legs(flat(before, 1), flat(after, 1), flat(x[0], 0), flat(height, 1), flat(lower, 0))
    needed = _may_land(legs) & flat(jnp.broadcast_to(present, lower.shape), 0)
    size = max(1, int(AT_A_TIME * len(needed)))
    ends = only_where(needed, _land_some, legs, (legs.after, flat(velocity, 1)), size)
    return ends[0].reshape(after.shape), ends[1].reshape(after.shape)
