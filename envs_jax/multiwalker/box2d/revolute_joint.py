"""Revolute joints as in Box2D's b2RevoluteJoint: motor, angular limit and point constraint of hips and knees.

A velocity is an array (3, n, E). Vectors and axes are as in `geometry`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.model import INERTIA, JOINT_SPEED, MASS, TIME_STEP, TORQUE, single
from envs_jax.multiwalker.physics.articulation import CHILD, HIP, KNEE, PARENT, joint_limits, point_matrix
from envs_jax.multiwalker.physics.geometry import cross, rotate


class RevoluteJoint(NamedTuple):
    """One revolute joint of all walkers, (n, E).

    Attributes:
        r: from the centres of mass of the parent and the child to the anchor, (2, n, E) each.
        point: xx, xy, yy: inverse effective mass matrix of the point constraint.
        determinant: of that matrix.
        turn: xz, yz, zz: column of the angular limit in the 3 x 3 inverse effective mass matrix.
        limit: last row of the adjugate of the 3 x 3 matrix, and its determinant. They give the impulse of the limit.
        at_lower: bool, whether the joint is at its lower limit.
        at_upper: bool, whether the joint is at its upper limit.
        motor_speed: target angular velocity of the motor.
        max_motor_impulse: largest impulse of the motor in a step.
    """

    r: tuple[jax.Array, jax.Array]
    point: tuple[jax.Array, jax.Array, jax.Array]
    determinant: jax.Array
    turn: tuple[jax.Array, jax.Array, jax.Array]
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
        r_a, r_b = rotate(cos[a], sin[a], single(HIP if a == 0 else KNEE)), rotate(cos[b], sin[b], single(-KNEE))
        inv_inertia_a, inv_inertia_b = float(1 / INERTIA[a]), float(1 / INERTIA[b])
        xx, xy, yy = point_matrix(j, r_a, r_b)
        xz = -inv_inertia_a * r_a[1] - inv_inertia_b * r_b[1]
        yz = inv_inertia_a * r_a[0] + inv_inertia_b * r_b[0]
        zz = jnp.full_like(xx, inv_inertia_a + inv_inertia_b)
        adjugate = xy * yz - xz * yy, xy * xz - xx * yz, xx * yy - xy * xy
        joint = RevoluteJoint(
            r=(r_a, r_b),
            point=(xx, xy, yy),
            determinant=adjugate[2],
            turn=(xz, yz, zz),
            limit=(*adjugate, xz * adjugate[0] + yz * adjugate[1] + zz * adjugate[2]),
            at_lower=limits.at_lower[j],
            at_upper=limits.at_upper[j],
            motor_speed=jnp.sign(action[j]) * single(JOINT_SPEED[j]),
            max_motor_impulse=TIME_STEP * TORQUE * jnp.clip(jnp.abs(action[j]), 0.0, 1.0),
        )
        joints.append(joint)
    return joints


class JointImpulse(NamedTuple):
    """Accumulated impulses of one joint: motor (n, E), point constraint (2, n, E) and angular limit (n, E)."""

    motor: jax.Array
    point: jax.Array
    limit: jax.Array


def apply_joint_impulse(
    joint: RevoluteJoint, j: int, parent: jax.Array, child: jax.Array, point: jax.Array, turn: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Velocities of both bodies after an impulse `point` at the anchor and an angular impulse `turn`."""

    def changed(velocity: jax.Array, r: jax.Array, which: int, sign: float) -> jax.Array:
        inv_mass, inv_inertia = single(sign / MASS[which]), single(sign / INERTIA[which])
        return velocity + jnp.stack([inv_mass * point[0], inv_mass * point[1], inv_inertia * (cross(r, point) + turn)])

    return changed(parent, joint.r[0], PARENT[j], -1.0), changed(child, joint.r[1], CHILD[j], 1.0)


def solve_joint(
    joint: RevoluteJoint, j: int, parent: jax.Array, child: jax.Array, impulse: JointImpulse
) -> tuple[jax.Array, jax.Array, JointImpulse]:
    """One iteration over a joint: motor, then the point constraint, with an active limit (3 x 3) or alone (2 x 2)."""
    inv_inertia_a, inv_inertia_b = single(1 / INERTIA[PARENT[j]]), single(1 / INERTIA[CHILD[j]])
    # These are quotients because XLA computes a quotient once. It recomputes sums and products for each use.
    motor = impulse.motor - (child[2] - parent[2] - joint.motor_speed) / joint.turn[2]
    motor = jnp.clip(motor, -joint.max_motor_impulse, joint.max_motor_impulse)
    change = motor - impulse.motor
    spin_a, spin_b = parent[2] - inv_inertia_a * change, child[2] + inv_inertia_b * change

    r_a, r_b = joint.r
    x = parent[0] - spin_a * r_a[1] - child[0] + spin_b * r_b[1]
    y = parent[1] + spin_a * r_a[0] - child[1] - spin_b * r_b[0]
    z = spin_a - spin_b
    by_x, by_y, by_z, divisor = joint.limit
    limit = impulse.limit + (by_x * x + by_y * y + by_z * z) / divisor
    holds = (joint.at_lower & (limit >= 0)) | (joint.at_upper & (limit <= 0))
    limit = jnp.where(holds, limit, 0.0)
    turn = limit - impulse.limit
    # Given the limit's impulse, the 2 x 2 system determines that of the point constraint.
    x, y = x - joint.turn[0] * turn, y - joint.turn[1] * turn
    xx, xy, yy = joint.point
    point = jnp.stack([(yy * x - xy * y) / joint.determinant, (xx * y - xy * x) / joint.determinant])
    parent, child = jnp.stack([*parent[:2], spin_a]), jnp.stack([*child[:2], spin_b])
    parent, child = apply_joint_impulse(joint, j, parent, child, point, turn)
    return parent, child, JointImpulse(motor, impulse.point + point, limit)
