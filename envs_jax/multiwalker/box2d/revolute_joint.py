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


class RevoluteJoint(NamedTuple):
    """One revolute joint of all walkers, (n, E).

    Attributes:
        arms: from the centres of mass of the parent and the child to the anchor.
        inv_effective_mass: xx, xy, yy: inverse effective mass matrix of the point constraint.
        size: determinant of that matrix.
        of_turn: xz, yz, zz: column of the angular limit in the 3 x 3 inverse effective mass matrix.
        limit: last row of the adjugate of the 3 x 3 matrix, and its determinant. They give the impulse of the limit.
        at_lower: bool, whether the joint is at its lower limit.
        at_upper: bool, whether the joint is at its upper limit.
        motor_speed: target angular velocity of the motor.
        max_motor_impulse: largest impulse of the motor in a step.
    """

    arms: tuple[Vector, Vector]
    inv_effective_mass: tuple[jax.Array, jax.Array, jax.Array]
    size: jax.Array
    of_turn: tuple[jax.Array, jax.Array, jax.Array]
    limit: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    at_lower: jax.Array
    at_upper: jax.Array
    motor_speed: jax.Array
    max_motor_impulse: jax.Array


def make_joints(angle: jax.Array, action: jax.Array) -> list[RevoluteJoint]:
    """Makes the four joints under `action` (4, n, E) at the bodies' angles (5, n, E)."""
    limits = joint_limits(angle)
    cos, sin, joints = jnp.cos(angle), jnp.sin(angle), []
    for j, (a, b) in enumerate(zip(PARENT, CHILD, strict=True)):
        anchor = HIP if a == 0 else (0.0, -LEG_HEIGHT / 2)
        arm_a = rotate(cos[a], sin[a], (single(anchor[0]), single(anchor[1])))
        arm_b = -single(LEG_HEIGHT / 2) * sin[b], single(LEG_HEIGHT / 2) * cos[b]
        inv_mass, turn_a, turn_b = single(1 / MASS[a] + 1 / MASS[b]), single(1 / INERTIA[a]), single(1 / INERTIA[b])
        xx = inv_mass + turn_a * arm_a[1] ** 2 + turn_b * arm_b[1] ** 2
        xy = -turn_a * arm_a[0] * arm_a[1] - turn_b * arm_b[0] * arm_b[1]
        xz = -turn_a * arm_a[1] - turn_b * arm_b[1]
        yy = inv_mass + turn_a * arm_a[0] ** 2 + turn_b * arm_b[0] ** 2
        yz = turn_a * arm_a[0] + turn_b * arm_b[0]
        zz = turn_a + turn_b
        flat = xx * yy - xy * xy
        row = xy * yz - xz * yy, xy * xz - xx * yz, flat
        size = xz * row[0] + yz * row[1] + zz * row[2]
        joints.append(
            RevoluteJoint(
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
    return joints


class JointImpulse(NamedTuple):
    """Accumulated impulses of one joint, (n, E): motor, point constraint (x, y) and angular limit."""

    motor: jax.Array
    hold: Vector
    limit: jax.Array


def apply_joint_impulse(
    joint: RevoluteJoint, j: int, parent: Velocity, child: Velocity, hold: Vector, turn: jax.Array
) -> tuple[Velocity, Velocity]:
    """Velocities of both bodies after an impulse `hold` at the anchor and an angular impulse `turn`."""
    pulled = []
    for velocity, r, which, sign in ((parent, joint.arms[0], PARENT[j], -1.0), (child, joint.arms[1], CHILD[j], 1.0)):
        inv_mass, turning = single(sign / MASS[which]), single(sign / INERTIA[which])
        x, y, spin = velocity
        pulled.append((x + inv_mass * hold[0], y + inv_mass * hold[1], spin + turning * (cross(r, hold) + turn)))
    return pulled[0], pulled[1]


def solve_joint(
    joint: RevoluteJoint, j: int, parent: Velocity, child: Velocity, held: JointImpulse
) -> tuple[Velocity, Velocity, JointImpulse]:
    """One sweep over a joint: motor, then the point constraint, with an active limit (3 x 3) or alone (2 x 2)."""
    turn_a, turn_b = single(1 / INERTIA[PARENT[j]]), single(1 / INERTIA[CHILD[j]])
    # These are quotients because XLA computes a quotient once. It recomputes sums and products for each use.
    motor = held.motor - (child[2] - parent[2] - joint.motor_speed) / joint.of_turn[2]
    motor = jnp.clip(motor, -joint.max_motor_impulse, joint.max_motor_impulse)
    change = motor - held.motor
    spin_a, spin_b = parent[2] - turn_a * change, child[2] + turn_b * change

    (ax, ay), (bx, by) = joint.arms
    x = parent[0] - spin_a * ay - child[0] + spin_b * by
    y = parent[1] + spin_a * ax - child[1] - spin_b * bx
    z = spin_a - spin_b
    by_x, by_y, by_z, divisor = joint.limit
    limit = held.limit + (by_x * x + by_y * y + by_z * z) / divisor
    stands = (joint.at_lower & (limit >= 0)) | (joint.at_upper & (limit <= 0))
    limit = jnp.where(stands, limit, 0.0)
    turn = limit - held.limit
    # Given the limit's impulse, the 2 x 2 system determines that of the point constraint.
    x, y = x - joint.of_turn[0] * turn, y - joint.of_turn[1] * turn
    xx, xy, yy = joint.inv_effective_mass
    hold = (yy * x - xy * y) / joint.size, (xx * y - xy * x) / joint.size
    parent, child = apply_joint_impulse(joint, j, (parent[0], parent[1], spin_a), (child[0], child[1], spin_b), hold, turn)
    return parent, child, JointImpulse(motor, (held.hold[0] + hold[0], held.hold[1] + hold[1]), limit)
