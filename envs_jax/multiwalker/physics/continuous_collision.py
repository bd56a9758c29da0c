"""Landings: legs that would enter the ground within a step stop at it, by continuous collision (Box2D's b2World::SolveTOI).

In a sub-step a leg returns to its time of impact and is moved out of the ground. Contact impulses then stop it there, without
its joints. It moves for the rest of the step, in which it may land again. The next step corrects its joints. Arrays have the
batch as their last axis.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import separately
from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import LEG_HEIGHT, LEGS, LOWER_WIDTH, TIME_STEP, UPPER_WIDTH, single
from envs_jax.multiwalker.physics.contact_constraint import Body, ContactImpulse, make_contact_constraint, solve_contact
from envs_jax.multiwalker.physics.contact_detection import NO_CONTACT
from envs_jax.multiwalker.physics.contact_solver import LINEAR_SLOP, Side, correct_contact, ground_side, overlap
from envs_jax.multiwalker.physics.geometry import Motion, Placed, clearance, joined, motion, rotate, running_count
from envs_jax.multiwalker.physics.manifold import Manifold, ground_manifold, select_manifolds
from envs_jax.multiwalker.physics.masked_loops import apply_where, while_any
from envs_jax.multiwalker.physics.time_of_impact import TARGET, TOLERANCE, Sweep, time_of_impact

TOI_BAUMGARTE = 0.75
POSITION_ITERATIONS, VELOCITY_ITERATIONS = 20, 30
MAX_SUB_STEPS = 8  # per leg and step
MANIFOLDS = 3  # edges that can stop a leg
POINTS = 5  # ground points under all poses of a leg in a step
SLOW = 1e-6
POSES = 8
POSES_AT_A_TIME, IMPACTS_AT_A_TIME = 1 / 8, 1 / 24  # fractions of all legs
LEVEL = 0.8  # lower bound of the distance from the ground per height above it, at any slope
_CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])  # of a box, in its half widths
_SIDES = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])  # normals of a box, from its lower left corner on
_REACH = float(np.hypot(UPPER_WIDTH, LEG_HEIGHT) / 2)
_FRICTION = float(np.sqrt(model.FRICTION[LEGS.start] * model.TERRAIN_FRICTION))


class _Legs(NamedTuple):
    """Motion of M legs and the ground under it."""

    before: jax.Array  # (3, M), poses at the beginning of the step
    after: jax.Array  # (3, M), poses at the end of the step without landings
    left: jax.Array  # (M,), x of the first ground point
    height: jax.Array  # (k, M), heights of that point and the next ones
    there: jax.Array  # (k - 1, M) bool, whether the edges between them exist
    half_width: jax.Array  # (M,)
    inv_mass: jax.Array  # (M,), 1 / mass
    inv_inertia: jax.Array  # (M,), 1 / moment of inertia


def _place(legs: _Legs, pose: jax.Array) -> Placed:
    """Legs at `pose` (3, ..., M), relative to their centres of mass."""
    cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
    corner, normal = (single(each.T).reshape(2, -1, *[1] * cos.ndim) for each in (_CORNERS, _SIDES))
    x, y = corner
    corner = rotate(cos, sin, jnp.stack(jnp.broadcast_arrays(x * legs.half_width, y * (LEG_HEIGHT / 2))))
    return Placed(corner, rotate(cos, sin, normal), jnp.ones(corner.shape[1:], bool))


def _edges(legs: _Legs, middle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Left and right ends of the ground edges (2, k, M), relative to `middle` (2, M)."""
    number = jnp.arange(POINTS, dtype=jnp.float32)[:, None]
    points = jnp.stack([legs.left + terrain.STEP * number - middle[0], legs.height - middle[1]])
    return points[:, :-1], points[:, 1:]


def _pairs(legs: _Legs, start: jax.Array, end: jax.Array) -> Sweep:
    """Sweeps of each leg over each edge, (k M,), from one pose (3, M) to another, relative to its position before the step."""
    middle = legs.before[:2]
    origin = jnp.concatenate([middle, jnp.zeros_like(middle[:1])])
    half = jnp.stack([legs.half_width, jnp.full_like(middle[0], LEG_HEIGHT / 2)])
    left, right = (each.reshape(2, -1) for each in _edges(legs, middle))
    start, end, half = (jnp.tile(each, POINTS - 1) for each in (start - origin, end - origin, half))
    return Sweep(start, end, half, left, right)


def _touched_edges(manifold: Manifold, first: jax.Array) -> Manifold:
    """The first `MANIFOLDS` touching edges of manifolds (k, M), with the edge `first` (k, M) before the others."""
    touching = manifold.touching.any(0)
    rank = jnp.where(first, 1, 1 + running_count(touching & ~first))
    return select_manifolds(manifold, jnp.where(touching, rank, 0), MANIFOLDS)


