"""Articulation of a walker: inertia in generalized velocities, motors and limits of joints, and position correction of joints.

Box2D enforces revolute joints by impulses, in 180 iterations. Here a walker has seven generalized velocities (Featherstone,
Rigid Body Dynamics Algorithms, 2008): the hull's linear velocity (x, y) and the angular velocities of the five bodies. They
satisfy the joints exactly. Vectors and axes are as in `geometry`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model
from envs_jax.multiwalker.model import INERTIA, JOINT_REFERENCE, LEG_HEIGHT, MASS, NUM_BODIES, NUM_JOINTS, single
from envs_jax.multiwalker.physics.geometry import cross, dot, perpendicular, rotate, tangent

PARENT, CHILD = (0, 1, 0, 3), (1, 2, 3, 4)  # bodies of the hip and the knee of each side
ORDER = (3, 2, 0, 1)  # in which Box2D visits the joints
HIP = -model.HULL_CENTRE + np.array([0.0, model.LEG_DOWN])
KNEE = np.array([0.0, -LEG_HEIGHT / 2])
LINEAR_SLOP, ANGULAR_SLOP, MAX_ANGULAR_CORRECTION = 0.005, np.pi / 90, 8 * np.pi / 180
LEVER = np.array([[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 2, 1, 0, 0], [1, 0, 0, 1, 0], [1, 0, 0, 2, 1]])
"""Body b has the velocity v + sum over j of LEVER[b, j] w_j x offset_j; see `Articulation`."""
TOTAL_MASS = float(MASS.sum())
MASS_MOMENT = MASS @ LEVER
COUPLING = LEVER.T @ np.diag(MASS) @ LEVER - np.outer(MASS_MOMENT, MASS_MOMENT) / TOTAL_MASS
JOINT_TORQUE = np.eye(NUM_BODIES)[:, CHILD] - np.eye(NUM_BODIES)[:, PARENT]  # of a unit impulse at each joint, (5, 4)


Components = tuple[jax.Array, jax.Array, jax.Array]
"""x, y and angle of a body of n walkers (n, E). They are separate arrays in loops, which XLA then vectorizes."""


class Articulation(NamedTuple):
    """Kinematics and inertia of the articulations of n walkers at one pose.

    The hull's translation has been eliminated from the generalized inertia (Schur complement).
    """

    offset: jax.Array  # (2, 5, n, E), from the hull's centre of mass to the hips, from the upper end of each leg to its centre
    inv_inertia: jax.Array  # (5, 5, n, E), inverse inertia of the angular velocities


def _column(values: np.ndarray, ndim: int) -> jax.Array:
    """Constants (5,) of the bodies, for arrays (5, ...) with `ndim` axes."""
    return jnp.asarray(single(values).reshape(-1, *[1] * (ndim - 1)))


def joint_angles(angle: jax.Array) -> jax.Array:
    """Angles of the joints, (4, n, E), from the bodies' angles (5, n, E)."""
    return angle[np.array(CHILD)] - angle[np.array(PARENT)] - single(JOINT_REFERENCE)[:, None, None]


def _inverse(matrix: jax.Array) -> jax.Array:
    """Inverse of symmetric positive definite matrices (k, k, ...), by Gauss-Jordan elimination in place."""
    for k in range(len(matrix)):
        own = (np.arange(len(matrix)) == k)[:, None, None]
        row = jnp.where(own, 1.0, matrix[k]) / matrix[k, k]
        matrix = jnp.where(own[:, None], row, jnp.where(own, 0.0, matrix) - matrix[:, k, None] * row)
    return matrix


def make_articulation(angle: jax.Array) -> Articulation:
    """Makes the articulations at the bodies' angles (5, n, E)."""
    start = single(np.stack([HIP, *[KNEE] * 4], 1))[..., None, None]
    offset = rotate(jnp.cos(angle), jnp.sin(angle), start)
    products = dot(offset[:, :, None], offset[:, None])
    coupling, own = (jnp.asarray(single(each)[..., None, None]) for each in (COUPLING, np.diag(INERTIA)))
    inertia = coupling * products + own
    return Articulation(offset, _inverse(inertia))


def inverse_mass_product(articulation: Articulation, force: jax.Array, torque: jax.Array) -> jax.Array:
    """Change of the generalized velocity by impulses, (7, ..., n, E): the inverse of the mass matrix times the impulses.

    Args:
        articulation: the articulations.
        force: (2, ..., n, E), total linear impulse on each walker.
        torque: (5, ..., n, E), generalized impulses of the angular velocities.
    """
    more = [1] * (torque.ndim - 3)
    offset = articulation.offset.reshape(2, NUM_BODIES, *more, *articulation.offset.shape[2:])
    inverse = articulation.inv_inertia.reshape(NUM_BODIES, NUM_BODIES, *more, *offset.shape[-2:])
    moment = _column(MASS_MOMENT, torque.ndim) * offset

    def spins(inverse: jax.Array, moment: jax.Array, force: jax.Array, torque: jax.Array) -> jax.Array:
        torque = torque - cross(moment, force[:, None]) / TOTAL_MASS
        return fold(jnp.add, (inverse[:, j] * each for j, each in enumerate(torque)))

    spin = separately(spins, inverse, moment, force, torque)
    moved = fold(jnp.add, (spin[j] * tangent(moment[:, j]) for j in range(NUM_BODIES)))
    return jnp.concatenate([(force + moved) / TOTAL_MASS, spin])


