"""Articulation of a walker: generalized velocities, motors and limits of joints, and position correction of joints.

Box2D enforces revolute joints by impulses, in 180 sweeps. Here a walker has seven generalized velocities: the hull's linear
velocity (x, y) and the angular velocities of the five bodies. They satisfy the joints exactly, and sweeps are needed only for
motors, limits and contacts. Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import separately
from envs_jax.multiwalker.model import (
    HULL_CENTRE,
    INERTIA,
    JOINT_LOWER,
    JOINT_REFERENCE,
    JOINT_SPEED,
    JOINT_UPPER,
    LEG_DOWN,
    LEG_HEIGHT,
    MASS,
    NUM_BODIES,
    TIME_STEP,
    TORQUE,
    single,
)
from envs_jax.multiwalker.physics.manifold import Vector, cross, dot, rotate

PARENT, CHILD = (0, 1, 0, 3), (1, 2, 3, 4)  # bodies of the hip and the knee of each side
ORDER = (3, 2, 0, 1)  # in which Box2D visits the joints
NUM_FREE = 2 + NUM_BODIES
HIP = -HULL_CENTRE + np.array([0.0, LEG_DOWN])
_HALF = LEG_HEIGHT / 2
LINEAR_SLOP, ANGULAR_SLOP, MAX_ANGULAR_CORRECTION = 0.005, np.pi / 90, 8 * np.pi / 180
TOTAL_MASS = float(MASS.sum())


class Articulation(NamedTuple):
    """Kinematics and inertia of the articulations of n walkers at one pose.

    Attributes:
        arms: [5][5], a vector (n, E) or None. Body b has the velocity v + sum over j of w_j x arms[b][j], where v is the hull's
            velocity and w_j is the angular velocity of body j.
        mass_moments: [5], vectors (n, E). Entry j is the sum over bodies b of mass times arms[b][j].
        inverse: [5][5] of (n, E), inverse of the generalized inertia of the angular velocities, from which the hull's
            translation has been eliminated (Schur complement).
    """

    arms: list[list[Vector | None]]
    mass_moments: list[Vector]
    inverse: list[list[jax.Array]]


def joint_angles(angle: jax.Array) -> jax.Array:
    """Angles of the joints, (4, n, E), from the bodies' angles (5, n, E)."""
    return angle[np.array(CHILD)] - angle[np.array(PARENT)] - single(JOINT_REFERENCE)[:, None, None]


def _inverse(matrix: list[list[jax.Array]]) -> list[list[jax.Array]]:
    """Inverse of a symmetric positive definite matrix, by Gauss-Jordan elimination in place."""
    size = len(matrix)
    rows = jnp.stack([jnp.stack([jnp.broadcast_to(entry, matrix[0][1].shape) for entry in row]) for row in matrix])
    for k in range(size):
        pivot = 1 / rows[k, k]
        row = (rows[k] * pivot).at[k].set(pivot)
        column = rows[:, k]
        rows = (rows.at[:, k].set(0.0) - column[:, None] * row[None]).at[k].set(row)
    return [[rows[i, j] for j in range(size)] for i in range(size)]


