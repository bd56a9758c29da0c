"""Legs that would shoot into the ground within a step stop where they meet it, as by Box2D's continuous collision.

A leg is taken back to when its first corner is 5 mm above the ground, loses there, alone, the speed with which it comes down,
and goes on with the rest for the rest of the step; the next step pulls its joints together. Arrays have the batch as their
last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import body, terrain
from envs_jax.multiwalker.body import BODIES, LEGS, SKIN, TIME_STEP, single
from envs_jax.multiwalker.collision import Vector, cross

TARGET, TOLERANCE = 0.005, 0.00125
SLOP, SHARE = 0.005, 0.75
ROOT_STEPS, PUSHES, SWEEPS = 6, 3, 8
POINTS = 7  # of the ground under all places of a leg in a step
_CORNERS = BODIES.corner[:4, LEGS]  # (4, 4 legs, 2)
_LIGHT, _LIGHT_TURN = (single(1 / of[LEGS])[:, None, None] for of in (body.MASS, body.INERTIA))
_FRICTION = single(np.sqrt(body.FRICTION[LEGS] * body.TERRAIN_FRICTION))[:, None, None]


class _Ground(NamedTuple):
    """The ground under each leg: where its first point is (4, n, E), and the heights of that and the next (k, 4, n, E)."""

    left: jax.Array
    height: jax.Array


def _corners(pose: jax.Array) -> Vector:
    """Arms (4 corners, 4 legs, n, E) of the corners of legs at pose (3, 4, n, E)."""
    cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
    x, y = (single(_CORNERS[..., i])[..., None, None] for i in (0, 1))
    return cos * x - sin * y, sin * x + cos * y


def _height(ground: _Ground, x: jax.Array) -> jax.Array:
    """Of the ground at x (corners, 4, n, E)."""
    at = (x - ground.left) * single(1 / terrain.STEP)
    shares = (jnp.maximum(1.0 - jnp.abs(at - k), 0.0) * height for k, height in enumerate(ground.height))
    return sum(shares, jnp.zeros(()))


def _gap(pose: jax.Array, ground: _Ground) -> jax.Array:
    """How far the lowest corner of each leg is above the ground, (4, n, E)."""
    x, y = _corners(pose)
    return (pose[1] + y - _height(ground, pose[0] + x)).min(0)


def _first_touch(before: jax.Array, after: jax.Array, ground: _Ground) -> tuple[jax.Array, jax.Array]:
    """When in the step a leg comes down to `TARGET`, and whether it does, (4, n, E); Box2D's search and its tolerance."""

    def gap(share: jax.Array) -> jax.Array:
        return _gap(before + share * (after - before), ground)

    zero = jnp.zeros(before.shape[1:])
    first, last = gap(zero), gap(zero + 1)
    meets = (first > 0) & ((last < TARGET - TOLERANCE) | (first < TARGET + TOLERANCE))
    low, high, found = zero, zero + 1, zero
    gap_low, gap_high, done = first, last, first < TARGET + TOLERANCE

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

    carry = (low, high, gap_low, gap_high, found, done)
    return jax.lax.fori_loop(0, ROOT_STEPS, search, carry)[4], meets


def _lowest_side(pose: jax.Array, ground: _Ground) -> tuple[Vector, Vector, jax.Array]:
    """The two corners of the side nearest to the ground: arms, the ground's normals there, gaps; all (2, 4, n, E)."""
    x, y = _corners(pose)
    at = pose[0] + x
    gap = pose[1] + y - _height(ground, at)
    half = 0.5 * terrain.STEP
    left = terrain.STEP * jnp.floor((at - ground.left) * single(1 / terrain.STEP)) + ground.left + half
    slope = (_height(ground, left + half) - _height(ground, left - half)) * single(1 / terrain.STEP)
    pair = gap + jnp.roll(gap, -1, 0)
    chosen = pair == pair.min(0)
    chosen &= jnp.cumsum(chosen, 0) == 1

    def take(value: jax.Array) -> jax.Array:
        return jnp.stack([jnp.where(chosen, v, 0.0).sum(0) for v in (value, jnp.roll(value, -1, 0))])

    slope = take(slope)
    length = jnp.sqrt(1 + slope * slope)
    return (take(x), take(y)), (-slope / length, 1 / length), take(gap) / length


def land(heights: jax.Array, before: jax.Array, after: jax.Array, velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Places and velocities at the end of the step.

    Args:
        heights: (T, E), of the ground.
        before: (3, 4, n, E), of the legs at the beginning.
        after: where they would end.
        velocity: (3, 4, n, E), with which.
    """
    reach = single(np.hypot(*np.moveaxis(_CORNERS, -1, 0)).max())
    x, height, _, first = terrain.window(heights, jnp.minimum(before[0], after[0]) - reach, POINTS)
    ground = _Ground(x[0], height)
    share, meets = _first_touch(before, after, ground)
    pose = before + share * (after - before)
    arm, normal, gap = _lowest_side(pose, ground)
    separation, used = gap - SKIN, gap <= SKIN

    def gain(direction: Vector) -> jax.Array:
        return jnp.asarray(_LIGHT + _LIGHT_TURN * cross(arm, direction) ** 2)

    torque, normal_gain = cross(arm, normal), gain(normal)

    def push_out(_: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moved, wrong = carry
        deepest = jnp.where(used, separation + _speed(moved, normal, torque), 0.0).min(0)
        for k in range(2):
            overlap = separation[k] + _speed(moved, normal, torque)[k] + SLOP
            push = jnp.where(used[k] & wrong, -jnp.clip(SHARE * overlap, -0.2, 0.0), 0.0) / normal_gain[k]
            moved = moved + _change(push, normal, torque, k)
        return moved, wrong & (deepest < -1.5 * SLOP)

    moved, _ = jax.lax.fori_loop(0, PUSHES, push_out, (jnp.zeros_like(pose), meets))
    rub = normal[1], -normal[0]
    rub_torque, rub_gain = cross(arm, rub), gain(rub)

    def stop(_: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        velocity, impulse = carry
        along, onto = list(impulse[0]), list(impulse[1])
        for k in range(2):
            limit = _FRICTION * onto[k]
            new = jnp.clip(along[k] - _speed(velocity, rub, rub_torque)[k] / rub_gain[k], -limit, limit)
            velocity = velocity + _change(new - along[k], rub, rub_torque, k)
            along[k] = new
            new = jnp.maximum(onto[k] - _speed(velocity, normal, torque)[k] / normal_gain[k], 0.0)
            new = jnp.where(used[k], new, 0.0)
            velocity = velocity + _change(new - onto[k], normal, torque, k)
            onto[k] = new
        return velocity, jnp.stack([jnp.stack(along), jnp.stack(onto)])

    stopped, _ = jax.lax.fori_loop(0, SWEEPS, stop, (velocity, jnp.zeros((2, 2, *share.shape))))
    pose = pose + moved + (1 - share) * TIME_STEP * stopped
    return jnp.where(meets, pose, after), jnp.where(meets, stopped, velocity)


def _change(impulse: jax.Array, direction: Vector, torque: jax.Array, k: int) -> jax.Array:
    """What an impulse at corner k does to a leg, (3, 4, n, E)."""
    return jnp.stack(
        [_LIGHT * direction[0][k] * impulse, _LIGHT * direction[1][k] * impulse, _LIGHT_TURN * torque[k] * impulse]
    )


def _speed(velocity: jax.Array, direction: Vector, torque: jax.Array) -> jax.Array:
    """Of both corners along a direction, (2, 4, n, E)."""
    return direction[0] * velocity[0] + direction[1] * velocity[1] + torque * velocity[2]
