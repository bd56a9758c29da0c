"""Time of impact of legs with ground edges, by conservative advancement as in Box2D's b2TimeOfImpact.

Arrays have a column for every pair of a leg and an edge (P). Times are fractions of a sweep, the motion of a leg from its start
to its end.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.physics.manifold import Vector, dot, minus, rotate
from envs_jax.multiwalker.physics.masked_loops import apply_where, while_any

TARGET, TOLERANCE = 0.005, 0.00125
ADVANCES, PUSHES, ROOTS = 8, 8, 16
AT_A_TIME = 1 / 8  # of all pairs


class Sweep(NamedTuple):
    """Sweeps of legs, and the edges below them.

    Attributes:
        start: (3, P), x, y and angle of the legs.
        end: (3, P).
        half: half the width and half the height of the legs, (P,) each.
        left: left ends of the edges, (P,) each.
        right: right ends of the edges, (P,) each.
    """

    start: jax.Array
    end: jax.Array
    half: Vector
    left: Vector
    right: Vector


class Axis(NamedTuple):
    """Axis along which separation is measured, (P,). It is fixed in the leg if `by_leg`, otherwise in the world."""

    direction: Vector
    by_leg: jax.Array


class Witness(NamedTuple):
    """Closest points along an axis: a corner of the leg (signs of its x and y in the leg's frame) and an end of the edge."""

    corner: Vector
    end: Vector


def _pose(way: Sweep, share: jax.Array) -> tuple[Vector, jax.Array, jax.Array]:
    """Poses of legs at the time `share` (P,): centre, cosine and sine."""
    x, y, angle = (start + share * (end - start) for start, end in zip(way.start, way.end, strict=True))
    return (x, y), jnp.cos(angle), jnp.sin(angle)


def _nearest(way: Sweep, share: jax.Array) -> tuple[jax.Array, Axis]:
    """Distance of legs from edges at the time `share`, 0 if they overlap, and the axis along which it is measured."""
    middle, cos, sin = _pose(way, share)
    ends = minus(way.left, middle), minus(way.right, middle)
    edge = minus(way.right, way.left)
    length = jnp.sqrt(dot(edge, edge))
    up = -edge[1] / length, edge[0] / length
    half = way.half
    distance, direction = jnp.full(share.shape, jnp.inf), (jnp.zeros(share.shape), jnp.ones(share.shape))
    heights = []
    for across, along in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        corner = minus(rotate(cos, sin, (across * half[0], along * half[1])), ends[0])
        height, part = dot(corner, up), dot(corner, edge) / length**2
        nearest = jnp.clip(part, 0.0, 1.0)
        off = corner[0] - nearest * edge[0], corner[1] - nearest * edge[1]
        far = jnp.maximum(jnp.sqrt(dot(off, off)), 1e-9)
        inside, side = nearest == part, jnp.sign(height)
        nearer = far < distance
        towards = jnp.where(inside, side * up[0], off[0] / far), jnp.where(inside, side * up[1], off[1] / far)
        direction = jnp.where(nearer, towards[0], direction[0]), jnp.where(nearer, towards[1], direction[1])
        distance = jnp.minimum(distance, far)
        heights.append(height)
    own = [rotate(cos, -sin, end) for end in ends]
    by_leg = jnp.zeros(share.shape, bool)
    for x, y in own:
        out_x, out_y = jnp.abs(x) - half[0], jnp.abs(y) - half[1]
        nearer = (jnp.minimum(out_x, out_y) < 0) & (jnp.maximum(out_x, out_y) < distance)
        sideways = out_x > out_y
        towards = jnp.where(sideways, jnp.sign(x), 0.0), jnp.where(sideways, 0.0, jnp.sign(y))
        direction = jnp.where(nearer, towards[0], direction[0]), jnp.where(nearer, towards[1], direction[1])
        distance = jnp.where(nearer, jnp.maximum(out_x, out_y), distance)
        by_leg |= nearer
    apart = (jnp.minimum(jnp.abs(own[0][0]), jnp.abs(own[1][0])) >= half[0]) & (own[0][0] * own[1][0] > 0)
    apart |= (jnp.minimum(jnp.abs(own[0][1]), jnp.abs(own[1][1])) >= half[1]) & (own[0][1] * own[1][1] > 0)
    lowest, highest = jnp.stack(heights).min(0), jnp.stack(heights).max(0)
    apart |= (lowest >= 0) | (highest <= 0)
    return jnp.where(apart, jnp.maximum(distance, 0.0), 0.0), Axis(direction, by_leg)


def _along(way: Sweep, axis: Axis, witness: Witness, share: jax.Array) -> jax.Array:
    """Separation of the `witness` points along the axis at the time `share`, as b2SeparationFunction::Evaluate."""
    middle, cos, sin = _pose(way, share)
    corner = rotate(cos, sin, (witness.corner[0] * way.half[0], witness.corner[1] * way.half[1]))
    to_end = minus(witness.end, middle)
    turned = rotate(cos, sin, axis.direction)
    support = jnp.abs(axis.direction[0]) * way.half[0] + jnp.abs(axis.direction[1]) * way.half[1]
    return jnp.where(axis.by_leg, dot(to_end, turned) - support, dot(minus(corner, to_end), axis.direction))


def _deepest(way: Sweep, axis: Axis, share: jax.Array) -> Witness:
    """Closest points along the axis at the time `share`, as b2SeparationFunction::FindMinSeparation."""
    _, cos, sin = _pose(way, share)
    own = rotate(cos, -sin, axis.direction)
    corner = jnp.where(own[0] > 0, -1.0, 1.0), jnp.where(own[1] > 0, -1.0, 1.0)
    turned = rotate(cos, sin, axis.direction)
    along = jnp.where(axis.by_leg, -dot(minus(way.right, way.left), turned), dot(minus(way.right, way.left), axis.direction))
    right = along > 0
    return Witness(corner, (jnp.where(right, way.right[0], way.left[0]), jnp.where(right, way.right[1], way.left[1])))


def _root(
    way: Sweep,
    axis: Axis,
    witness: Witness,
    low: tuple[jax.Array, jax.Array],
    high: tuple[jax.Array, jax.Array],
    needed: jax.Array,
) -> jax.Array:
    """Time between `low` and `high` (time, separation) at which the points are `TARGET` apart, by bisections and secants."""

    def look(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        by_secant, early, gap_early, late, gap_late, found, searching = carry
        secant = early + (TARGET - gap_early) * (late - early) / jnp.where(gap_late == gap_early, 1.0, gap_late - gap_early)
        share = jnp.where(by_secant, secant, 0.5 * (early + late))
        now = _along(way, axis, witness, share)
        found = jnp.where(searching, share, found)
        above = now > TARGET
        early, gap_early = jnp.where(above, share, early), jnp.where(above, now, gap_early)
        late, gap_late = jnp.where(above, late, share), jnp.where(above, gap_late, now)
        return ~by_secant, early, gap_early, late, gap_late, found, searching & (jnp.abs(now - TARGET) >= TOLERANCE)

    return while_any(ROOTS, lambda carry: carry[-1], look, (jnp.zeros((), bool), *low, *high, high[0], needed))[5]


class _Search(NamedTuple):
    """State of each search, (P,): its time, whether it continues, and whether it has found an impact."""

    time: jax.Array
    active: jax.Array
    touches: jax.Array


class _Retreat(NamedTuple):
    """Search for the impact along one axis, backwards from the end of the sweep. `working` is whether it continues."""

    early: jax.Array
    late: jax.Array
    working: jax.Array
    active: jax.Array
    touches: jax.Array


def _retreat(way: Sweep, axis: Axis, carry: _Retreat) -> _Retreat:
    """Moves the time `late` back to where its closest points along the axis are `TARGET` apart."""
    witness = _deepest(way, axis, carry.late)
    gap_late, gap_early = (_along(way, axis, witness, share) for share in (carry.late, carry.early))
    separated = carry.working & (gap_late > TARGET + TOLERANCE)
    arrived = carry.working & ~separated & (gap_late > TARGET - TOLERANCE)
    working = carry.working & ~separated & ~arrived
    failed = working & (gap_early < TARGET - TOLERANCE)
    touches = working & ~failed & (gap_early <= TARGET + TOLERANCE)
    working = working & ~failed & ~touches
    late = _root(way, axis, witness, (carry.early, gap_early), (carry.late, gap_late), working)
    return _Retreat(
        early=jnp.where(arrived, carry.late, carry.early),
        late=jnp.where(working, late, carry.late),
        working=working,
        active=carry.active & ~separated & ~failed & ~touches,
        touches=carry.touches | touches,
    )


def _advance(way: Sweep, search: _Search) -> _Search:
    """One iteration of conservative advancement, along the axis of the current distance."""
    distance, axis = _nearest(way, search.time)
    touches = search.active & (distance > 0) & (distance < TARGET + TOLERANCE)
    active = search.active & (distance > 0) & ~touches
    start = _Retreat(search.time, jnp.ones_like(search.time), active, active, search.touches | touches)
    end = while_any(PUSHES, lambda carry: carry.working, functools.partial(_retreat, way, axis), start)
    return _Search(end.early, end.active, end.touches)


def _may_touch(way: Sweep) -> jax.Array:
    """False where the end of the sweep shows that there is no impact, (P,). This spares most searches."""
    start = jnp.zeros_like(way.half[0])
    distance, axis = _nearest(way, start)
    end = jnp.ones_like(start)
    apart = _along(way, axis, _deepest(way, axis, end), end) > TARGET + TOLERANCE
    return (distance > 0) & ((distance < TARGET + TOLERANCE) | ~apart)


def time_of_impact(way: Sweep, edges: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Times at which legs hit edges.

    Args:
        way: sweeps of legs, and edges.
        edges: (P,) bool, edges that legs can hit.

    Returns:
        (P,), times at which the distance is `TARGET`, or 0 if it is less at the start; (P,) bool, whether there is an impact.
        As in Box2D, a leg that already overlaps an edge does not hit it.
    """

    def search(way: Sweep, start: _Search) -> _Search:
        return while_any(ADVANCES, lambda search: search.active, functools.partial(_advance, way), start)

    near = edges & _may_touch(way)
    start = _Search(jnp.zeros(near.shape), near, jnp.zeros(near.shape, bool))
    end = apply_where(near, search, way, start, AT_A_TIME)
    return end.time, end.touches