def make_articulation(angle: jax.Array) -> Articulation:
    """Makes the articulations at the bodies' angles (5, n, E)."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    hip = rotate(cos[0], sin[0], (single(HIP[0]), single(HIP[1])))
    down = [(_HALF * sin[b], -_HALF * cos[b]) for b in range(1, NUM_BODIES)]
    arms: list[list[Vector | None]] = [[None] * NUM_BODIES for _ in range(NUM_BODIES)]
    for upper in (1, 3):
        lower = upper + 1
        thigh, shin = down[upper - 1], down[lower - 1]
        arms[upper][0] = arms[lower][0] = hip
        arms[upper][upper] = thigh
        arms[lower][upper] = 2 * thigh[0], 2 * thigh[1]
        arms[lower][lower] = shin
    mass_moments = []
    matrix = [[jnp.zeros(()) for _ in range(NUM_BODIES)] for _ in range(NUM_BODIES)]
    for i in range(NUM_BODIES):
        moved = [(MASS[b], r) for b in range(NUM_BODIES) if (r := arms[b][i]) is not None]
        mass_moments.append((sum(m * r[0] for m, r in moved), sum(m * r[1] for m, r in moved)))
    for i in range(NUM_BODIES):
        for j in range(NUM_BODIES):
            both = [(MASS[b], arms[b][i], arms[b][j]) for b in range(NUM_BODIES)]
            shared = sum(m * dot(p, q) for m, p, q in both if p is not None and q is not None)
            matrix[i][j] = shared - dot(mass_moments[i], mass_moments[j]) / TOTAL_MASS + (INERTIA[i] if i == j else 0.0)
    return Articulation(arms, mass_moments, _inverse(matrix))


def inverse_mass_product(articulation: Articulation, push: Vector, turn: list[jax.Array]) -> jax.Array:
    """Change of the generalized velocity by impulses, (7, ..., n, E).

    Args:
        articulation: the articulations.
        push: total linear impulse on each walker, (..., n, E).
        turn: five arrays (..., n, E), the generalized impulses of the angular velocities.
    """

    def spins(articulation: Articulation, push: Vector, turn: list[jax.Array]) -> list[jax.Array]:
        turn = [
            t - (push[1] * q[0] - push[0] * q[1]) / TOTAL_MASS for t, q in zip(turn, articulation.mass_moments, strict=True)
        ]
        return [
            sum((articulation.inverse[i][j] * turn[j] for j in range(NUM_BODIES)), jnp.zeros(())) for i in range(NUM_BODIES)
        ]

    spin = separately(spins, articulation, push, turn)
    x = (push[0] + sum(s * q[1] for s, q in zip(spin, articulation.mass_moments, strict=True))) / TOTAL_MASS
    y = (push[1] - sum(s * q[0] for s, q in zip(spin, articulation.mass_moments, strict=True))) / TOTAL_MASS
    return jnp.stack([x, y, *spin])


def to_generalized(articulation: Articulation, velocity: jax.Array) -> jax.Array:
    """Generalized velocity (7, n, E): mass-weighted projection of the velocities (3, 5, n, E) onto those that joints allow."""
    momentum = [(MASS[b] * velocity[0, b], MASS[b] * velocity[1, b]) for b in range(NUM_BODIES)]
    turn = []
    for j in range(NUM_BODIES):
        moved = [cross(r, momentum[b]) for b in range(NUM_BODIES) if (r := articulation.arms[b][j]) is not None]
        turn.append(INERTIA[j] * velocity[2, j] + sum(moved))
    total = sum(p[0] for p in momentum), sum(p[1] for p in momentum)
    return inverse_mass_product(articulation, (jnp.asarray(total[0]), jnp.asarray(total[1])), turn)


def to_bodies(articulation: Articulation, qvel: jax.Array) -> jax.Array:
    """Velocities of the bodies, (3, 5, n, E), from the generalized velocity `qvel` (7, n, E)."""
    x, y, spin = qvel[0], qvel[1], qvel[2:]
    velocities = []
    for b in range(NUM_BODIES):
        moved = [(j, r) for j in range(NUM_BODIES) if (r := articulation.arms[b][j]) is not None]
        velocities.append(
            jnp.stack([x - sum(spin[j] * a[1] for j, a in moved), y + sum(spin[j] * a[0] for j, a in moved), spin[b]])
        )
    return jnp.stack(velocities, 1)


class Limits(NamedTuple):
    """Whether each joint is at or beyond its lower and its upper limit, (4, n, E) bool each."""

    at_lower: jax.Array
    at_upper: jax.Array


def joint_limits(angle: jax.Array) -> Limits:
    """Active limits at the bodies' angles (5, n, E)."""
    joint, (lower, upper) = joint_angles(angle), (single(a)[:, None, None] for a in (JOINT_LOWER, JOINT_UPPER))
    return Limits(joint <= lower, joint >= upper)


class Motors(NamedTuple):
    """Motors and limits of joints, which constrain the difference of two angular velocities, (4, n, E).

    Attributes:
        inv_mass_jacobian: (7, 4, n, E), change of the generalized velocity per unit impulse.
        inv_effective_mass: inverse effective mass: change of the joint's angular velocity per unit impulse.
        motor_target: impulse that accelerates a joint from rest to the target velocity of its motor.
        max_impulse: largest impulse of the motor in a step.
        limits: active limits.
    """

    inv_mass_jacobian: jax.Array
    inv_effective_mass: jax.Array
    motor_target: jax.Array
    max_impulse: jax.Array
    limits: Limits


def make_motors(articulation: Articulation, angle: jax.Array, action: jax.Array) -> Motors:
    """Makes motors under `action` (4, n, E), from -1 to 1, and limits, at the bodies' angles (5, n, E)."""
    zero = jnp.zeros_like(angle[0])
    responses = []
    for parent, child in zip(PARENT, CHILD, strict=True):
        turn = [zero + float(b == child) - float(b == parent) for b in range(NUM_BODIES)]
        responses.append(inverse_mass_product(articulation, (zero, zero), turn))
    inv_mass_jacobian = jnp.stack(responses, 1)
    inv_effective_mass = jnp.stack(
        [
            inv_mass_jacobian[2 + child, j] - inv_mass_jacobian[2 + parent, j]
            for j, (parent, child) in enumerate(zip(PARENT, CHILD, strict=True))
        ]
    )
    return Motors(
        inv_mass_jacobian=inv_mass_jacobian,
        inv_effective_mass=inv_effective_mass,
        motor_target=jnp.sign(action) * single(JOINT_SPEED)[:, None, None] / inv_effective_mass,
        max_impulse=TIME_STEP * TORQUE * jnp.clip(jnp.abs(action), 0.0, 1.0),
        limits=joint_limits(angle),
    )


