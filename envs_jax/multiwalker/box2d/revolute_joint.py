"""Revolute joints as in Box2D's b2RevoluteJoint: motor, angular limit and point constraint of hips and knees.

Vectors and axes are as in `geometry`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.model import INERTIA, JOINT_SPEED, MASS, TIME_STEP, TORQUE, single
from envs_jax.multiwalker.physics.articulation import CHILD, HIP, KNEE, PARENT, joint_limits, point_matrix
from envs_jax.multiwalker.physics.geometry import Motion, add_scaled, cross, dot, perpendicular, rotate


class RevoluteJoint(NamedTuple):
    """One revolute joint of all walkers. Scalars are (n, E), vectors (2, n, E).

    The 3 x 3 inverse effective mass matrix of the point constraint and the angular limit has the diagonal xx, yy, zz.
    """

    r: tuple[jax.Array, jax.Array]  # from the centres of mass of the parent and the child to the anchor, two vectors
    diagonal: jax.Array  # vector xx, yy
    off_diagonal: jax.Array  # xy
    determinant: jax.Array  # xx yy - xy xy
    column: jax.Array  # vector xz, yz
    corner: jax.Array  # zz
    adjugate: jax.Array  # vector, first two entries of the last row of the adjugate of the matrix. The third is `determinant`.
    whole_determinant: jax.Array  # determinant of the matrix
    at_lower: jax.Array  # bool, whether the joint is at its lower limit
    at_upper: jax.Array  # bool, whether the joint is at its upper limit
    motor_speed: jax.Array  # target angular velocity of the motor
    max_motor_impulse: jax.Array  # largest impulse of the motor in a step


def make_joints(angle: jax.Array, action: jax.Array) -> list[RevoluteJoint]:
    """Makes the four joints under `action` (4, n, E) at the bodies' angles (5, n, E)."""
    limits = joint_limits(angle)
    cos, sin, joints = jnp.cos(angle), jnp.sin(angle), []
    for j, (a, b) in enumerate(zip(PARENT, CHILD, strict=True)):
        start, end = (single(each)[:, None, None] for each in (HIP if a == 0 else KNEE, -KNEE))
        r_a, r_b = rotate(cos[a], sin[a], start), rotate(cos[b], sin[b], end)
        inv_inertia_a, inv_inertia_b = float(1 / INERTIA[a]), float(1 / INERTIA[b])
        xx, off_diagonal, yy = point_matrix(j, r_a, r_b)
        diagonal = jnp.stack([xx, yy])
        determinant = diagonal[0] * diagonal[1] - off_diagonal**2
        column = inv_inertia_a * perpendicular(r_a) + inv_inertia_b * perpendicular(r_b)
        corner = jnp.full_like(off_diagonal, inv_inertia_a + inv_inertia_b)
        adjugate = off_diagonal * column[::-1] - diagonal[::-1] * column
        joint = RevoluteJoint(
            r=(r_a, r_b),
            diagonal=diagonal,
            off_diagonal=off_diagonal,
            determinant=determinant,
            column=column,
            corner=corner,
            adjugate=adjugate,
            whole_determinant=dot(column, adjugate) + corner * determinant,
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
    joint: RevoluteJoint, j: int, parent: Motion, child: Motion, point: jax.Array, turn: jax.Array
) -> tuple[Motion, Motion]:
    """Velocities of both bodies after an impulse `point` at the anchor and an angular impulse `turn`."""
    (a, b), (r_a, r_b) = (PARENT[j], CHILD[j]), joint.r
    parent = add_scaled(parent, -1 / MASS[a], -1 / INERTIA[a], point, cross(r_a, point) + turn)
    return parent, add_scaled(child, 1 / MASS[b], 1 / INERTIA[b], point, cross(r_b, point) + turn)


def solve_joint(
    joint: RevoluteJoint, j: int, parent: Motion, child: Motion, impulse: JointImpulse
) -> tuple[Motion, Motion, JointImpulse]:
    """One iteration over a joint: motor, then the point constraint, with an active limit (3 x 3) or alone (2 x 2)."""
    inv_inertia_a, inv_inertia_b = float(1 / INERTIA[PARENT[j]]), float(1 / INERTIA[CHILD[j]])
    # These are quotients because XLA computes a quotient once. It recomputes sums and products for each use.
    motor = impulse.motor - (child.angular - parent.angular - joint.motor_speed) / joint.corner
    motor = jnp.clip(motor, -joint.max_motor_impulse, joint.max_motor_impulse)
    change = motor - impulse.motor
    spin_a, spin_b = parent.angular - inv_inertia_a * change, child.angular + inv_inertia_b * change

    (r_a, r_b), turning = joint.r, spin_a - spin_b
    speed = parent.linear + spin_a * perpendicular(r_a) - child.linear - spin_b * perpendicular(r_b)
    limit = impulse.limit + (dot(joint.adjugate, speed) + joint.determinant * turning) / joint.whole_determinant
    holds = (joint.at_lower & (limit >= 0)) | (joint.at_upper & (limit <= 0))
    limit = jnp.where(holds, limit, 0.0)
    turn = limit - impulse.limit
    # Given the limit's impulse, the 2 x 2 system determines that of the point constraint.
    speed = speed - joint.column * turn
    point = (joint.diagonal[::-1] * speed - joint.off_diagonal * speed[::-1]) / joint.determinant
    motions = Motion(parent.linear, spin_a), Motion(child.linear, spin_b)
    return *apply_joint_impulse(joint, j, *motions, point, turn), JointImpulse(motor, impulse.point + point, limit)
