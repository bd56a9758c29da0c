"""Time of impact of legs with ground edges, by conservative advancement as in Box2D's b2TimeOfImpact.

Arrays have a column for every pair of a leg and an edge (P). Times are fractions of a sweep, the motion of a leg from its start
to its end.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.batching import fold
from envs_jax.multiwalker.physics.geometry import dot, rotate
from envs_jax.multiwalker.physics.masked_loops import apply_where, while_any

TARGET, TOLERANCE = 0.005, 0.00125
MAX_ITERATIONS, MAX_PUSH_BACKS, MAX_ROOT_ITERATIONS = 8, 8, 16
AT_A_TIME = 1 / 8  # of all pairs
TIE = 1e-6  # m


class Sweep(NamedTuple):
    """Motions of legs (b2Sweep), and the edges below them."""

    start: jax.Array  # (3, P), x, y and angle of the legs
    end: jax.Array  # (3, P)
    half: jax.Array  # (2, P), half the width and half the height of the legs
    left: jax.Array  # (2, P), left ends of the edges
    right: jax.Array  # (2, P), right ends of the edges


class Axis(NamedTuple):
    """Direction (2, P) along which separation is measured. It is fixed in the leg where `by_leg`, otherwise in the world."""

    direction: jax.Array
    by_leg: jax.Array


class Witness(NamedTuple):
    """Closest points along an axis: a corner of the leg (signs of its x and y in the leg's frame) and an end of the edge."""

    corner: jax.Array
    end: jax.Array


def _pose(sweep: Sweep, time: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Poses of legs at `time` (P,): centre, cosine and sine."""
    pose = sweep.start + time * (sweep.end - sweep.start)
    return pose[:2], jnp.cos(pose[2]), jnp.sin(pose[2])


def _distance(sweep: Sweep, time: jax.Array) -> tuple[jax.Array, Axis]:
    """Distance of legs from edges at `time`, 0 if they overlap, and the axis along which it is measured, as b2Distance."""
    centre, cos, sin = _pose(sweep, time)
    ends = sweep.left - centre, sweep.right - centre
    edge = sweep.right - sweep.left
    length, half = jnp.sqrt(dot(edge, edge)), sweep.half
    up = jnp.stack([-edge[1], edge[0]]) / length
    distance, direction = jnp.full(time.shape, jnp.inf), jnp.stack([jnp.zeros(time.shape), jnp.ones(time.shape)])
    heights = []
    for across, along in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        corner = rotate(cos, sin, jnp.stack([across * half[0], along * half[1]])) - ends[0]
        height, part = dot(corner, up), dot(corner, edge) / length**2
        nearest = jnp.clip(part, 0.0, 1.0)
        off = corner - nearest * edge
        far = jnp.maximum(jnp.sqrt(dot(off, off)), 1e-9)
        towards = jnp.where(nearest == part, jnp.sign(height) * up, off / far)
        direction = jnp.where(far < distance, towards, direction)
        distance = jnp.minimum(distance, far)
        heights.append(height)
    own = [rotate(cos, -sin, end) for end in ends]
    by_leg = jnp.zeros(time.shape, bool)
    for end in own:
        out_x, out_y = jnp.abs(end) - half
        nearer = (jnp.minimum(out_x, out_y) < 0) & (jnp.maximum(out_x, out_y) < distance)
        sideways = jnp.stack([out_x > out_y, out_x <= out_y])
        direction = jnp.where(nearer, jnp.where(sideways, jnp.sign(end), 0.0), direction)
        distance = jnp.where(nearer, jnp.maximum(out_x, out_y), distance)
        by_leg |= nearer
    beyond = (jnp.minimum(jnp.abs(own[0]), jnp.abs(own[1])) >= half) & (own[0] * own[1] > 0)
    apart = beyond[0] | beyond[1] | (fold(jnp.minimum, heights) >= 0) | (fold(jnp.maximum, heights) <= 0)
    return jnp.where(apart, jnp.maximum(distance, 0.0), 0.0), Axis(direction, by_leg)


def _separation(sweep: Sweep, axis: Axis, witness: Witness, time: jax.Array) -> jax.Array:
    """Separation of the `witness` points along the axis at `time`, as b2SeparationFunction::Evaluate."""
    centre, cos, sin = _pose(sweep, time)
    corner, to_end = rotate(cos, sin, witness.corner * sweep.half), witness.end - centre
    support = dot(jnp.abs(axis.direction), sweep.half)
    by_leg = dot(to_end, rotate(cos, sin, axis.direction)) - support
    return jnp.where(axis.by_leg, by_leg, dot(corner - to_end, axis.direction))


def _closest(sweep: Sweep, axis: Axis, time: jax.Array) -> Witness:
    """Closest points along the axis at `time`, as b2SeparationFunction::FindMinSeparation."""
    _, cos, sin = _pose(sweep, time)
    edge = sweep.right - sweep.left
    corner = jnp.where(rotate(cos, -sin, axis.direction) > 0, -1.0, 1.0)
    along = jnp.where(axis.by_leg, -dot(edge, rotate(cos, sin, axis.direction)), dot(edge, axis.direction))
    # Both ends are often equally close. XLA may compute `along` once for each component, with other rounding.
    return Witness(corner, jnp.where(along > TIE, sweep.right, sweep.left))


def _root(
    sweep: Sweep,
    axis: Axis,
    witness: Witness,
    low: tuple[jax.Array, jax.Array],
    high: tuple[jax.Array, jax.Array],
    needed: jax.Array,
) -> jax.Array:
    """Time between `low` and `high` (time, separation) at which the points are `TARGET` apart, by bisections and secants."""

    def bisect(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        by_secant, early, gap_early, late, gap_late, found, searching = carry
        secant = early + (TARGET - gap_early) * (late - early) / jnp.where(gap_late == gap_early, 1.0, gap_late - gap_early)
        time = jnp.where(by_secant, secant, 0.5 * (early + late))
        now = _separation(sweep, axis, witness, time)
        found = jnp.where(searching, time, found)
        above = now > TARGET
        early, gap_early = jnp.where(above, time, early), jnp.where(above, now, gap_early)
        late, gap_late = jnp.where(above, late, time), jnp.where(above, gap_late, now)
        return ~by_secant, early, gap_early, late, gap_late, found, searching & (jnp.abs(now - TARGET) >= TOLERANCE)

    start = jnp.zeros((), bool), *low, *high, high[0], needed
    return while_any(MAX_ROOT_ITERATIONS, lambda carry: carry[-1], bisect, start)[5]


class _Search(NamedTuple):
    """State of each search, (P,): its time, whether it continues, and whether it has found an impact."""

    time: jax.Array
    active: jax.Array
    touches: jax.Array


class _PushBack(NamedTuple):
    """Search for the impact along one axis, backwards from the end of the sweep. `working` is whether it continues."""

    early: jax.Array
    late: jax.Array
    working: jax.Array
    active: jax.Array
    touches: jax.Array


def _push_back(sweep: Sweep, axis: Axis, carry: _PushBack) -> _PushBack:
    """Moves the time `late` back to where its closest points along the axis are `TARGET` apart."""
    witness = _closest(sweep, axis, carry.late)
    gap_late, gap_early = (_separation(sweep, axis, witness, time) for time in (carry.late, carry.early))
    separated = carry.working & (gap_late > TARGET + TOLERANCE)
    arrived = carry.working & ~separated & (gap_late > TARGET - TOLERANCE)
    working = carry.working & ~separated & ~arrived
    failed = working & (gap_early < TARGET - TOLERANCE)
    touches = working & ~failed & (gap_early <= TARGET + TOLERANCE)
    working = working & ~failed & ~touches
    late = _root(sweep, axis, witness, (carry.early, gap_early), (carry.late, gap_late), working)
    return _PushBack(
        early=jnp.where(arrived, carry.late, carry.early),
        late=jnp.where(working, late, carry.late),
        working=working,
        active=carry.active & ~separated & ~failed & ~touches,
        touches=carry.touches | touches,
    )


def _advance(sweep: Sweep, search: _Search) -> _Search:
    """One iteration of conservative advancement, along the axis of the current distance."""
    distance, axis = _distance(sweep, search.time)
    touches = search.active & (distance > 0) & (distance < TARGET + TOLERANCE)
    active = search.active & (distance > 0) & ~touches
    start = _PushBack(search.time, jnp.ones_like(search.time), active, active, search.touches | touches)
    end = while_any(MAX_PUSH_BACKS, lambda carry: carry.working, functools.partial(_push_back, sweep, axis), start)
    return _Search(end.early, end.active, end.touches)


def _may_touch(sweep: Sweep) -> jax.Array:
    """False where the end of the sweep shows that there is no impact, (P,). This spares most searches."""
    start = jnp.zeros_like(sweep.half[0])
    distance, axis = _distance(sweep, start)
    end = jnp.ones_like(start)
    apart = _separation(sweep, axis, _closest(sweep, axis, end), end) > TARGET + TOLERANCE
    return (distance > 0) & ((distance < TARGET + TOLERANCE) | ~apart)


def time_of_impact(sweep: Sweep, edges: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Times at which legs hit edges.

    Args:
        sweep: sweeps of legs, and edges.
        edges: (P,) bool, edges that legs can hit.

    Returns:
        (P,), times at which the distance is `TARGET`, or 0 if it is less at the start; (P,) bool, whether there is an impact.
        As in Box2D, a leg that already overlaps an edge does not hit it.
    """

    def search(sweep: Sweep, start: _Search) -> _Search:
        return while_any(MAX_ITERATIONS, lambda search: search.active, functools.partial(_advance, sweep), start)

    near = edges & _may_touch(sweep)
    start = _Search(jnp.zeros(near.shape), near, jnp.zeros(near.shape, bool))
    end = apply_where(near, search, sweep, start, AT_A_TIME)
    return end.time, end.touches
