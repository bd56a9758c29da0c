"""Revolute joints as in Box2D's b2RevoluteJoint: motor, angular limit and point constraint of hips and knees.

Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.model import INERTIA, JOINT_SPEED, LEG_HEIGHT, MASS, TIME_STEP, TORQUE, single
from envs_jax.multiwalker.physics.articulation import CHILD, HIP, PARENT, joint_limits
from envs_jax.multiwalker.physics.manifold import Vector, cross, rotate
from envs_jax.multiwalker.physics.world import Velocity


class Hinge(NamedTuple):
    """One revolute joint of all walkers, (n, E).

    Attributes:
        arms: from the centres of mass of the parent and the child to the anchor.
        gain: xx, xy, yy: inverse effective mass matrix of the point constraint.
        size: determinant of that matrix.
        of_turn: xz, yz, zz: column of the angular limit in the 3 x 3 inverse effective mass matrix.
        limit: last row of the adjugate of the 3 x 3 matrix, and its determinant. They give the impulse of the limit.
        at_lower: bool, whether the joint is at its lower limit.
        at_upper: bool, whether the joint is at its upper limit.
        drive: target angular velocity of the motor.
        strongest: largest impulse of the motor in a step.
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
    """Makes the four joints under `action` (4, n, E) at the bodies' angles (5, n, E)."""
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
    """Accumulated impulses of one joint, (n, E): motor, point constraint (x, y) and angular limit."""

    motor: jax.Array
    hold: Vector
    limit: jax.Array


def pull(hinge: Hinge, j: int, parent: Velocity, child: Velocity, hold: Vector, turn: jax.Array) -> tuple[Velocity, Velocity]:
    """Velocities of both bodies after an impulse `hold` at the anchor and an angular impulse `turn`."""
    pulled = []
    for velocity, arm, which, sign in ((parent, hinge.arms[0], PARENT[j], -1.0), (child, hinge.arms[1], CHILD[j], 1.0)):
        light, turning = single(sign / MASS[which]), single(sign / INERTIA[which])
        x, y, spin = velocity
        pulled.append((x + light * hold[0], y + light * hold[1], spin + turning * (cross(arm, hold) + turn)))
    return pulled[0], pulled[1]


def sweep_hinge(hinge: Hinge, j: int, parent: Velocity, child: Velocity, held: Held) -> tuple[Velocity, Velocity, Held]:
    """One sweep over a joint: motor, then the point constraint, with an active limit (3 x 3) or alone (2 x 2)."""
    turn_a, turn_b = single(1 / INERTIA[PARENT[j]]), single(1 / INERTIA[CHILD[j]])
    # These are quotients because XLA computes a quotient once. It recomputes sums and products for each use.
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
    # Given the limit's impulse, the 2 x 2 system determines that of the point constraint.
    x, y = x - hinge.of_turn[0] * turn, y - hinge.of_turn[1] * turn
    xx, xy, yy = hinge.gain
    hold = (yy * x - xy * y) / hinge.size, (xx * y - xy * x) / hinge.size
    parent, child = pull(hinge, j, (parent[0], parent[1], spin_a), (child[0], child[1], spin_b), hold, turn)
    return parent, child, Held(motor, (held.hold[0] + hold[0], held.hold[1] + hold[1]), limit)
