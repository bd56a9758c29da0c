"""Contact constraints in generalized velocities: normal and friction impulses, and position correction of overlaps.

The generalized velocity of a walker is described in `articulation`. Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model
from envs_jax.multiwalker.model import COLLISION_MARGIN, NUM_BODIES, single
from envs_jax.multiwalker.physics.articulation import Articulation, inverse_mass_product
from envs_jax.multiwalker.physics.contact_detection import ContactPoints
from envs_jax.multiwalker.physics.manifold import Vector, cross, dot, minus

BAUMGARTE, LINEAR_SLOP, MAX_LINEAR_CORRECTION = 0.2, 0.005, 0.2
MIN_SEPARATION = -0.015


class ContactRows(NamedTuple):
    """Jacobian rows of K contacts of n walkers: 2 per contact, along the tangent and along the normal.

    Attributes:
        jacobian: [2][K] of (7, n, E), jacobian. Its product with the generalized velocity is the speed along the row.
        inv_mass_jacobian: [2][K] of (7, n, E), change of the generalized velocity per unit impulse.
        inv_effective_mass: (2, K, n, E), change of the row's speed per unit impulse. It is infinite in unused slots.
        friction: (K, n, E), coefficient of friction.
    """

    jacobian: list[list[jax.Array]]
    inv_mass_jacobian: list[list[jax.Array]]
    inv_effective_mass: jax.Array
    friction: jax.Array


def make_contact_rows(articulation: Articulation, points: ContactPoints) -> ContactRows:
    """Makes the jacobian rows of contacts."""

    def pulls(articulation: Articulation, points: ContactPoints) -> list[jax.Array]:
        x, y = points.normal
        direction = jnp.stack([y, x]), jnp.stack([-x, y])
        return [*direction, *(cross(r, direction) for r in _arms(articulation, points))]

    jacobian = separately(pulls, articulation, points)
    inv_mass_jacobian = inverse_mass_product(articulation, (jacobian[0], jacobian[1]), jacobian[2:])
    jacobian = jnp.stack(jacobian)
    inv_effective_mass = fold(jnp.add, jacobian * inv_mass_jacobian)
    inv_effective_mass = jnp.where(inv_effective_mass > 1e-9, inv_effective_mass, jnp.inf)
    jacobian, inv_mass_jacobian = (
        [list(jnp.moveaxis(row, 1, 0)) for row in jnp.moveaxis(of, 1, 0)] for of in (jacobian, inv_mass_jacobian)
    )
    return ContactRows(jacobian, inv_mass_jacobian, inv_effective_mass, points.friction)


def _arms(articulation: Articulation, points: ContactPoints) -> list[Vector]:
    """For each of the five angular velocities, its arms to the contact points: vectors (K, n, E)."""
    arms = []
    for j in range(NUM_BODIES):
        moved = [(points.one_hot[b], r) for b in range(NUM_BODIES) if (r := articulation.arms[b][j]) is not None]
        own = points.one_hot[j]
        arms.append(tuple(own * points.r[i] + sum(m * r[i] for m, r in moved) for i in (0, 1)))
    return arms


def match_warm_start(feature_id: jax.Array, old_feature_id: jax.Array, impulse: jax.Array) -> jax.Array:
    """Impulses (K, 2, n, E) of contacts by feature id: those of the last step (L, 2, n, E) with the same id, or 0."""
    same = (feature_id[:, None] == old_feature_id[None]) & (feature_id[:, None] > 0)
    return fold(jnp.add, (same[:, number, None] * old for number, old in enumerate(impulse)))


def warm_start(rows: ContactRows, qvel: jax.Array, impulse: jax.Array) -> jax.Array:
    """Generalized velocity after the impulses (K, 2, n, E) of the last step."""
    return (
        fold(jnp.add, (rows.inv_mass_jacobian[i][k] * each for k, both in enumerate(impulse) for i, each in enumerate(both)))
        + qvel
    )


def _new_impulses(old: jax.Array, inv_effective_mass: jax.Array, speed: jax.Array, limit: jax.Array | None) -> jax.Array:
    """Accumulated impulse that stops `speed`, clamped to [-limit, limit], or to nonnegative values if `limit` is None."""
    new = old - speed / inv_effective_mass  # XLA computes a quotient once, a product once per use
    return jnp.maximum(new, 0.0) if limit is None else jnp.clip(new, -limit, limit)


def solve_ground_contacts(rows: ContactRows, qvel: jax.Array, impulse: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """One sweep over the ground contacts: friction, then normal impulse. `impulse` has K arrays (2, n, E)."""
    impulse = list(impulse)
    for k in range(len(impulse)):
        old = impulse[k]
        limit = rows.friction[k] * old[1]
        new = []
        for i, bound in enumerate((limit, None)):
            speed = (rows.jacobian[i][k] * qvel).sum(0)
            new.append(_new_impulses(old[i], rows.inv_effective_mass[i, k], speed, bound))
            qvel = qvel + rows.inv_mass_jacobian[i][k] * (new[i] - old[i])
        impulse[k] = jnp.stack(new)
    return qvel, impulse


class PackageRows(NamedTuple):
    """Jacobian rows of contacts between walkers and the package, (..., 2 rows, 2 points, n, E).

    Attributes:
        walker: the walkers' part.
        jacobian: (3, 2, 2, n, E), the package's part of the jacobian.
        inv_mass_jacobian: (3, 2, 2, n, E), change of the package's velocity per unit impulse.
        inv_effective_mass: (2, 2, n, E). Each walker in contact counts with an equal share of the package (mass splitting). All
            walkers can then apply impulses at the same time, and the iterations still converge.
    """

    walker: ContactRows
    jacobian: jax.Array
    inv_mass_jacobian: jax.Array
    inv_effective_mass: jax.Array


def make_package_rows(articulation: Articulation, points: ContactPoints, r: Vector, package: model.Package) -> PackageRows:
    """Makes the rows of contacts with the package. Their points are at `r` (2, n, E) from its centre of mass."""
    walker = make_contact_rows(articulation, points)
    normal = points.normal
    directions = (normal[1], -normal[0]), normal
    jacobian = jnp.stack([jnp.stack([-d[0], -d[1], -cross(r, d)]) for d in directions], 1)
    inv_mass = single([1 / package.mass, 1 / package.mass, 1 / package.inertia]).reshape(-1, 1, 1, 1, 1)
    inv_mass_jacobian = jacobian * inv_mass
    carriers = jnp.maximum((points.feature_id > 0).any(0).sum(0), 1).astype(jnp.float32)
    inv_effective_mass = walker.inv_effective_mass + carriers * (jacobian * inv_mass_jacobian).sum(0)
    return PackageRows(walker, jacobian, inv_mass_jacobian, inv_effective_mass)


def solve_package_contacts(
    rows: PackageRows, qvel: jax.Array, package: list[jax.Array], impulse: list[jax.Array]
) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
    """One sweep over the contacts with the package, for all walkers at once. `package` is its velocity, three arrays (E,)."""
    package, impulse = list(package), list(impulse)
    for k in range(len(impulse)):
        old = impulse[k]
        limit = rows.walker.friction[k] * old[1]
        new = []
        for i, bound in enumerate((limit, None)):
            its_speed = sum(
                (jacobian[i, k] * value for jacobian, value in zip(rows.jacobian, package, strict=True)), jnp.zeros(())
            )
            speed = (rows.walker.jacobian[i][k] * qvel).sum(0) + its_speed
            new.append(_new_impulses(old[i], rows.inv_effective_mass[i, k], speed, bound))
            change = new[i] - old[i]
            qvel = qvel + rows.walker.inv_mass_jacobian[i][k] * change
            package = [value + (rows.inv_mass_jacobian[c, i, k] * change).sum(0) for c, value in enumerate(package)]
        impulse[k] = jnp.stack(new)
    return qvel, package, impulse


def pad_rows(rows: ContactRows, before: int, after: int) -> ContactRows:
    """Pads rows of pairs of neighbours with zeros, `before` and `after` the pairs, to rows of all walkers."""
    return jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(before, after), (0, 0)]), rows)


def solve_neighbour_contacts(
    left: ContactRows, right: ContactRows, inv_effective_mass: jax.Array, qvel: jax.Array, impulse: list[jax.Array]
) -> tuple[jax.Array, list[jax.Array]]:
    """One sweep over the contacts between neighbours, for all pairs at the same time.

    Args:
        left: rows of each walker as the left one of a pair; zeros for the last walker.
        right: rows of each walker as the right one of a pair; zeros for the first walker.
        inv_effective_mass: (2 rows, 2 points, n - 1, E). Walkers count with half their mass (mass splitting).
        qvel: (7, n, E), generalized velocity.
        impulse: two arrays (2 rows, n - 1, E), one per point.
    """
    impulse = list(impulse)
    for k in range(len(impulse)):
        old = impulse[k]
        limit = left.friction[k, :-1] * old[1]
        new = []
        for i, bound in enumerate((limit, None)):
            speed = (left.jacobian[i][k] * qvel).sum(0)[:-1] + (right.jacobian[i][k] * qvel).sum(0)[1:]
            new.append(_new_impulses(old[i], inv_effective_mass[i, k], speed, bound))
            change = new[i] - old[i]
            onto_left, onto_right = jnp.pad(change, ((0, 1), (0, 0))), jnp.pad(change, ((1, 0), (0, 0)))
            qvel = qvel + left.inv_mass_jacobian[i][k] * onto_left + right.inv_mass_jacobian[i][k] * onto_right
        impulse[k] = jnp.stack(new)
    return qvel, impulse


class Side(NamedTuple):
    """One of two bodies in contact: its displacement (x, y, angle) since contact detection, and its arm to the point then."""

    moved: tuple[jax.Array, jax.Array, jax.Array]
    r: Vector


class Overlap(NamedTuple):
    """Contact geometry at the current poses of two bodies.

    Attributes:
        normal: from the first to the second body.
        arms: from the centre of mass of each body to the point.
        separation: negative where the skins overlap.
    """

    normal: Vector
    arms: tuple[Vector, Vector]
    separation: jax.Array


def turned(r: Vector, angle: jax.Array) -> Vector:
    """Rotates `r` by a small angle, with Taylor polynomials of the cosine and the sine."""
    square = angle * angle
    cos, sin = 1 - square * (0.5 - square * (1 / 24)), angle * (1 - square * (1 / 6 - square * (1 / 120)))
    return cos * r[0] - sin * r[1], sin * r[0] + cos * r[1]


def overlap(normal: Vector, separation: jax.Array, reference_is_second: jax.Array, first: Side, second: Side) -> Overlap:
    """Contact geometry after both bodies have moved, as in Box2D's b2PositionSolverManifold.

    The reference side rotates with its body. The contact point is fixed to the other body.
    """
    lift = 0.5 * jnp.where(reference_is_second, -1.0, 1.0) * (separation + COLLISION_MARGIN)
    arms = [(side.r[0] + lift * normal[0], side.r[1] + lift * normal[1]) for side in (first, second)]
    places, points = [], []
    for (x, y, turn), r in zip((first.moved, second.moved), arms, strict=True):
        along = turned(r, turn)
        places.append((x - r[0], y - r[1]))  # relative to the original contact point
        points.append((x - r[0] + along[0], y - r[1] + along[1]))
    point = (
        jnp.where(reference_is_second, points[0][0], points[1][0]),
        jnp.where(reference_is_second, points[0][1], points[1][1]),
    )
    now = turned(normal, jnp.where(reference_is_second, second.moved[2], first.moved[2]))
    one, other = minus(point, places[0]), minus(point, places[1])
    way = jnp.where(reference_is_second, dot(normal, arms[1]) - dot(now, other), dot(now, one) - dot(normal, arms[0]))
    return Overlap(now, (one, other), separation + way)


def _feature(points: ContactPoints) -> tuple[Vector, jax.Array, jax.Array]:
    return points.normal, points.separation, points.reference_is_second


def moved_members(points: ContactPoints, moved: jax.Array) -> Side:
    """Selects the displacements of the bodies in contact from those of all bodies (3, 5, n, E)."""
    x, y, turn = fold(jnp.add, (points.one_hot[b] * moved[:, b, None] for b in range(NUM_BODIES)))
    return Side((x, y, turn), points.r)


def position_correction(separation: jax.Array, used: jax.Array, share: float) -> jax.Array:
    """Distance by which a contact is corrected: the factor `share` of the overlap beyond `LINEAR_SLOP`, clamped."""
    return jnp.where(used, -jnp.clip(share * (separation + LINEAR_SLOP), -MAX_LINEAR_CORRECTION, 0.0), 0.0)


def moves(points: ContactPoints, push: Vector, torque: jax.Array) -> jax.Array:
    """Displacements of bodies (3, 5, n, E) by position impulses `push` (K, n, E) and their torques, all applied at once."""
    change = jnp.stack([points.inv_mass * push[0], points.inv_mass * push[1], points.inv_inertia * torque], 1)
    return jnp.stack([fold(jnp.add, one_hot[:, None] * change) for one_hot in points.one_hot], 1)


def _lowest(separation: jax.Array, points: ContactPoints) -> jax.Array:
    return jnp.where(points.feature_id > 0, separation, 0.0).min(0, initial=0.0)


def correct_ground_contacts(points: ContactPoints, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position correction of ground contacts after bodies `moved` (3, 5, n, E): displacements, and lowest separation (n, E)."""
    zero, used = jnp.zeros_like(points.separation), points.feature_id > 0
    found = overlap(*_feature(points), Side((zero, zero, zero), (zero, zero)), moved_members(points, moved))
    torque = cross(found.arms[1], found.normal)
    inv_effective_mass = points.inv_mass + points.inv_inertia * torque**2
    push = position_correction(found.separation, used, BAUMGARTE) / jnp.where(used, inv_effective_mass, 1.0)
    pushes = found.normal[0] * push, found.normal[1] * push
    return moves(points, pushes, torque * push), _lowest(found.separation, points)


