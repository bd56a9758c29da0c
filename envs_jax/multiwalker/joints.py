"""A walker's joints: the coordinates that they leave free, motors and limits, and putting bodies back together.

Box2D holds hips and knees by impulses, which 180 sweeps bring to agree. Here velocities are written in coordinates in which
joints cannot come apart, so that they hold exactly and sweeps are left for motors, limits and contacts: seven a walker, the
hull's velocity (x, y) and the spins of the five bodies. Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import separately
from envs_jax.multiwalker.body import (
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
from envs_jax.multiwalker.collision import Vector, cross, dot, rotate

PARENT, CHILD = (0, 1, 0, 3), (1, 2, 3, 4)  # of hip and knee of the two sides
ORDER = (3, 2, 0, 1)  # in which Box2D visits them
NUM_FREE = 2 + NUM_BODIES
HIP = -HULL_CENTRE + np.array([0.0, LEG_DOWN])
_HALF = LEG_HEIGHT / 2
LINEAR_SLOP, ANGULAR_SLOP, LARGEST_TURN = 0.005, np.pi / 90, 8 * np.pi / 180
TOTAL = float(MASS.sum())


class Tree(NamedTuple):
    """Walkers' joints in one pose.

    Attributes:
        arms: [body][spin], a vector (n, E) or None: body b moves with v + sum over j of spin_j x arms[b][j].
        moments: five vectors (n, E): the sum over bodies of mass times arm.
        inverse: [5][5] of (n, E), of the inertia that spins have when nothing else holds the hull.
    """

    arms: list[list[Vector | None]]
    moments: list[Vector]
    inverse: list[list[jax.Array]]


def joint_angles(angle: jax.Array) -> jax.Array:
    """(4, n, E) of the bodies' angles (5, n, E)."""
    return angle[np.array(CHILD)] - angle[np.array(PARENT)] - single(JOINT_REFERENCE)[:, None, None]


def _inverse(matrix: list[list[jax.Array]]) -> list[list[jax.Array]]:
    """Of a symmetric positive matrix, by Gauss and Jordan in place."""
    size = len(matrix)
    rows = jnp.stack([jnp.stack([jnp.broadcast_to(entry, matrix[0][1].shape) for entry in row]) for row in matrix])
    for k in range(size):
        pivot = 1 / rows[k, k]
        row = (rows[k] * pivot).at[k].set(pivot)
        column = rows[:, k]
        rows = (rows.at[:, k].set(0.0) - column[:, None] * row[None]).at[k].set(row)
    return [[rows[i, j] for j in range(size)] for i in range(size)]


def make_tree(angle: jax.Array) -> Tree:
    """The joints at the bodies' angles (5, n, E)."""
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
    moments = []
    matrix = [[jnp.zeros(()) for _ in range(NUM_BODIES)] for _ in range(NUM_BODIES)]
    for i in range(NUM_BODIES):
        moved = [(MASS[b], arm) for b in range(NUM_BODIES) if (arm := arms[b][i]) is not None]
        moments.append((sum(m * arm[0] for m, arm in moved), sum(m * arm[1] for m, arm in moved)))
    for i in range(NUM_BODIES):
        for j in range(NUM_BODIES):
            both = [(MASS[b], arms[b][i], arms[b][j]) for b in range(NUM_BODIES)]
            shared = sum(m * dot(p, q) for m, p, q in both if p is not None and q is not None)
            matrix[i][j] = shared - dot(moments[i], moments[j]) / TOTAL + (INERTIA[i] if i == j else 0.0)
    return Tree(arms, moments, _inverse(matrix))


def respond(tree: Tree, push: Vector, turn: list[jax.Array]) -> jax.Array:
    """What impulses do to the free coordinates, (7, ..., n, E).

    Args:
        tree: the joints.
        push: on the walker as a whole, (..., n, E).
        turn: five, by how much the impulses turn each spin.
    """

    def spins(tree: Tree, push: Vector, turn: list[jax.Array]) -> list[jax.Array]:
        turn = [t - (push[1] * q[0] - push[0] * q[1]) / TOTAL for t, q in zip(turn, tree.moments, strict=True)]
        return [sum((tree.inverse[i][j] * turn[j] for j in range(NUM_BODIES)), jnp.zeros(())) for i in range(NUM_BODIES)]

    spin = separately(spins, tree, push, turn)
    x = (push[0] + sum(s * q[1] for s, q in zip(spin, tree.moments, strict=True))) / TOTAL
    y = (push[1] - sum(s * q[0] for s, q in zip(spin, tree.moments, strict=True))) / TOTAL
    return jnp.stack([x, y, *spin])


def to_free(tree: Tree, velocity: jax.Array) -> jax.Array:
    """The free coordinates (7, n, E) nearest to the bodies' velocities (3, 5, n, E): what joints leave of them."""
    momentum = [(MASS[b] * velocity[0, b], MASS[b] * velocity[1, b]) for b in range(NUM_BODIES)]
    turn = []
    for j in range(NUM_BODIES):
        moved = [cross(arm, momentum[b]) for b in range(NUM_BODIES) if (arm := tree.arms[b][j]) is not None]
        turn.append(INERTIA[j] * velocity[2, j] + sum(moved))
    total = sum(p[0] for p in momentum), sum(p[1] for p in momentum)
    return respond(tree, (jnp.asarray(total[0]), jnp.asarray(total[1])), turn)


def to_bodies(tree: Tree, free: jax.Array) -> jax.Array:
    """The bodies' velocities (3, 5, n, E)."""
    x, y, spin = free[0], free[1], free[2:]
    velocities = []
    for b in range(NUM_BODIES):
        moved = [(j, arm) for j in range(NUM_BODIES) if (arm := tree.arms[b][j]) is not None]
        velocities.append(
            jnp.stack([x - sum(spin[j] * a[1] for j, a in moved), y + sum(spin[j] * a[0] for j, a in moved), spin[b]])
        )
    return jnp.stack(velocities, 1)


