"""Landings: legs that would enter the ground within a step stop at it, by continuous collision (Box2D's b2World::SolveTOI).

A leg returns to its time of impact and is moved out of the ground. Contact impulses then stop it there, without its joints. It
moves for the rest of the step, in which it may land again. The next step corrects its joints. Arrays have the batch as their
last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.model import LEG_HEIGHT, LEGS, LOWER_WIDTH, TIME_STEP, UPPER_WIDTH, single
from envs_jax.multiwalker.physics.contact_constraint import ContactImpulse, make_contact_constraint, solve_contact
from envs_jax.multiwalker.physics.contact_detection import NO_CONTACT
from envs_jax.multiwalker.physics.contact_solver import LINEAR_SLOP, Side, overlap, position_correction
from envs_jax.multiwalker.physics.manifold import Manifold, Placed, Vector, clearance, cross, ground_manifold, rotate
from envs_jax.multiwalker.physics.masked_loops import apply_where, while_any
from envs_jax.multiwalker.physics.time_of_impact import TARGET, TOLERANCE, Sweep, time_of_impact

SHARE = 0.75
PUSHES, SWEEPS = 20, 30
LANDINGS = 8  # per leg and step
MANIFOLDS = 3  # edges that can stop a leg
POINTS = 5  # ground points under all poses of a leg in a step
STILL = 1e-6
LOOKS = 8
LOOK_AT_A_TIME, LAND_AT_A_TIME = 1 / 8, 1 / 24  # fractions of all legs
LEVEL = 0.8  # lower bound of the distance from the ground per height above it, at any slope
_CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])  # of a box, in its half widths
_SIDES = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])  # normals of a box, from its lower left corner on
_REACH = float(np.hypot(UPPER_WIDTH, LEG_HEIGHT) / 2)
_FRICTION = float(np.sqrt(model.FRICTION[LEGS.start] * model.TERRAIN_FRICTION))


class _Legs(NamedTuple):
    """Motion of M legs and the ground under it.

    Attributes:
        before: (3, M), poses at the beginning of the step.
        after: (3, M), poses at the end of the step without landings.
        left: (M,), x of the first ground point.
        height: (k, M), heights of that point and the next ones.
        there: (k - 1, M) bool, whether the edges between them exist.
        lower: (M,) bool, whether it is a lower leg.
    """

    before: jax.Array
    after: jax.Array
    left: jax.Array
    height: jax.Array
    there: jax.Array
    lower: jax.Array


def _half_width(legs: _Legs) -> jax.Array:
    return jnp.where(legs.lower, LOWER_WIDTH / 2, UPPER_WIDTH / 2)


def _place(legs: _Legs, pose: jax.Array) -> Placed:
    """Legs at `pose` (3, ..., M), relative to their centres of mass."""
    cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
    x, y, normal_x, normal_y = (single(each).reshape(-1, *[1] * cos.ndim) for each in (*_CORNERS.T, *_SIDES.T))
    corner = rotate(cos, sin, (x * _half_width(legs), y * LEG_HEIGHT / 2))
    return Placed(corner, rotate(cos, sin, (normal_x, normal_y)), jnp.ones(corner[0].shape, bool))


def _edges(legs: _Legs, middle: Vector) -> tuple[Vector, Vector]:
    """Left and right ends of the ground edges (k, M), relative to `middle`."""
    number = jnp.arange(POINTS, dtype=jnp.float32)[:, None]
    x, y = legs.left + terrain.STEP * number - middle[0], legs.height - middle[1]
    return (x[:-1], y[:-1]), (x[1:], y[1:])


def _pairs(legs: _Legs, start: jax.Array, end: jax.Array) -> Sweep:
    """Sweeps of each leg over each edge, (k M,), from one pose (3, M) to another, relative to its position before the step."""
    middle = legs.before[0], legs.before[1]
    origin = jnp.stack([*middle, jnp.zeros_like(middle[0])])
    half = _half_width(legs), jnp.full_like(middle[0], LEG_HEIGHT / 2)
    left, right = jax.tree.map(jnp.ravel, _edges(legs, middle))
    start, end, half = jax.tree.map(lambda leaf: jnp.tile(leaf, POINTS - 1), (start - origin, end - origin, half))
    return Sweep(start, end, half, left, right)


class _Stops(NamedTuple):
    """Contact manifolds that stop legs: arrays (MANIFOLDS, M), or (MANIFOLDS, 2, M) for the two points."""

    normal: Vector
    r: Vector
    separation: jax.Array
    by_leg: jax.Array
    touching: jax.Array


def _stops(manifold: Manifold, first: jax.Array) -> _Stops:
    """The first `MANIFOLDS` touching edges of manifolds (k, M), with the edge `first` (k, M) before the others."""
    touching = manifold.touching.any(0)
    rank = jnp.where(first, 1, 1 + jnp.cumsum((touching & ~first).astype(jnp.int32), 0))
    rank = jnp.where(touching, rank, 0)
    chosen = rank[None] == jnp.arange(1, MANIFOLDS + 1).reshape(-1, 1, 1)

    def take(value: jax.Array) -> jax.Array:
        picked = chosen if value.ndim == 2 else chosen[:, None]
        return jnp.where(picked, value[None], 0).sum(value.ndim - 1)

    normal, point = manifold.normal, manifold.point
    of_edges = take(jnp.broadcast_to(normal[0], touching.shape)), take(jnp.broadcast_to(normal[1], touching.shape))
    return _Stops(
        of_edges,
        (take(point[0]), take(point[1])),
        take(manifold.separation),
        take(manifold.reference_is_second) > 0,
        take(manifold.touching) > 0,
    )


def _weight(legs: _Legs) -> tuple[jax.Array, jax.Array]:
    """1 / mass and 1 / inertia of each leg, (M,)."""
    inv_mass, turning = (jnp.where(legs.lower, 1 / of[2], 1 / of[1]) for of in (model.MASS, model.INERTIA))
    return inv_mass, turning


def _moved(stops: _Stops, index: tuple[int, ...], moved: jax.Array) -> tuple[Vector, Vector, jax.Array]:
    """Normal, arm and separation of one contact point after the leg has `moved` (3, M)."""
    edge, zero = index[0], jnp.zeros_like(moved[0])
    r = stops.r[0][index], stops.r[1][index]
    at_rest, leg = Side((zero, zero, zero), (zero, zero)), Side((moved[0], moved[1], moved[2]), r)
    found = overlap((stops.normal[0][edge], stops.normal[1][edge]), stops.separation[index], stops.by_leg[edge], at_rest, leg)
    return found.normal, found.arms[1], found.separation


_ALL = [(edge, point) for edge in range(MANIFOLDS) for point in range(2)]


def _push_out(legs: _Legs, stops: _Stops) -> jax.Array:
    """Position correction of legs by sequential sweeps over their contacts: displacements (3, M)."""
    inv_mass, turning = _weight(legs)

    def again(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moved, wrong = carry
        deepest = jnp.zeros(wrong.shape)
        for edge, point in _ALL:
            normal, r, separation = _moved(stops, (edge, point), moved)
            separation = jnp.where(stops.touching[edge, point], separation, 0.0)
            deepest = jnp.minimum(deepest, separation)
            torque = cross(r, normal)
            push = position_correction(separation, wrong, SHARE) / (inv_mass + turning * torque**2)
            moved = moved + jnp.stack([inv_mass * normal[0] * push, inv_mass * normal[1] * push, turning * torque * push])
        return jnp.where(wrong, moved, carry[0]), wrong & (deepest < -1.5 * LINEAR_SLOP)

    start = jnp.zeros((3, *inv_mass.shape)), stops.touching.any((0, 1))
    return while_any(PUSHES, lambda carry: carry[1], again, start)[0]


def _stop(legs: _Legs, stops: _Stops, moved: jax.Array, velocity: jax.Array) -> jax.Array:
    """Velocities (3, M) after contact impulses, of legs that have `moved` (3, M)."""
    zero, nowhere = jnp.zeros(()), jnp.zeros(2)
    still, constraints = (zero, zero, zero), []
    for edge in range(MANIFOLDS):
        (normal, one, _), (_, other, _) = (_moved(stops, (edge, point), moved) for point in range(2))
        r = jnp.stack([one[0], other[0]]), jnp.stack([one[1], other[1]])
        friction = jnp.asarray(_FRICTION)
        constraints.append(
            make_contact_constraint(normal, stops.touching[edge], r, _weight(legs), (nowhere, nowhere), (zero, zero), friction)
        )

    def again(carry: tuple) -> tuple:
        velocity, pressed, moving = carry
        before, pressed = velocity, list(pressed)
        for edge, constraint in enumerate(constraints):
            _, velocity, pressed[edge] = separately(solve_contact, constraint, still, velocity, pressed[edge])
        change = jnp.abs(jnp.stack(velocity) - jnp.stack(before)).max(0)
        return jax.tree.map(lambda new, old: jnp.where(moving, new, old), (velocity, pressed, change > STILL), carry)

    nothing = jnp.zeros(velocity.shape[1:])
    pressed = [ContactImpulse((nothing, nothing), (nothing, nothing)) for _ in range(MANIFOLDS)]
    start = tuple(velocity), pressed, jnp.ones(nothing.shape, bool)
    return jnp.stack(while_any(SWEEPS, lambda carry: carry[2], again, start)[0])


class _Flight(NamedTuple):
    """Motion of legs within the step, between landings.

    Attributes:
        start: (3, M), current poses.
        end: (3, M), poses at the end of the step without further landings.
        velocity: (3, M).
        time: (M,), elapsed fraction of the step.
        edges: (k, M) bool, edges that legs can still land on.
        touched: (k, M) bool, the edge of the next impact.
        share: (M,), time of the next impact as a fraction of the remaining step.
        active: (M,) bool, whether legs can land again.
        met: (k, M) bool, all edges that legs touched in their last landing.
    """

    start: jax.Array
    end: jax.Array
    velocity: jax.Array
    time: jax.Array
    edges: jax.Array
    touched: jax.Array
    share: jax.Array
    active: jax.Array
    met: jax.Array


def _look_ahead(legs: _Legs, flight: _Flight) -> _Flight:
    """Finds the next impact of each leg. A leg without one becomes inactive."""
    when, touches = time_of_impact(_pairs(legs, flight.start, flight.end), (flight.edges & flight.active).reshape(-1))
    when, touches = (value.reshape(flight.edges.shape) for value in (when, touches))
    when = jnp.where(touches, when, 1.0)
    share = when.min(0)
    first = touches & (when == share)
    first &= jnp.cumsum(first.astype(jnp.int32), 0) == 1
    active = touches.any(0) & (flight.time + (1 - flight.time) * share < 1 - STILL)
    return flight._replace(touched=first, share=share, active=active)


def _land_once(legs: _Legs, flight: _Flight) -> _Flight:
    """Moves each leg to its next impact and applies the landing. An edge without contact there is not tested again."""
    pose = flight.start + flight.share * (flight.end - flight.start)
    left, right = _edges(legs, (pose[0], pose[1]))
    manifold = ground_manifold(_place(legs, pose), left, right, legs.there)
    landed = (flight.touched & manifold.touching.any(0)).any(0)
    stops = _stops(manifold, flight.touched)
    moved = _push_out(legs, stops)
    stopped = _stop(legs, stops, moved, flight.velocity)
    start, passed = pose + moved, flight.time + (1 - flight.time) * flight.share
    return flight._replace(
        start=jnp.where(landed, start, flight.start),
        end=jnp.where(landed, start + (1 - passed) * TIME_STEP * stopped, flight.end),
        velocity=jnp.where(landed, stopped, flight.velocity),
        time=jnp.where(landed, passed, flight.time),
        edges=flight.edges & ~(flight.touched & ~landed),
        met=jnp.where(landed, manifold.touching.any(0), flight.met),
    )


def _clearance(legs: _Legs, pose: jax.Array) -> jax.Array:
    """Clearance of legs at `pose` (3, L, M) above the ground, (L, M)."""
    number = jnp.arange(POINTS, dtype=jnp.float32)[:, None, None]
    return clearance(_place(legs, pose), legs.left + terrain.STEP * number - pose[0], legs.height[:, None] - pose[1])


def _may_touch(legs: _Legs, looks: int) -> jax.Array:
    """Whether legs can reach the ground, (M,): a conservative test of the clearance at a number of poses, `looks`."""
    way = legs.after - legs.before
    furthest = (jnp.sqrt(way[0] ** 2 + way[1] ** 2) + _REACH * jnp.abs(way[2])) / (2 * looks)
    share = single((np.arange(looks) + 0.5) / looks)[:, None]
    clearance = _clearance(legs, legs.before[:, None] + share * way[:, None])
    return LEVEL * fold(jnp.minimum, clearance) < TARGET + TOLERANCE + furthest


class Landed(NamedTuple):
    """Legs at the end of the step.

    Attributes:
        pose: (3, 4, n, E).
        velocity: (3, 4, n, E).
        edges: (k, 4, n, E) int32, numbers of the edges that legs touched in their last landing; -9 for none.
    """

    pose: jax.Array
    velocity: jax.Array
    edges: jax.Array


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
    lower = jnp.broadcast_to(jnp.array([False, True] * 2)[:, None, None], before.shape[1:])

    def flat(value: jax.Array, axes: int) -> jax.Array:
        return value.reshape(*value.shape[:axes], -1)

    edges = there[:-1] & there[1:]
    legs = _Legs(flat(before, 1), flat(after, 1), flat(x[0], 0), flat(height, 1), flat(edges, 1), flat(lower, 0))
    active = _may_touch(legs, 1) & flat(jnp.broadcast_to(present, lower.shape), 0)
    active = apply_where(active, lambda legs, _: _may_touch(legs, LOOKS), legs, jnp.zeros(active.shape, bool), LOOK_AT_A_TIME)

    def again(flight: _Flight) -> _Flight:
        flight = apply_where(flight.active, _look_ahead, legs, flight, LAND_AT_A_TIME)
        return apply_where(flight.active, _land_once, legs, flight, LAND_AT_A_TIME)

    zero, none = jnp.zeros(active.shape), jnp.zeros(legs.there.shape, bool)
    flight = _Flight(legs.before, legs.after, flat(velocity, 1), zero, legs.there, none, zero, active, none)
    flight = while_any(LANDINGS, lambda flight: flight.active, again, flight)
    met, numbers = flight.met.reshape(-1, *lower.shape), number + jnp.arange(POINTS - 1).reshape(-1, 1, 1, 1)
    return Landed(flight.end.reshape(after.shape), flight.velocity.reshape(after.shape), jnp.where(met, numbers, NO_CONTACT))