def _solve_positions(legs: _Legs, contacts: Manifold) -> Motion:
    """Displacements that move legs out of the ground (b2ContactSolver::SolveTOIPositionConstraints)."""
    ground, separation = ground_side(legs.inv_mass), contacts.separation

    def iteration(carry: tuple[Motion, jax.Array]) -> tuple[Motion, jax.Array]:
        (moved, wrong), deepest = carry, jnp.zeros(carry[1].shape)
        for edge in range(MANIFOLDS):
            for point in (0, 1):
                leg = Side(moved, contacts.point[:, point, edge], legs.inv_mass, legs.inv_inertia)
                at = contacts.normal[:, edge], separation[point, edge], contacts.reference_is_second[edge]
                found = correct_contact(*at, contacts.touching[point, edge], ground, leg, TOI_BAUMGARTE)
                moved, deepest = jax.tree.map(jnp.add, moved, found.second), jnp.minimum(deepest, found.separation)
        moved = jax.tree.map(functools.partial(jnp.where, wrong), moved, carry[0])
        return moved, wrong & (deepest < -1.5 * LINEAR_SLOP)

    start = motion(jnp.zeros((3, *legs.inv_mass.shape))), contacts.touching.any((0, 1))
    return while_any(POSITION_ITERATIONS, lambda carry: carry[1], iteration, start)[0]


def _solve_velocities(legs: _Legs, contacts: Manifold, moved: Motion, velocity: jax.Array) -> Motion:
    """Velocities after contact impulses (b2Island::SolveTOI), of legs that have `moved` and had the velocity (3, M)."""
    displacement = jax.tree.map(lambda leaf: leaf[..., None, None, :], moved)
    leg = Side(displacement, contacts.point, legs.inv_mass, legs.inv_inertia)
    normal, reference_is_second = contacts.normal[:, None], contacts.reference_is_second[None]
    found = overlap(normal, contacts.separation, reference_is_second, ground_side(contacts.separation), leg)
    body, friction = Body(found.r[1], legs.inv_mass, legs.inv_inertia), jnp.asarray(_FRICTION)
    constraints = make_contact_constraint(found.normal[:, 0], contacts.touching, (body,), friction)

    # Slices inside the loop would be copied in each iteration.
    each = [
        jax.tree.map(lambda leaf, k=k: leaf[..., k, :] if jnp.ndim(leaf) > 1 else leaf, constraints) for k in range(MANIFOLDS)
    ]

    def iteration(carry: tuple) -> tuple:
        velocity, impulse, moving = carry
        new, impulse = velocity, list(impulse)
        for k, constraint in enumerate(each):
            (new,), impulse[k] = separately(solve_contact, constraint, (new,), impulse[k])
        linear, angular = jax.tree.map(lambda now, old: jnp.abs(now - old), new, velocity)
        change = jnp.maximum(jnp.maximum(*linear), angular)
        return jax.tree.map(lambda now, old: jnp.where(moving, now, old), (new, impulse, change > SLOW), carry)

    none = jnp.zeros(velocity.shape[1:])
    impulse = [ContactImpulse((none, none), (none, none))] * MANIFOLDS
    start = motion(velocity), impulse, jnp.ones(none.shape, bool)
    return while_any(VELOCITY_ITERATIONS, lambda carry: carry[2], iteration, start)[0]


class _SubStepState(NamedTuple):
    """Motion of legs within the step, between sub-steps."""

    start: jax.Array  # (3, M), current poses
    end: jax.Array  # (3, M), poses at the end of the step without further landings
    velocity: jax.Array  # (3, M)
    time: jax.Array  # (M,), elapsed fraction of the step
    edges: jax.Array  # (k, M) bool, edges that legs can still land on
    impact_edge: jax.Array  # (k, M) bool, the edge of the next impact
    fraction: jax.Array  # (M,), time of the next impact as a fraction of the remaining step
    active: jax.Array  # (M,) bool, whether legs can land again
    touched: jax.Array  # (k, M) bool, all edges that legs touched in their last landing


def _next_impact(legs: _Legs, state: _SubStepState) -> _SubStepState:
    """Finds the next impact of each leg. A leg without one becomes inactive."""
    when, touches = time_of_impact(_pairs(legs, state.start, state.end), (state.edges & state.active).reshape(-1))
    when, touches = (value.reshape(state.edges.shape) for value in (when, touches))
    when = jnp.where(touches, when, 1.0)
    fraction = when.min(0)
    first = touches & (when == fraction)
    first &= running_count(first) == 1
    active = touches.any(0) & (state.time + (1 - state.time) * fraction < 1 - SLOW)
    return state._replace(impact_edge=first, fraction=fraction, active=active)