class Limits(NamedTuple):
    """Which joints (4, n, E) stand at a limit; bool."""

    at_lower: jax.Array
    at_upper: jax.Array


def joint_limits(angle: jax.Array) -> Limits:
    """At the bodies' angles (5, n, E)."""
    joint, (lower, upper) = joint_angles(angle), (single(a)[:, None, None] for a in (JOINT_LOWER, JOINT_UPPER))
    return Limits(joint <= lower, joint >= upper)


class Motors(NamedTuple):
    """What joints do about the difference of two spins, (4, n, E).

    Attributes:
        response: (7, 4, n, E), of the free coordinates to a unit impulse.
        gain: of the joint's speed to a unit impulse.
        drive: the impulse that brings a joint at rest to the speed that its motor wants.
        strongest: impulse of the motor in a step.
        limits: which joints stand at a limit and may not go further.
    """

    response: jax.Array
    gain: jax.Array
    drive: jax.Array
    strongest: jax.Array
    limits: Limits


def make_motors(tree: Tree, angle: jax.Array, action: jax.Array) -> Motors:
    """Motors under `action` (4, n, E), from -1 to 1, and limits at the bodies' angles (5, n, E)."""
    zero = jnp.zeros_like(angle[0])
    responses = []
    for parent, child in zip(PARENT, CHILD, strict=True):
        turn = [zero + float(b == child) - float(b == parent) for b in range(NUM_BODIES)]
        responses.append(respond(tree, (zero, zero), turn))
    response = jnp.stack(responses, 1)
    gain = jnp.stack(
        [response[2 + child, j] - response[2 + parent, j] for j, (parent, child) in enumerate(zip(PARENT, CHILD, strict=True))]
    )
    return Motors(
        response=response,
        gain=gain,
        drive=jnp.sign(action) * single(JOINT_SPEED)[:, None, None] / gain,
        strongest=TIME_STEP * TORQUE * jnp.clip(jnp.abs(action), 0.0, 1.0),
        limits=joint_limits(angle),
    )


def sweep_motors(motors: Motors, free: jax.Array, impulse: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """Every motor and limit once. A joint's impulse is what motor and limit give together.

    The motor's part stays within its strength. The limit adds what keeps the joint from going on, if it stands there.
    """
    impulse = list(impulse)
    for j in ORDER:
        speed, strongest = free[2 + CHILD[j]] - free[2 + PARENT[j]], motors.strongest[j]
        stop = impulse[j] - speed / motors.gain[j]  # a quotient, which XLA computes once
        new = jnp.clip(stop + motors.drive[j], -strongest, strongest)
        new = jnp.where(motors.limits.at_lower[j], jnp.maximum(new, stop), new)
        new = jnp.where(motors.limits.at_upper[j], jnp.minimum(new, stop), new)
        free = free + motors.response[:, j] * (new - impulse[j])
        impulse[j] = new
    return free, impulse


class Part(NamedTuple):
    """Where one body of n walkers is while they are put back together; all (n, E)."""

    x: jax.Array
    y: jax.Array
    angle: jax.Array


def pull_together(
    parts: list[Part], limits: Limits, active: jax.Array, entered: jax.Array | None = None
) -> tuple[list[Part], jax.Array, jax.Array]:
    """Every joint once where `active` (n, E): first back to the limit it stood at, then its halves to each other.

    Walkers that Box2D has `entered` (n, E) by the hull, not by a foot, have their first knee put right last.

    Returns:
        The five parts, (n, E) bool: whether all joints of a walker were near enough before, and the widest gap there was.
    """
    parts, good, widest = list(parts), jnp.ones(active.shape, bool), jnp.zeros(active.shape)
    order = [(j, active) for j in ORDER]
    if entered is not None:
        order = [(ORDER[0], active & ~entered), *order[1:], (ORDER[0], active & entered)]
    for j, where in order:
        parts[PARENT[j]], parts[CHILD[j]], near, gap = _pull(parts[PARENT[j]], parts[CHILD[j]], limits, j, where)
        good, widest = good & (near | (~where & active)), jnp.maximum(widest, gap)
    return parts, good, widest


def _pull(parent: Part, child: Part, limits: Limits, j: int, active: jax.Array) -> tuple[Part, Part, jax.Array, jax.Array]:
    """Joint j alone, whether it was near enough, and its gap."""
    a, b = PARENT[j], CHILD[j]
    light_a, light_b = 1 / INERTIA[a], 1 / INERTIA[b]
    joint = child.angle - parent.angle - single(JOINT_REFERENCE[j])
    below, above = joint - single(JOINT_LOWER[j]), joint - single(JOINT_UPPER[j])
    at_lower, at_upper = limits.at_lower[j], limits.at_upper[j]
    turn = jnp.where(at_lower, jnp.clip(below + ANGULAR_SLOP, -LARGEST_TURN, 0.0), 0.0)
    turn = jnp.where(at_upper, jnp.clip(above - ANGULAR_SLOP, 0.0, LARGEST_TURN), turn)
    wrong_angle = jnp.where(at_lower, -below, jnp.where(at_upper, above, 0.0))
    turn = jnp.where(active, turn, 0.0) / (light_a + light_b)
    angle_a, angle_b = parent.angle + light_a * turn, child.angle - light_b * turn

    # What XLA would compute anew for each of its uses are sums and products: here every chain of those ends in a cosine, a
    # sine or a quotient, which it keeps.
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
