"""Contact constraints in generalized velocities: normal and friction impulses, and position correction of overlaps.

The generalized velocity of a walker is described in `articulation`. Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import model
from envs_jax.multiwalker.model import NUM_BODIES, SKIN, single
from envs_jax.multiwalker.physics.articulation import Tree, respond
from envs_jax.multiwalker.physics.contact_detection import Contacts
from envs_jax.multiwalker.physics.manifold import Vector, cross, dot, minus

PUSH, PUSH_SLOP, LARGEST_PUSH = 0.2, 0.005, 0.2
NEAR_ENOUGH = -0.015


class Rows(NamedTuple):
    """Jacobian rows of K contacts of n walkers: 2 per contact, along the tangent and along the normal.

    Attributes:
        pull: [2][K] of (7, n, E), jacobian. Its product with the generalized velocity is the speed along the row.
        response: [2][K] of (7, n, E), change of the generalized velocity per unit impulse.
        gain: (2, K, n, E), inverse effective mass: change of the row's speed per unit impulse. It is infinite in unused slots.
        friction: (K, n, E), coefficient of friction.
    """

    pull: list[list[jax.Array]]
    response: list[list[jax.Array]]
    gain: jax.Array
    friction: jax.Array


def make_rows(tree: Tree, contacts: Contacts) -> Rows:
    """Makes the jacobian rows of contacts."""

    def pulls(tree: Tree, contacts: Contacts) -> list[jax.Array]:
        x, y = contacts.normal
        direction = jnp.stack([y, x]), jnp.stack([-x, y])
        return [*direction, *(cross(arm, direction) for arm in _arms(tree, contacts))]

    pull = separately(pulls, tree, contacts)
    response = respond(tree, (pull[0], pull[1]), pull[2:])
    pull = jnp.stack(pull)
    gain = fold(jnp.add, pull * response)
    gain = jnp.where(gain > 1e-9, gain, jnp.inf)
    pull, response = ([list(jnp.moveaxis(row, 1, 0)) for row in jnp.moveaxis(of, 1, 0)] for of in (pull, response))
    return Rows(pull, response, gain, contacts.friction)


def _arms(tree: Tree, contacts: Contacts) -> list[Vector]:
    """For each of the five angular velocities, its arms to the contact points: vectors (K, n, E)."""
    arms = []
    for j in range(NUM_BODIES):
        moved = [(contacts.member[b], arm) for b in range(NUM_BODIES) if (arm := tree.arms[b][j]) is not None]
        own = contacts.member[j]
        arms.append(tuple(own * contacts.arm[i] + sum(m * arm[i] for m, arm in moved) for i in (0, 1)))
    return arms


def find_again(code: jax.Array, old_code: jax.Array, impulse: jax.Array) -> jax.Array:
    """Impulses (K, 2, n, E) of contacts by feature id: those of the last step (L, 2, n, E) with the same id, or 0."""
    same = (code[:, None] == old_code[None]) & (code[:, None] > 0)
    return fold(jnp.add, (same[:, number, None] * old for number, old in enumerate(impulse)))


def warm_start(rows: Rows, free: jax.Array, impulse: jax.Array) -> jax.Array:
    """Generalized velocity after the impulses (K, 2, n, E) of the last step."""
    return fold(jnp.add, (rows.response[i][k] * each for k, both in enumerate(impulse) for i, each in enumerate(both))) + free


def _new_impulses(old: jax.Array, gain: jax.Array, speed: jax.Array, limit: jax.Array | None) -> jax.Array:
    """Accumulated impulse that stops `speed`, clamped to [-limit, limit], or to nonnegative values if `limit` is None."""
    new = old - speed / gain  # XLA computes a quotient once, a product once per use
    return jnp.maximum(new, 0.0) if limit is None else jnp.clip(new, -limit, limit)


def sweep_ground(rows: Rows, free: jax.Array, impulse: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """One sweep over the ground contacts: friction, then normal impulse. `impulse` has K arrays (2, n, E)."""
    impulse = list(impulse)
    for k in range(len(impulse)):
        old = impulse[k]
        limit = rows.friction[k] * old[1]
        new = []
        for i, bound in enumerate((limit, None)):
            speed = (rows.pull[i][k] * free).sum(0)
            new.append(_new_impulses(old[i], rows.gain[i, k], speed, bound))
            free = free + rows.response[i][k] * (new[i] - old[i])
        impulse[k] = jnp.stack(new)
    return free, impulse


class PackageRows(NamedTuple):
    """Jacobian rows of contacts between walkers and the package, (..., 2 rows, 2 points, n, E).

    Attributes:
        walker: the walkers' part.
        pull: (3, 2, 2, n, E), the package's part of the jacobian.
        response: (3, 2, 2, n, E), change of the package's velocity per unit impulse.
        gain: (2, 2, n, E), inverse effective mass. Each walker in contact counts with an equal share of the package (mass
            splitting). All walkers can then apply impulses at the same time, and the sweeps still converge.
    """

    walker: Rows
    pull: jax.Array
    response: jax.Array
    gain: jax.Array


def make_package_rows(tree: Tree, contacts: Contacts, arm: Vector, package: model.Package) -> PackageRows:
    """Makes the rows of contacts with the package. Their points are at `arm` (2, n, E) from its centre of mass."""
    walker = make_rows(tree, contacts)
    normal = contacts.normal
    directions = (normal[1], -normal[0]), normal
    pull = jnp.stack([jnp.stack([-d[0], -d[1], -cross(arm, d)]) for d in directions], 1)
    light = single([1 / package.mass, 1 / package.mass, 1 / package.inertia]).reshape(-1, 1, 1, 1, 1)
    response = pull * light
    carriers = jnp.maximum((contacts.code > 0).any(0).sum(0), 1).astype(jnp.float32)
    gain = walker.gain + carriers * (pull * response).sum(0)
    return PackageRows(walker, pull, response, gain)


def sweep_package(
    rows: PackageRows, free: jax.Array, package: list[jax.Array], impulse: list[jax.Array]
) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
    """One sweep over the contacts with the package, for all walkers at once. `package` is its velocity, three arrays (E,)."""
    package, impulse = list(package), list(impulse)
    for k in range(len(impulse)):
        old = impulse[k]
        limit = rows.walker.friction[k] * old[1]
        new = []
        for i, bound in enumerate((limit, None)):
            its_speed = sum((pull[i, k] * value for pull, value in zip(rows.pull, package, strict=True)), jnp.zeros(()))
            speed = (rows.walker.pull[i][k] * free).sum(0) + its_speed
            new.append(_new_impulses(old[i], rows.gain[i, k], speed, bound))
            change = new[i] - old[i]
            free = free + rows.walker.response[i][k] * change
            package = [value + (rows.response[c, i, k] * change).sum(0) for c, value in enumerate(package)]
        impulse[k] = jnp.stack(new)
    return free, package, impulse


def pad_rows(rows: Rows, before: int, after: int) -> Rows:
    """Pads rows of pairs of neighbours with zeros, `before` and `after` the pairs, to rows of all walkers."""
    return jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(before, after), (0, 0)]), rows)


def sweep_neighbours(
    left: Rows, right: Rows, gain: jax.Array, free: jax.Array, impulse: list[jax.Array]
) -> tuple[jax.Array, list[jax.Array]]:
    """One sweep over the contacts between neighbours, for all pairs at the same time.

    Args:
        left: rows of each walker as the left one of a pair; zeros for the last walker.
        right: rows of each walker as the right one of a pair; zeros for the first walker.
        gain: (2 rows, 2 points, n - 1, E), inverse effective mass. Walkers count with half their mass (mass splitting).
        free: (7, n, E), generalized velocity.
        impulse: two arrays (2 rows, n - 1, E), one per point.
    """
    impulse = list(impulse)
    for k in range(len(impulse)):
        old = impulse[k]
        limit = left.friction[k, :-1] * old[1]
        new = []
        for i, bound in enumerate((limit, None)):
            speed = (left.pull[i][k] * free).sum(0)[:-1] + (right.pull[i][k] * free).sum(0)[1:]
            new.append(_new_impulses(old[i], gain[i, k], speed, bound))
            change = new[i] - old[i]
            onto_left, onto_right = jnp.pad(change, ((0, 1), (0, 0))), jnp.pad(change, ((1, 0), (0, 0)))
            free = free + left.response[i][k] * onto_left + right.response[i][k] * onto_right
        impulse[k] = jnp.stack(new)
    return free, impulse


class Side(NamedTuple):
    """One of two bodies in contact: its displacement (x, y, angle) since contact detection, and its arm to the point then."""

    moved: tuple[jax.Array, jax.Array, jax.Array]
    arm: Vector


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


def turned(arm: Vector, angle: jax.Array) -> Vector:
    """Rotates `arm` by a small angle, with Taylor polynomials of the cosine and the sine."""
    square = angle * angle
    cos, sin = 1 - square * (0.5 - square * (1 / 24)), angle * (1 - square * (1 / 6 - square * (1 / 120)))
    return cos * arm[0] - sin * arm[1], sin * arm[0] + cos * arm[1]


def overlap(normal: Vector, separation: jax.Array, by_second: jax.Array, first: Side, second: Side) -> Overlap:
    """Contact geometry after both bodies have moved, as in Box2D's b2PositionSolverManifold.

    The reference side rotates with its body. The contact point is fixed to the other body.
    """
    lift = 0.5 * jnp.where(by_second, -1.0, 1.0) * (separation + SKIN)
    arms = [(side.arm[0] + lift * normal[0], side.arm[1] + lift * normal[1]) for side in (first, second)]
    places, points = [], []
    for (x, y, turn), arm in zip((first.moved, second.moved), arms, strict=True):
        along = turned(arm, turn)
        places.append((x - arm[0], y - arm[1]))  # relative to the original contact point
        points.append((x - arm[0] + along[0], y - arm[1] + along[1]))
    point = jnp.where(by_second, points[0][0], points[1][0]), jnp.where(by_second, points[0][1], points[1][1])
    now = turned(normal, jnp.where(by_second, second.moved[2], first.moved[2]))
    one, other = minus(point, places[0]), minus(point, places[1])
    way = jnp.where(by_second, dot(normal, arms[1]) - dot(now, other), dot(now, one) - dot(normal, arms[0]))
    return Overlap(now, (one, other), separation + way)


def _feature(contacts: Contacts) -> tuple[Vector, jax.Array, jax.Array]:
    return contacts.normal, contacts.separation, contacts.by_second


def moved_members(contacts: Contacts, moved: jax.Array) -> Side:
    """Selects the displacements of the bodies in contact from those of all bodies (3, 5, n, E)."""
    x, y, turn = fold(jnp.add, (contacts.member[b] * moved[:, b, None] for b in range(NUM_BODIES)))
    return Side((x, y, turn), contacts.arm)


def push_of(separation: jax.Array, used: jax.Array, share: float) -> jax.Array:
    """Distance by which a contact is corrected: the Baumgarte factor `share` times the overlap beyond `PUSH_SLOP`, clamped."""
    return jnp.where(used, -jnp.clip(share * (separation + PUSH_SLOP), -LARGEST_PUSH, 0.0), 0.0)


def moves(contacts: Contacts, push: Vector, torque: jax.Array) -> jax.Array:
    """Displacements of bodies (3, 5, n, E) by position impulses `push` (K, n, E) and their torques, all applied at once."""
    change = jnp.stack([contacts.light * push[0], contacts.light * push[1], contacts.light_turn * torque], 1)
    return jnp.stack([fold(jnp.add, member[:, None] * change) for member in contacts.member], 1)


def _lowest(separation: jax.Array, contacts: Contacts) -> jax.Array:
    return jnp.where(contacts.code > 0, separation, 0.0).min(0, initial=0.0)


def push_from_ground(contacts: Contacts, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position correction of ground contacts after bodies `moved` (3, 5, n, E): displacements, and lowest separation (n, E)."""
    zero, used = jnp.zeros_like(contacts.separation), contacts.code > 0
    found = overlap(*_feature(contacts), Side((zero, zero, zero), (zero, zero)), moved_members(contacts, moved))
    torque = cross(found.arms[1], found.normal)
    gain = contacts.light + contacts.light_turn * torque**2
    push = push_of(found.separation, used, PUSH) / jnp.where(used, gain, 1.0)
    pushes = found.normal[0] * push, found.normal[1] * push
    return moves(contacts, pushes, torque * push), _lowest(found.separation, contacts)


