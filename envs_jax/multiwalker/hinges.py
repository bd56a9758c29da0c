"""Joints as Box2D solves them (b2RevoluteJoint): motor, limit and hold of a hip or a knee, by impulses.

Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.body import INERTIA, JOINT_SPEED, LEG_HEIGHT, MASS, TIME_STEP, TORQUE, single
from envs_jax.multiwalker.collision import Vector, cross, rotate
from envs_jax.multiwalker.joints import CHILD, HIP, PARENT, joint_limits
from envs_jax.multiwalker.world import Velocity


class Hinge(NamedTuple):
    """One joint of all walkers, (n, E).

    Attributes:
        arms: from the centres of mass of its two bodies.
        gain: xx, xy, yy: what unit impulses add to the motion of its halves against each other.
        size: of that matrix, its determinant.
        of_turn: x, y, z: what a unit impulse of the limit adds to that motion and to the joint's turn.
        limit: x, y, z and a divisor: the impulse of the limit that undoes a motion and a turn.
        at_lower: bool, it stands at its lower limit.
        at_upper: bool.
        drive: the speed that its motor wants.
        strongest: impulse of the motor in a step.
    """

    arms: tuple[Vector, Vector]
    gain: tuple[jax.Array, jax.Array, jax.Array]
    size: jax.Array
    of_turn: tuple[jax.Array, jax.Array, jax.Array]
    limit: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    at_lower: jax.Array
    at_upper: jax.Array
    drive: jax.Array
    strongest: jax.Array


def make_hinges(angle: jax.Array, action: jax.Array) -> list[Hinge]:
    """The four joints under `action` (4, n, E) at the bodies' angles (5, n, E)."""
    limits = joint_limits(angle)
    cos, sin, hinges = jnp.cos(angle), jnp.sin(angle), []
    for j, (a, b) in enumerate(zip(PARENT, CHILD, strict=True)):
        anchor = HIP if a == 0 else (0.0, -LEG_HEIGHT / 2)
        arm_a = rotate(cos[a], sin[a], (single(anchor[0]), single(anchor[1])))
        arm_b = -single(LEG_HEIGHT / 2) * sin[b], single(LEG_HEIGHT / 2) * cos[b]
        light, turn_a, turn_b = single(1 / MASS[a] + 1 / MASS[b]), single(1 / INERTIA[a]), single(1 / INERTIA[b])
        xx = light + turn_a * arm_a[1] ** 2 + turn_b * arm_b[1] ** 2
        xy = -turn_a * arm_a[0] * arm_a[1] - turn_b * arm_b[0] * arm_b[1]
        xz = -turn_a * arm_a[1] - turn_b * arm_b[1]
        yy = light + turn_a * arm_a[0] ** 2 + turn_b * arm_b[0] ** 2
        yz = turn_a * arm_a[0] + turn_b * arm_b[0]
        zz = turn_a + turn_b
        flat = xx * yy - xy * xy
        row = xy * yz - xz * yy, xy * xz - xx * yz, flat
        size = xz * row[0] + yz * row[1] + zz * row[2]
        hinges.append(
            Hinge(
                (arm_a, arm_b),
                (xx, xy, yy),
                flat,
                (xz, yz, jnp.zeros_like(xx) + zz),
                (*row, size),
                limits.at_lower[j],
                limits.at_upper[j],
                jnp.sign(action[j]) * single(JOINT_SPEED[j]),
                TIME_STEP * TORQUE * jnp.clip(jnp.abs(action[j]), 0.0, 1.0),
            )
        )
    return hinges


class Held(NamedTuple):
    """Impulses of one joint, (n, E): of its motor, of what holds it (x, y), and of its limit."""

    motor: jax.Array
    hold: Vector
    limit: jax.Array


def pull(hinge: Hinge, j: int, parent: Velocity, child: Velocity, hold: Vector, turn: jax.Array) -> tuple[Velocity, Velocity]:
    """The two bodies after impulses."""
    pulled = []
    for velocity, arm, which, sign in ((parent, hinge.arms[0], PARENT[j], -1.0), (child, hinge.arms[1], CHILD[j], 1.0)):
        light, turning = single(sign / MASS[which]), single(sign / INERTIA[which])
        x, y, spin = velocity
        pulled.append((x + light * hold[0], y + light * hold[1], spin + turning * (cross(arm, hold) + turn)))
    return pulled[0], pulled[1]


def sweep_hinge(hinge: Hinge, j: int, parent: Velocity, child: Velocity, held: Held) -> tuple[Velocity, Velocity, Held]:
    """Motor, then what holds the joint, together with its limit where it stands at one (3 x 3), or alone (2 x 2)."""
    turn_a, turn_b = single(1 / INERTIA[PARENT[j]]), single(1 / INERTIA[CHILD[j]])
    # Quotients, which XLA computes once; sums and products it computes anew for each of their uses.
    motor = held.motor - (child[2] - parent[2] - hinge.drive) / hinge.of_turn[2]
    motor = jnp.clip(motor, -hinge.strongest, hinge.strongest)
    change = motor - held.motor
    spin_a, spin_b = parent[2] - turn_a * change, child[2] + turn_b * change

    (ax, ay), (bx, by) = hinge.arms
    x = parent[0] - spin_a * ay - child[0] + spin_b * by
    y = parent[1] + spin_a * ax - child[1] - spin_b * bx
    z = spin_a - spin_b
    by_x, by_y, by_z, divisor = hinge.limit
    limit = held.limit + (by_x * x + by_y * y + by_z * z) / divisor
    stands = (hinge.at_lower & (limit >= 0)) | (hinge.at_upper & (limit <= 0))
    limit = jnp.where(stands, limit, 0.0)
    turn = limit - held.limit
    # With the limit's part known, the rest is what holds the joint alone.
    x, y = x - hinge.of_turn[0] * turn, y - hinge.of_turn[1] * turn
    xx, xy, yy = hinge.gain
    hold = (yy * x - xy * y) / hinge.size, (xx * y - xy * x) / hinge.size
    parent, child = pull(hinge, j, (parent[0], parent[1], spin_a), (child[0], child[1], spin_b), hold, turn)
    return parent, child, Held(motor, (held.hold[0] + hold[0], held.hold[1] + hold[1]), limit)