def correct_package_contacts(
    points: ContactPoints, r: Vector, package: model.Package, moved: jax.Array, package_moved: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `correct_ground_contacts` for contacts with the package, whose displacement (3, E) is the second result."""
    x, y, turn = package_moved
    found = overlap(*_feature(points), Side((x, y, turn), r), moved_members(points, moved))
    first_torque, torque = (cross(each, found.normal) for each in found.arms)
    inv_mass, inv_inertia = 1 / package.mass, 1 / package.inertia
    inv_effective_mass = points.inv_mass + points.inv_inertia * torque**2 + inv_mass + inv_inertia * first_torque**2
    push = position_correction(found.separation, points.feature_id > 0, BAUMGARTE) / inv_effective_mass
    pushes = found.normal[0] * push, found.normal[1] * push
    its_change = inv_mass * pushes[0], inv_mass * pushes[1], inv_inertia * first_torque * push
    its_move = -jnp.stack([value.sum((0, 1)) for value in its_change])
    return moves(points, pushes, torque * push), its_move, _lowest(found.separation, points)


def correct_neighbour_contacts(left: ContactPoints, right: ContactPoints, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `correct_ground_contacts` for contacts of the `left` and the `right` walker of each pair of neighbours."""
    used = right.feature_id > 0
    sides = moved_members(left, moved[:, :, :-1]), moved_members(right, moved[:, :, 1:])
    found = overlap(*_feature(right), *sides)
    torques = [cross(r, found.normal) for r in found.arms]
    inv_effective_mass = sum(
        side.inv_mass + side.inv_inertia * torque**2 for side, torque in zip((left, right), torques, strict=True)
    )
    push = position_correction(found.separation, used, BAUMGARTE / 2) / jnp.where(used, inv_effective_mass, 1.0)
    pushes = found.normal[0] * push, found.normal[1] * push
    backwards = moves(left, (-pushes[0], -pushes[1]), -torques[0] * push)
    change = jnp.zeros_like(moved).at[:, :, :-1].add(backwards).at[:, :, 1:].add(moves(right, pushes, torques[1] * push))
    deepest = _lowest(found.separation, right)
    return change, jnp.zeros(moved.shape[2:]).at[:-1].min(deepest).at[1:].min(deepest)
