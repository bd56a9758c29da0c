"""Legs that would shoot into the ground within a step stop where they meet it, as by Box2D's continuous collision.

A leg is taken back to when it is first 5 mm above the ground, loses there, alone, the speed with which it comes down, and goes
on with the rest for the rest of the step; the next step pulls its joints together. Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import body, terrain
from envs_jax.multiwalker.body import BODIES, LEGS, TIME_STEP, single
from envs_jax.multiwalker.collision import Vector, cross
from envs_jax.multiwalker.touching import LEG_EDGES, on_ground

TARGET, TOLERANCE = 0.005, 0.00125
SLOP, SHARE = 0.005, 0.75
LOOKS, ROOT_STEPS, PUSHES, SWEEPS = 4, 6, 3, 8
SLOTS = 3  # points in which a landing leg is stopped
POINTS = 7  # of the ground under all places of a leg in a step
_CORNERS = BODIES.corner[:4, LEGS]  # (4, 4 legs, 2)
_HALF = single(_CORNERS.max(0))[..., None, None]  # (4 legs, 2, 1, 1), of widths and heights
_LIGHT, _LIGHT_TURN = (single(1 / of[LEGS])[:, None, None] for of in (body.MASS, body.INERTIA))
_FRICTION = single(np.sqrt(body.FRICTION[LEGS] * body.TERRAIN_FRICTION))[:, None, None]


class _Ground(NamedTuple):
    """The ground under each leg: where its first point is (4, n, E), and the heights of that and the next (k, 4, n, E)."""

    left: jax.Array
    height: jax.Array


def _height(ground: _Ground, x: jax.Array) -> jax.Array:
    """Of the ground at x (corners, 4, n, E)."""
    at = (x - ground.left) * single(1 / terrain.STEP)
    shares = (jnp.maximum(1.0 - jnp.abs(at - k), 0.0) * height for k, height in enumerate(ground.height))
    return sum(shares, jnp.zeros(()))


def _gap(pose: jax.Array, ground: _Ground) -> jax.Array:
    """How far each leg is from the ground, (4, n, E): its corners from the lines, or its sides from the points between them."""
    cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
    x, y = (single(_CORNERS[..., i])[..., None, None] for i in (0, 1))
    right, up = pose[0] + cos * x - sin * y, pose[1] + sin * x + cos * y
    of_corners = (up - _height(ground, right)).min(0)
    number = jnp.arange(POINTS, dtype=jnp.float32).reshape(-1, 1, 1, 1)
    x, y = ground.left + terrain.STEP * number - pose[0], ground.height - pose[1]
    aside, along = jnp.abs(cos * x + sin * y) - _HALF[:, 0], jnp.abs(cos * y - sin * x) - _HALF[:, 1]
    return jnp.minimum(of_corners, jnp.maximum(aside, along).min(0))


def _first_touch(before: jax.Array, after: jax.Array, ground: _Ground) -> tuple[jax.Array, jax.Array]:
    """When in the step a leg comes down to `TARGET`, and whether it does, (4, n, E).

    Box2D's search and its tolerance, begun where one of a few looks at the way first finds the leg too low.
    """

    def gap(share: jax.Array) -> jax.Array:
        return _gap(before + share * (after - before), ground)

    zero = jnp.zeros(before.shape[1:])
    first = gap(zero)
    low, high, gap_low, gap_high, meets = zero, zero + 1, first, first, first < TARGET + TOLERANCE
    for look in range(1, LOOKS + 1):
        now, share = gap(zero + look / LOOKS), look / LOOKS
        falls = ~meets & (now < TARGET - TOLERANCE)
        high, gap_high = jnp.where(meets, high, share), jnp.where(meets, gap_high, now)
        meets |= falls
        low, gap_low = jnp.where(meets, low, share), jnp.where(meets, gap_low, now)

    def search(number: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        low, high, gap_low, gap_high, found, done = carry
        secant = low + (TARGET - gap_low) * (high - low) / jnp.where(gap_high == gap_low, 1.0, gap_high - gap_low)
        share = jnp.where(number % 2 == 0, 0.5 * (low + high), secant)
        now = gap(share)
        found = jnp.where(done, found, share)
        done |= jnp.abs(now - TARGET) < TOLERANCE
        above = now > TARGET
        low, gap_low = jnp.where(above, share, low), jnp.where(above, now, gap_low)
        high, gap_high = jnp.where(above, high, share), jnp.where(above, gap_high, now)
        return low, high, gap_low, gap_high, found, done

    carry = (low, high, gap_low, gap_high, zero, first < TARGET + TOLERANCE)
    return jax.lax.fori_loop(0, ROOT_STEPS, search, carry)[4], meets & (first > 0)


class _Points(NamedTuple):
    """Where legs touch the ground, arrays (SLOTS, 4, n, E)."""

    normal: Vector
    arm: Vector
    separation: jax.Array
    used: jax.Array


def _points(pose: jax.Array, heights: jax.Array) -> _Points:
    """The first few points in which legs at `pose` (3, 4, n, E) touch the ground."""
    manifold, _ = on_ground(pose, heights, LEGS, LEG_EDGES)

    def flat(value: jax.Array) -> jax.Array:
        return jnp.broadcast_to(value, manifold.separation.shape).reshape(-1, *pose.shape[1:])

    touching = flat(manifold.touching)
    rank = jnp.where(touching, jnp.cumsum(touching.astype(jnp.int32), 0), 0)
    chosen = rank[None] == jnp.arange(1, SLOTS + 1).reshape(-1, 1, 1, 1, 1)

    def take(value: jax.Array) -> jax.Array:
        return jnp.where(chosen, flat(value)[None], 0.0).sum(1)

    normal, point = manifold.normal, manifold.point
    vectors = (take(normal[0]), take(normal[1])), (take(point[0]), take(point[1]))
    return _Points(*vectors, take(manifold.separation), chosen.any(1))


def land(heights: jax.Array, before: jax.Array, after: jax.Array, velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Places and velocities at the end of the step.

    Args:
        heights: (T, E), of the ground.
        before: (3, 4, n, E), of the legs at the beginning.
        after: where they would end.
        velocity: (3, 4, n, E), with which.
    """
    reach = single(np.hypot(*np.moveaxis(_CORNERS, -1, 0)).max())
    x, height, _, _ = terrain.window(heights, jnp.minimum(before[0], after[0]) - reach, POINTS)
    share, meets = _first_touch(before, after, _Ground(x[0], height))
    pose = before + share * (after - before)
    points = _points(pose, heights)
    normal, separation, used = points.normal, points.separation, points.used

    def gain(direction: Vector) -> jax.Array:
        return jnp.asarray(_LIGHT + _LIGHT_TURN * cross(points.arm, direction) ** 2)

    torque, normal_gain = cross(points.arm, normal), jnp.where(used, gain(normal), 1.0)

    def push_out(_: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moved, wrong = carry
        deepest = jnp.where(used, separation + _speed(moved, normal, torque), 0.0).min(0)
        for k in range(SLOTS):
            overlap = separation[k] + _speed(moved, normal, torque)[k] + SLOP
            push = jnp.where(used[k] & wrong, -jnp.clip(SHARE * overlap, -0.2, 0.0), 0.0) / normal_gain[k]
            moved = moved + _change(push, normal, torque, k)
        return moved, wrong & (deepest < -1.5 * SLOP)

    moved, _ = jax.lax.fori_loop(0, PUSHES, push_out, (jnp.zeros_like(pose), meets))
    rub = normal[1], -normal[0]
    rub_torque = cross(points.arm, rub)
    rub_gain = jnp.where(used, gain(rub), 1.0)

    def stop(_: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        velocity, impulse = carry
        along, onto = list(impulse[0]), list(impulse[1])
        for k in range(SLOTS):
            limit = _FRICTION * onto[k]
            new = jnp.clip(along[k] - _speed(velocity, rub, rub_torque)[k] / rub_gain[k], -limit, limit)
            velocity = velocity + _change(new - along[k], rub, rub_torque, k)
            along[k] = new
            new = jnp.maximum(onto[k] - _speed(velocity, normal, torque)[k] / normal_gain[k], 0.0)
            new = jnp.where(used[k], new, 0.0)
            velocity = velocity + _change(new - onto[k], normal, torque, k)
            onto[k] = new
        return velocity, jnp.stack([jnp.stack(along), jnp.stack(onto)])

    stopped, _ = jax.lax.fori_loop(0, SWEEPS, stop, (velocity, jnp.zeros((2, SLOTS, *share.shape))))
    pose = pose + moved + (1 - share) * TIME_STEP * stopped
    return jnp.where(meets, pose, after), jnp.where(meets, stopped, velocity)


def _change(impulse: jax.Array, direction: Vector, torque: jax.Array, k: int) -> jax.Array:
    """What an impulse at point k does to a leg, (3, 4, n, E)."""
    return jnp.stack(
        [_LIGHT * direction[0][k] * impulse, _LIGHT * direction[1][k] * impulse, _LIGHT_TURN * torque[k] * impulse]
    )


def _speed(velocity: jax.Array, direction: Vector, torque: jax.Array) -> jax.Array:
    """Of all points along a direction, (SLOTS, 4, n, E)."""
    return direction[0] * velocity[0] + direction[1] * velocity[1] + torque * velocity[2]