def to_generalized(articulation: Articulation, velocity: jax.Array) -> jax.Array:
    """Generalized velocity (7, n, E): mass-weighted projection of the velocities (3, 5, n, E) onto those that joints allow."""
    momentum = _column(MASS, 3) * velocity[:2]
    carried = fold(jnp.add, (_column(LEVER[b], 3) * momentum[:, b, None] for b in range(NUM_BODIES)))
    torque = _column(INERTIA, 3) * velocity[2] + cross(articulation.offset, carried)
    return inverse_mass_product(articulation, fold(jnp.add, jnp.moveaxis(momentum, 1, 0)), torque)


def to_bodies(articulation: Articulation, qvel: jax.Array) -> jax.Array:
    """Velocities of the bodies, (3, 5, n, E), from the generalized velocity `qvel` (7, n, E)."""
    spin = qvel[2:]
    turning = spin * perpendicular(articulation.offset)
    linear = qvel[:2, None] + fold(jnp.add, (_column(LEVER[:, j], 3) * turning[:, j, None] for j in range(NUM_BODIES)))
    return jnp.concatenate([linear, spin[None]])


class Limits(NamedTuple):
    """Whether each joint is at or beyond its lower and its upper limit, (4, n, E) bool each."""

    at_lower: jax.Array
    at_upper: jax.Array


def stack_poses(parts: list[Components]) -> jax.Array:
    """Poses (3, 5, n, E) of the five bodies."""
    return jnp.stack([jnp.stack(part) for part in parts], 1)


def joint_limits(angle: jax.Array) -> Limits:
    """Active limits at the bodies' angles (5, n, E)."""
    joint, (lower, upper) = joint_angles(angle), (single(a)[:, None, None] for a in (model.JOINT_LOWER, model.JOINT_UPPER))
    return Limits(joint <= lower, joint >= upper)


class Motors(NamedTuple):
    """Motors and limits of joints, which constrain the difference of two angular velocities, (4, n, E)."""

    inv_mass_jacobian: jax.Array  # (7, 4, n, E), change of the generalized velocity per unit impulse
    inv_effective_mass: jax.Array  # change of the joint's angular velocity per unit impulse
    target: jax.Array  # impulse that accelerates a joint from rest to the target velocity of its motor
    max_impulse: jax.Array  # largest impulse of the motor in a step
    limits: Limits  # active limits


def make_motors(articulation: Articulation, angle: jax.Array, action: jax.Array) -> Motors:
    """Makes motors under `action` (4, n, E), from -1 to 1, and limits, at the bodies' angles (5, n, E)."""
    shape = NUM_JOINTS, *angle.shape[1:]
    torque = jnp.broadcast_to(single(JOINT_TORQUE)[..., None, None], (NUM_BODIES, *shape))
    response = inverse_mass_product(articulation, jnp.zeros((2, *shape)), torque)
    ends = list(enumerate(zip(PARENT, CHILD, strict=True)))
    inv_effective_mass = jnp.stack([response[2 + child, j] - response[2 + parent, j] for j, (parent, child) in ends])
    return Motors(
        inv_mass_jacobian=response,
        inv_effective_mass=inv_effective_mass,
        target=jnp.sign(action) * single(model.JOINT_SPEED)[:, None, None] / inv_effective_mass,
        max_impulse=model.TIME_STEP * model.TORQUE * jnp.clip(jnp.abs(action), 0.0, 1.0),
        limits=joint_limits(angle),
    )