def solve_motors(motors: Motors, qvel: jax.Array, impulse: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """One sweep over motors and limits. The accumulated impulse of a joint is the sum of both.

    The motor's impulse is clamped to its strength. An active limit adds the impulse that stops the joint from moving beyond it.
    """
    impulse = list(impulse)
    for j in ORDER:
        speed, max_impulse = qvel[2 + CHILD[j]] - qvel[2 + PARENT[j]], motors.max_impulse[j]
        stop = impulse[j] - speed / motors.inv_effective_mass[j]  # XLA computes a quotient once, a product once per use
        new = jnp.clip(stop + motors.motor_target[j], -max_impulse, max_impulse)
        new = jnp.where(motors.limits.at_lower[j], jnp.maximum(new, stop), new)
        new = jnp.where(motors.limits.at_upper[j], jnp.minimum(new, stop), new)
        qvel = qvel + motors.inv_mass_jacobian[:, j] * (new - impulse[j])
        impulse[j] = new
    return qvel, impulse


class Part(NamedTuple):
    """Pose of one body of n walkers during position correction, (n, E) each."""

    x: jax.Array
    y: jax.Array
    angle: jax.Array


def correct_joints(
    parts: list[Part], limits: Limits, active: jax.Array, entered: jax.Array | None = None
) -> tuple[list[Part], jax.Array, jax.Array]:
    """One sweep of position correction over the joints, where `active` (n, E), as in Box2D's b2RevoluteJoint.

    A joint at a limit first returns to it. Then its anchors are moved together. Box2D traverses the joints of a walker from the
    body at which it reaches the walker. Where this is the hull (`entered`, (n, E) bool), the knee that is otherwise first comes
    last.

    Returns:
        The five parts; (n, E) bool, whether each joint of a walker was within tolerance when the sweep reached it; (n, E), the
        largest gap between anchors that the sweep found.
    """
    parts, good, widest = list(parts), jnp.ones(active.shape, bool), jnp.zeros(active.shape)
    order = [(j, active) for j in ORDER]
    if entered is not None:
        order = [(ORDER[0], active & ~entered), *order[1:], (ORDER[0], active & entered)]
    for j, where in order:
        parts[PARENT[j]], parts[CHILD[j]], near, gap = _correct_joint(parts[PARENT[j]], parts[CHILD[j]], limits, j, where)
        good, widest = good & (near | (~where & active)), jnp.maximum(widest, gap)
    return parts, good, widest


def _correct_joint(
    parent: Part, child: Part, limits: Limits, j: int, active: jax.Array
) -> tuple[Part, Part, jax.Array, jax.Array]:
    """Corrects joint j, and returns both bodies, whether it was within tolerance, and the gap between its anchors."""
    a, b = PARENT[j], CHILD[j]
    light_a, light_b = 1 / INERTIA[a], 1 / INERTIA[b]
    joint = child.angle - parent.angle - single(JOINT_REFERENCE[j])
    below, above = joint - single(JOINT_LOWER[j]), joint - single(JOINT_UPPER[j])
    at_lower, at_upper = limits.at_lower[j], limits.at_upper[j]
    turn = jnp.where(at_lower, jnp.clip(below + ANGULAR_SLOP, -MAX_ANGULAR_CORRECTION, 0.0), 0.0)
    turn = jnp.where(at_upper, jnp.clip(above - ANGULAR_SLOP, 0.0, MAX_ANGULAR_CORRECTION), turn)
    wrong_angle = jnp.where(at_lower, -below, jnp.where(at_upper, above, 0.0))
    turn = jnp.where(active, turn, 0.0) / (light_a + light_b)
    angle_a, angle_b = parent.angle + light_a * turn, child.angle - light_b * turn

    # XLA recomputes sums and products for each use, but not cosines, sines and quotients. Each chain of sums and products here
    # therefore ends in one of the latter.
    anchor = HIP if a == 0 else np.array([0.0, -_HALF])
    arm_a = rotate(jnp.cos(angle_a), jnp.sin(angle_a), (single(anchor[0]), single(anchor[1])))
    arm_b = -_HALF * jnp.sin(angle_b), _HALF * jnp.cos(angle_b)
    gap = child.x + arm_b[0] - parent.x - arm_a[0], child.y + arm_b[1] - parent.y - arm_a[1]
    masses = 1 / MASS[a] + 1 / MASS[b]
    xx = masses + light_a * arm_a[1] ** 2 + light_b * arm_b[1] ** 2
    xy = -light_a * arm_a[0] * arm_a[1] - light_b * arm_b[0] * arm_b[1]
    yy = masses + light_a * arm_a[0] ** 2 + light_b * arm_b[0] ** 2
    size = xy * xy - xx * yy
    used = jnp.where(active, 1.0, 0.0)
    pull = used * (yy * gap[0] - xy * gap[1]) / size, used * (xx * gap[1] - xy * gap[0]) / size
    width = jnp.sqrt(dot(gap, gap))
    near = (width <= LINEAR_SLOP) & (wrong_angle <= ANGULAR_SLOP)
    parent = Part(parent.x - pull[0] / MASS[a], parent.y - pull[1] / MASS[a], angle_a - light_a * cross(arm_a, pull))
    child = Part(child.x + pull[0] / MASS[b], child.y + pull[1] / MASS[b], angle_b + light_b * cross(arm_b, pull))
    return parent, child, near, width
