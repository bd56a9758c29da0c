"""Contact constraints in generalized velocities: normal and friction impulses, and position correction of overlaps.

Impulses accumulate over projected Gauss-Seidel iterations and are clamped (Catto, Iterative Dynamics with Temporal Coherence,
2005). Contacts with the package, and those between neighbours, are solved for all walkers at once by mass splitting (Tonge,
Benevolenski and Voroshilov, Mass Splitting for Jitter-Free Parallel Rigid Body Simulation, 2012). Overlaps are corrected as by
Box2D's b2ContactSolver::SolvePositionConstraints. Vectors and axes are as in `geometry`.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model
from envs_jax.multiwalker.model import COLLISION_MARGIN, NUM_BODIES, single
from envs_jax.multiwalker.physics.articulation import LEVER, LINEAR_SLOP, Articulation, inverse_mass_product
from envs_jax.multiwalker.physics.contact_detection import ContactPoints, onto_left, onto_right
from envs_jax.multiwalker.physics.geometry import Motion, cross, dot, joined, motion, rotate, tangent

BAUMGARTE, MAX_LINEAR_CORRECTION = 0.2, 0.2
MIN_SEPARATION = -3 * LINEAR_SLOP
V = TypeVar("V")


class ContactRows(NamedTuple):
    """Jacobian rows of K contacts of n walkers: 2 per contact, along the tangent and along the normal."""

    jacobian: jax.Array  # (2, K, 7, n, E). Its product with the generalized velocity is the speed along the row.
    inv_mass_jacobian: jax.Array  # (2, K, 7, n, E), change of the generalized velocity per unit impulse
    inv_effective_mass: jax.Array  # (2, K, n, E), change of the row's speed per unit impulse. It is infinite in unused slots.
    friction: jax.Array  # (K, n, E), coefficient of friction


def make_contact_rows(articulation: Articulation, points: ContactPoints) -> ContactRows:
    """Makes the jacobian rows of contacts."""

    def make_jacobian(offset: jax.Array, points: ContactPoints) -> jax.Array:
        direction = jnp.stack([tangent(points.normal), points.normal], 1)
        levers = jnp.asarray(single(LEVER)[..., None, None, None])
        lever = fold(jnp.add, (levers[b] * points.one_hot[b] for b in range(NUM_BODIES)))
        r = lever * offset[:, :, None] + points.one_hot * points.r[:, None]
        return jnp.concatenate([direction, cross(r[:, :, None], direction[:, None])])

    jacobian = separately(make_jacobian, articulation.offset, points)
    response = inverse_mass_product(articulation, jacobian[:2], jacobian[2:])
    inv_effective_mass = fold(jnp.add, jacobian * response)
    inv_effective_mass = jnp.where(inv_effective_mass > 1e-9, inv_effective_mass, jnp.inf)
    jacobian, response = (jnp.moveaxis(each, 0, 2) for each in (jacobian, response))
    return ContactRows(jacobian, response, inv_effective_mass, points.friction)


def match_warm_start(feature_id: jax.Array, old_feature_id: jax.Array, impulse: jax.Array) -> jax.Array:
    """Impulses (K, 2, n, E) of contacts by feature id: those of the last step (L, 2, n, E) with the same id, or 0."""
    same = (feature_id[:, None] == old_feature_id[None]) & (feature_id[:, None] > 0)
    return fold(jnp.add, (same[:, number, None] * old for number, old in enumerate(impulse)))


def warm_start(rows: ContactRows, qvel: jax.Array, impulse: jax.Array) -> jax.Array:
    """Generalized velocity after the impulses (K, 2, n, E) of the last step."""
    pairs = ((i, k) for k in range(len(impulse)) for i in (0, 1))
    return fold(jnp.add, (rows.inv_mass_jacobian[i, k] * impulse[k, i] for i, k in pairs)) + qvel


def solve_contacts(
    velocity: V,
    impulse: list[jax.Array],
    friction: jax.Array,
    inv_effective_mass: jax.Array,
    speed: Callable[[V, int, int], jax.Array],
    apply: Callable[[V, int, int, jax.Array], V],
) -> tuple[V, list[jax.Array]]:
    """One iteration over K contacts, for each the friction impulse and then the normal impulse.

    An accumulated friction impulse is clamped to the friction cone, an accumulated normal impulse to nonnegative values.

    Args:
        velocity: velocities of all bodies in contact.
        impulse: K accumulated impulses (2, n, E), along the tangent and along the normal.
        friction: (K, n, E), coefficient of friction.
        inv_effective_mass: (2, K, n, E).
        speed: (velocity, i, k) -> speed of contact k along its tangent (i = 0) or its normal (i = 1).
        apply: (velocity, i, k, impulse) -> velocity after an impulse there.
    """
    impulse = list(impulse)
    for k, old in enumerate(impulse):
        limit, new = friction[k] * old[1], []
        for i in (0, 1):
            # XLA computes a quotient once, a product once per use.
            free = old[i] - speed(velocity, i, k) / inv_effective_mass[i, k]
            new.append(jnp.clip(free, -limit, limit) if i == 0 else jnp.maximum(free, 0.0))
            velocity = apply(velocity, i, k, new[i] - old[i])
        impulse[k] = jnp.stack(new)
    return velocity, impulse


def solve_ground_contacts(rows: ContactRows, qvel: jax.Array, impulse: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """One iteration over the ground contacts."""
    return solve_contacts(
        qvel,
        impulse,
        rows.friction,
        rows.inv_effective_mass,
        speed=lambda qvel, i, k: (rows.jacobian[i, k] * qvel).sum(0),
        apply=lambda qvel, i, k, change: qvel + rows.inv_mass_jacobian[i, k] * change,
    )


class PackageRows(NamedTuple):
    """Jacobian rows of contacts between walkers and the package.

    Each walker in contact counts with an equal share of the package (mass splitting). All walkers can then apply impulses at
    the same time, and the iterations still converge.
    """

    walker: ContactRows  # the walkers' part
    jacobian: jax.Array  # (3, 2 rows, 2 points, n, E), the package's part of the jacobian
    inv_mass_jacobian: jax.Array  # (3, 2, 2, n, E), change of the package's velocity per unit impulse
    inv_effective_mass: jax.Array  # (2, 2, n, E)


def make_package_rows(articulation: Articulation, points: ContactPoints, r: jax.Array, package: model.Package) -> PackageRows:
    """Makes the rows of contacts with the package. Their points are at `r` (2, 2 points, n, E) from its centre of mass."""
    walker = make_contact_rows(articulation, points)
    direction = jnp.stack([tangent(points.normal), points.normal], 1)
    jacobian = -jnp.concatenate([direction, cross(r[:, None], direction)[None]])
    inv_mass = single([1 / package.mass, 1 / package.mass, 1 / package.inertia]).reshape(-1, 1, 1, 1, 1)
    response = jacobian * inv_mass
    carriers = jnp.maximum(points.used.any(0).sum(0), 1).astype(jnp.float32)
    inv_effective_mass = walker.inv_effective_mass + carriers * (jacobian * response).sum(0)
    return PackageRows(walker, jacobian, response, inv_effective_mass)


def solve_package_contacts(
    rows: PackageRows, qvel: jax.Array, package: list[jax.Array], impulse: list[jax.Array]
) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
    """One iteration over the contacts with the package, for all walkers at once. Its velocity is three arrays (E,)."""

    def speed(velocity: tuple[jax.Array, list[jax.Array]], i: int, k: int) -> jax.Array:
        qvel, package = velocity
        its_speed = fold(jnp.add, (rows.jacobian[c, i, k] * value for c, value in enumerate(package)))
        return (rows.walker.jacobian[i, k] * qvel).sum(0) + its_speed

    def apply(
        velocity: tuple[jax.Array, list[jax.Array]], i: int, k: int, change: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        qvel, package = velocity
        package = [value + (rows.inv_mass_jacobian[c, i, k] * change).sum(0) for c, value in enumerate(package)]
        return qvel + rows.walker.inv_mass_jacobian[i, k] * change, package

    friction, inv_effective_mass = rows.walker.friction, rows.inv_effective_mass
    velocity, impulse = solve_contacts((qvel, package), impulse, friction, inv_effective_mass, speed, apply)
    return *velocity, impulse


class NeighbourRows(NamedTuple):
    """Jacobian rows of contacts between neighbours, at the left and at the right walker of each pair."""

    left: ContactRows  # rows of each walker as the left one of a pair; zeros for the last walker
    right: ContactRows  # rows of each walker as the right one of a pair; zeros for the first walker
    inv_effective_mass: jax.Array  # (2 rows, 2 points, n - 1, E). Walkers count with half their mass (mass splitting).


def make_neighbour_rows(articulation: Articulation, left: ContactPoints, right: ContactPoints) -> NeighbourRows:
    """Makes the rows of contacts (2, n - 1, E) of the left and the right walkers of pairs of neighbours."""

    def make(walkers: slice, points: ContactPoints) -> ContactRows:
        return separately(make_contact_rows, jax.tree.map(lambda leaf: leaf[:, :, walkers], articulation), points)

    of_left, of_right = make(slice(None, -1), left), make(slice(1, None), right)
    inv_effective_mass = 2 * (of_left.inv_effective_mass + of_right.inv_effective_mass)
    return NeighbourRows(jax.tree.map(onto_left, of_left), jax.tree.map(onto_right, of_right), inv_effective_mass)


def solve_neighbour_contacts(
    rows: NeighbourRows, qvel: jax.Array, impulse: list[jax.Array]
) -> tuple[jax.Array, list[jax.Array]]:
    """One iteration over the contacts between neighbours, for all pairs at once. `impulse` has two arrays (2, n - 1, E)."""
    left, right = rows.left, rows.right

    def speed(qvel: jax.Array, i: int, k: int) -> jax.Array:
        return (left.jacobian[i, k] * qvel).sum(0)[:-1] + (right.jacobian[i, k] * qvel).sum(0)[1:]

    def apply(qvel: jax.Array, i: int, k: int, change: jax.Array) -> jax.Array:
        return qvel + left.inv_mass_jacobian[i, k] * onto_left(change) + right.inv_mass_jacobian[i, k] * onto_right(change)

    return solve_contacts(qvel, impulse, left.friction[:, :-1], rows.inv_effective_mass, speed, apply)


class Side(NamedTuple):
    """One of two bodies in contact."""

    moved: Motion  # displacement since contact detection
    r: jax.Array  # (2, ...), from its centre of mass to the contact point at contact detection
    inv_mass: jax.Array  # 1 / mass
    inv_inertia: jax.Array  # 1 / moment of inertia


def ground_side(like: jax.Array) -> Side:
    """The ground as the first side of contacts of the shape of `like`. It never moves."""
    zero, vector = jnp.zeros_like(like), jnp.zeros((2, *like.shape))
    return Side(Motion(vector, zero), vector, zero, zero)


class Overlap(NamedTuple):
    """Contact geometry at the current poses of two bodies."""

    normal: jax.Array  # (2, ...), from the first to the second body
    r: tuple[jax.Array, jax.Array]  # from the centre of mass of each body to the point, two vectors (2, ...)
    separation: jax.Array  # negative where the skins overlap


def turned(vector: jax.Array, angle: jax.Array) -> jax.Array:
    """Rotates `vector` by a small angle, with Taylor polynomials of the cosine and the sine."""
    square = angle * angle
    cos, sin = 1 - square * (0.5 - square * (1 / 24)), angle * (1 - square * (1 / 6 - square * (1 / 120)))
    return rotate(cos, sin, vector)


def overlap(normal: jax.Array, separation: jax.Array, reference_is_second: jax.Array, first: Side, second: Side) -> Overlap:
    """Contact geometry after both bodies have moved, as in Box2D's b2PositionSolverManifold.

    The reference side rotates with its body. The contact point is fixed to the other body.
    """
    lift = 0.5 * jnp.where(reference_is_second, -1.0, 1.0) * (separation + COLLISION_MARGIN)
    old = [side.r + lift * normal for side in (first, second)]
    centre = [side.moved.linear - r for side, r in zip((first, second), old, strict=True)]  # relative to the old contact point
    points = [at + turned(r, side.moved.angular) for side, r, at in zip((first, second), old, centre, strict=True)]
    point = jnp.where(reference_is_second, points[0], points[1])
    now = turned(normal, jnp.where(reference_is_second, second.moved.angular, first.moved.angular))
    one, other = point - centre[0], point - centre[1]
    change = jnp.where(reference_is_second, dot(normal, old[1]) - dot(now, other), dot(now, one) - dot(normal, old[0]))
    return Overlap(now, (one, other), separation + change)


def position_correction(separation: jax.Array, used: jax.Array, factor: float) -> jax.Array:
    """Distance by which a contact is corrected: the Baumgarte factor times the overlap beyond `LINEAR_SLOP`, clamped."""
    return jnp.where(used, -jnp.clip(factor * (separation + LINEAR_SLOP), -MAX_LINEAR_CORRECTION, 0.0), 0.0)


class Correction(NamedTuple):
    """Position correction of contacts: displacements of both bodies, and separation before, 0 for unused points."""

    first: Motion
    second: Motion
    separation: jax.Array


def correct_contact(
    normal: jax.Array,
    separation: jax.Array,
    reference_is_second: jax.Array,
    used: jax.Array,
    first: Side,
    second: Side,
    factor: float = BAUMGARTE,
) -> Correction:
    """Corrects the overlap of contacts by displacements of both bodies along the normal."""
    found = overlap(normal, separation, reference_is_second, first, second)
    torques = [cross(r, found.normal) for r in found.r]
    sides = list(zip((first, second), torques, strict=True))
    inv_effective_mass = fold(jnp.add, (side.inv_mass + side.inv_inertia * torque**2 for side, torque in sides))
    impulse = position_correction(found.separation, used, factor) / jnp.where(used, inv_effective_mass, 1.0)
    impulses = -impulse, impulse
    changes = [
        Motion(side.inv_mass * found.normal * each, side.inv_inertia * torque * each)
        for (side, torque), each in zip(sides, impulses, strict=True)
    ]
    return Correction(changes[0], changes[1], jnp.where(used, found.separation, 0.0))


def _side(points: ContactPoints, moved: jax.Array) -> Side:
    """The bodies in contact, where all bodies have `moved` (3, 5, n, E)."""
    chosen = fold(jnp.add, (points.one_hot[b] * moved[:, b, None] for b in range(NUM_BODIES)))
    return Side(motion(chosen), points.r, points.inv_mass, points.inv_inertia)


def _spread(points: ContactPoints, change: Motion) -> jax.Array:
    """Displacements of all bodies (3, 5, n, E) from those of bodies in contact (K, n, E), all applied at once."""
    values = joined(change)
    return jnp.stack([fold(jnp.add, jnp.moveaxis(each * values, 1, 0)) for each in points.one_hot], 1)


def _correct(points: ContactPoints, first: Side, second: Side, factor: float = BAUMGARTE) -> Correction:
    at = points.normal, points.separation, points.reference_is_second, points.used
    return correct_contact(*at, first, second, factor)


def correct_ground_contacts(points: ContactPoints, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position correction of ground contacts after bodies `moved` (3, 5, n, E): displacements, and lowest separation (n, E)."""
    found = _correct(points, ground_side(points.separation), _side(points, moved))
    return _spread(points, found.second), found.separation.min(0, initial=0.0)


def correct_package_contacts(
    points: ContactPoints, r: jax.Array, moved: jax.Array, package_moved: jax.Array, package: model.Package
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `correct_ground_contacts` for contacts with the package, whose displacement (3, E) is the second result."""
    inv_mass, inv_inertia = (jnp.full_like(points.inv_mass, 1 / each) for each in (package.mass, package.inertia))
    found = _correct(points, Side(motion(package_moved[:, None, None]), r, inv_mass, inv_inertia), _side(points, moved))
    package_change = jnp.concatenate([found.first.linear.sum((1, 2)), found.first.angular.sum((0, 1))[None]])
    return _spread(points, found.second), package_change, found.separation.min(0, initial=0.0)


def correct_neighbour_contacts(left: ContactPoints, right: ContactPoints, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `correct_ground_contacts` for contacts of the `left` and the `right` walker of each pair of neighbours."""
    found = _correct(right, _side(left, moved[:, :, :-1]), _side(right, moved[:, :, 1:]), BAUMGARTE / 2)
    change = onto_left(_spread(left, found.first)) + onto_right(_spread(right, found.second))
    deepest = found.separation.min(0, initial=0.0)
    return change, jnp.minimum(onto_left(deepest), onto_right(deepest))