def solve_motors(motors: Motors, qvel: jax.Array, impulse: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """One iteration over motors and limits. The accumulated impulse of a joint is the sum of both.

    The motor's impulse is clamped to its strength. An active limit adds the impulse that stops the joint from moving beyond it.
    """
    impulse = list(impulse)
    for j in ORDER:
        speed, largest = qvel[2 + CHILD[j]] - qvel[2 + PARENT[j]], motors.max_impulse[j]
        stop = impulse[j] - speed / motors.inv_effective_mass[j]  # XLA computes a quotient once, a product once per use
        new = jnp.clip(stop + motors.target[j], -largest, largest)
        new = jnp.where(motors.limits.at_lower[j], jnp.maximum(new, stop), new)
        new = jnp.where(motors.limits.at_upper[j], jnp.minimum(new, stop), new)
        qvel = qvel + motors.inv_mass_jacobian[:, j] * (new - impulse[j])
        impulse[j] = new
    return qvel, impulse


def correct_joints(
    pose: jax.Array, limits: Limits, active: jax.Array, entered: jax.Array | None = None
) -> tuple[list[Components], jax.Array, jax.Array]:
    """One iteration of position correction over the joints of walkers at `pose` (3, 5, n, E), where `active` (n, E).

    As in Box2D's b2RevoluteJoint, a joint at a limit first returns to it. Then its anchors are moved together. Box2D traverses
    the joints of a walker from the body at which it reaches the walker. Where this is the hull (`entered`, (n, E) bool), the
    knee that is otherwise first comes last.

    Returns:
        The poses of the bodies; (n, E) bool, whether each joint of a walker was within tolerance when the iteration reached it;
        (n, E), the largest gap between anchors.
    """
    parts: list[Components] = [(pose[0, b], pose[1, b], pose[2, b]) for b in range(NUM_BODIES)]
    good, widest = jnp.ones(active.shape, bool), jnp.zeros(active.shape)
    order = [(j, active) for j in ORDER]
    if entered is not None:
        order = [(ORDER[0], active & ~entered), *order[1:], (ORDER[0], active & entered)]
    for j, where in order:
        parts[PARENT[j]], parts[CHILD[j]], near, gap = _correct_joint(parts[PARENT[j]], parts[CHILD[j]], limits, j, where)
        good, widest = good & (near | (~where & active)), jnp.maximum(widest, gap)
    return parts, good, widest


def _correct_joint(
    parent: Components, child: Components, limits: Limits, j: int, active: jax.Array
) -> tuple[Components, Components, jax.Array, jax.Array]:
    """Corrects joint j between bodies at these poses; returns both, whether it was within tolerance, and its gap."""
    a, b = PARENT[j], CHILD[j]
    inv_inertia_a, inv_inertia_b = 1 / INERTIA[a], 1 / INERTIA[b]
    joint = child[2] - parent[2] - single(JOINT_REFERENCE[j])
    below, above = joint - single(model.JOINT_LOWER[j]), joint - single(model.JOINT_UPPER[j])
    at_lower, at_upper = limits.at_lower[j], limits.at_upper[j]
    turn = jnp.where(at_lower, jnp.clip(below + ANGULAR_SLOP, -MAX_ANGULAR_CORRECTION, 0.0), 0.0)
    turn = jnp.where(at_upper, jnp.clip(above - ANGULAR_SLOP, 0.0, MAX_ANGULAR_CORRECTION), turn)
    wrong_angle = jnp.where(at_lower, -below, jnp.where(at_upper, above, 0.0))
    turn = jnp.where(active, turn, 0.0) / (inv_inertia_a + inv_inertia_b)
    angle_a, angle_b = parent[2] + inv_inertia_a * turn, child[2] - inv_inertia_b * turn

    # XLA recomputes sums and products for each use, but not cosines, sines and quotients. Each chain of sums and products here
    # therefore ends in one of the latter.
    (start_x, start_y), half = (single(each) for each in (HIP if a == 0 else KNEE, -KNEE[1]))
    cos_a, sin_a, cos_b, sin_b = jnp.cos(angle_a), jnp.sin(angle_a), jnp.cos(angle_b), jnp.sin(angle_b)
    r_a = cos_a * start_x - sin_a * start_y, sin_a * start_x + cos_a * start_y
    r_b = -half * sin_b, half * cos_b
    gap = child[0] + r_b[0] - parent[0] - r_a[0], child[1] + r_b[1] - parent[1] - r_a[1]
    xx, xy, yy = point_matrix(j, r_a, r_b)
    determinant, used = xy * xy - xx * yy, jnp.where(active, 1.0, 0.0)
    x, y = used * (yy * gap[0] - xy * gap[1]) / determinant, used * (xx * gap[1] - xy * gap[0]) / determinant
    width = jnp.sqrt(gap[0] * gap[0] + gap[1] * gap[1])
    near = (width <= LINEAR_SLOP) & (wrong_angle <= ANGULAR_SLOP)
    turn_a, turn_b = (r[0] * y - r[1] * x for r in (r_a, r_b))
    parent = parent[0] - x / MASS[a], parent[1] - y / MASS[a], angle_a - inv_inertia_a * turn_a
    child = child[0] + x / MASS[b], child[1] + y / MASS[b], angle_b + inv_inertia_b * turn_b
    return parent, child, near, width


def point_matrix(j: int, r_a: Any, r_b: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Inverse effective mass xx, xy, yy of the point constraint of joint j, with its anchor at `r_a` and `r_b`."""
    a, b = PARENT[j], CHILD[j]
    inv_inertia_a, inv_inertia_b, inv_mass = float(1 / INERTIA[a]), float(1 / INERTIA[b]), float(1 / MASS[a] + 1 / MASS[b])
    xx = inv_mass + inv_inertia_a * r_a[1] ** 2 + inv_inertia_b * r_b[1] ** 2
    xy = -inv_inertia_a * r_a[0] * r_a[1] - inv_inertia_b * r_b[0] * r_b[1]
    yy = inv_mass + inv_inertia_a * r_a[0] ** 2 + inv_inertia_b * r_b[0] ** 2
    return xx, xy, yy