def push_from_package(
    contacts: Contacts, arm: Vector, package: model.Package, moved: jax.Array, package_moved: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `push_from_ground` for contacts with the package. The second of three results is the package's displacement (3, E)."""
    x, y, turn = package_moved
    found = overlap(*_feature(contacts), Side((x, y, turn), arm), moved_members(contacts, moved))
    its_torque, torque = (cross(each, found.normal) for each in found.arms)
    light, light_turn = 1 / package.mass, 1 / package.inertia
    gain = contacts.light + contacts.light_turn * torque**2 + light + light_turn * its_torque**2
    push = push_of(found.separation, contacts.code > 0, PUSH) / gain
    pushes = found.normal[0] * push, found.normal[1] * push
    its_change = light * pushes[0], light * pushes[1], light_turn * its_torque * push
    its_move = -jnp.stack([value.sum((0, 1)) for value in its_change])
    return moves(contacts, pushes, torque * push), its_move, _lowest(found.separation, contacts)


def push_from_neighbours(left: Contacts, right: Contacts, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `push_from_ground` for contacts of the `left` and the `right` walker of each pair of neighbours."""
    used = right.code > 0
    sides = moved_members(left, moved[:, :, :-1]), moved_members(right, moved[:, :, 1:])
    found = overlap(*_feature(right), *sides)
    torques = [cross(arm, found.normal) for arm in found.arms]
    gain = sum(side.light + side.light_turn * torque**2 for side, torque in zip((left, right), torques, strict=True))
    push = push_of(found.separation, used, PUSH / 2) / jnp.where(used, gain, 1.0)
    pushes = found.normal[0] * push, found.normal[1] * push
    backwards = moves(left, (-pushes[0], -pushes[1]), -torques[0] * push)
    change = jnp.zeros_like(moved).at[:, :, :-1].add(backwards).at[:, :, 1:].add(moves(right, pushes, torques[1] * push))
    deepest = _lowest(found.separation, right)
    return change, jnp.zeros(moved.shape[2:]).at[:-1].min(deepest).at[1:].min(deepest)