def _sub_step(legs: _Legs, state: _SubStepState) -> _SubStepState:
    """Moves each leg to its next impact and lands it. An edge without contact there is not tested again."""
    pose = state.start + state.fraction * (state.end - state.start)
    left, right = _edges(legs, pose[:2])
    manifold = ground_manifold(_place(legs, pose), left, right, legs.there)
    landed = (state.impact_edge & manifold.touching.any(0)).any(0)
    contacts = _touched_edges(manifold, state.impact_edge)
    moved = _solve_positions(legs, contacts)
    stopped = joined(_solve_velocities(legs, contacts, moved, state.velocity))
    start, passed = pose + joined(moved), state.time + (1 - state.time) * state.fraction
    return state._replace(
        start=jnp.where(landed, start, state.start),
        end=jnp.where(landed, start + (1 - passed) * TIME_STEP * stopped, state.end),
        velocity=jnp.where(landed, stopped, state.velocity),
        time=jnp.where(landed, passed, state.time),
        edges=state.edges & ~(state.impact_edge & ~landed),
        touched=jnp.where(landed, manifold.touching.any(0), state.touched),
    )


def _may_touch(legs: _Legs, poses: int) -> jax.Array:
    """Whether legs can reach the ground, (M,): a conservative test of the clearance at some `poses`."""
    displacement = legs.after - legs.before
    furthest = (jnp.sqrt(displacement[0] ** 2 + displacement[1] ** 2) + _REACH * jnp.abs(displacement[2])) / (2 * poses)

    x = legs.left + terrain.STEP * jnp.arange(POINTS, dtype=jnp.float32)[:, None]

    def look(number: jax.Array, lowest: jax.Array) -> jax.Array:
        pose = legs.before + (number + 0.5) / poses * displacement
        return jnp.minimum(lowest, clearance(_place(legs, pose), x - pose[0], legs.height - pose[1]))

    return LEVEL * jax.lax.fori_loop(0, poses, look, jnp.full_like(furthest, jnp.inf)) < TARGET + TOLERANCE + furthest


class Landed(NamedTuple):
    """Legs at the end of the step."""

    pose: jax.Array  # (3, 4, n, E)
    velocity: jax.Array  # (3, 4, n, E)
    edges: jax.Array  # (k, 4, n, E) int32, numbers of the edges that legs touched in their last landing; -9 for none


def resolve_impacts(heights: jax.Array, present: jax.Array, before: jax.Array, after: jax.Array, velocity: jax.Array) -> Landed:
    """Lands the legs that reach the ground within the step. The others remain as they are.

    Args:
        heights: (T, E), heights of the ground.
        present: (n, E) bool, walkers whose legs can land.
        before: (3, 4, n, E), poses of the legs at the beginning of the step.
        after: (3, 4, n, E), their poses at the end of the step without landings.
        velocity: (3, 4, n, E), their velocities.
    """
    x, height, there, number = terrain.window(heights, jnp.minimum(before[0], after[0]) - _REACH, POINTS)

    def flat(value: jax.Array, axes: int) -> jax.Array:
        return value.reshape(*value.shape[:axes], -1)

    edges = there[:-1] & there[1:]
    each = np.array([UPPER_WIDTH / 2, LOWER_WIDTH / 2] * 2), 1 / model.MASS[LEGS], 1 / model.INERTIA[LEGS]
    constants = (flat(jnp.broadcast_to(single(of)[:, None, None], x[0].shape), 0) for of in each)
    legs = _Legs(flat(before, 1), flat(after, 1), flat(x[0], 0), flat(height, 1), flat(edges, 1), *constants)
    active = _may_touch(legs, 1) & flat(jnp.broadcast_to(present, x[0].shape), 0)
    active = apply_where(active, lambda legs, _: _may_touch(legs, POSES), legs, jnp.zeros(active.shape, bool), POSES_AT_A_TIME)

    def again(state: _SubStepState) -> _SubStepState:
        state = apply_where(state.active, _next_impact, legs, state, IMPACTS_AT_A_TIME)
        return apply_where(state.active, _sub_step, legs, state, IMPACTS_AT_A_TIME)

    zero, none = jnp.zeros(active.shape), jnp.zeros(legs.there.shape, bool)
    state = _SubStepState(legs.before, legs.after, flat(velocity, 1), zero, legs.there, none, zero, active, none)
    state = while_any(MAX_SUB_STEPS, lambda state: state.active, again, state)
    touched, numbers = state.touched.reshape(-1, *x[0].shape), number + jnp.arange(POINTS - 1).reshape(-1, 1, 1, 1)
    return Landed(state.end.reshape(after.shape), state.velocity.reshape(after.shape), jnp.where(touched, numbers, NO_CONTACT))
