"""Contacts: impulses that keep points from going into each other and rub, and pushing apart what overlaps.

Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.batching import fold, separately
from envs_jax.multiwalker import body
from envs_jax.multiwalker.body import NUM_BODIES, SKIN, single
from envs_jax.multiwalker.collision import Vector, cross, dot, minus
from envs_jax.multiwalker.joints import Tree, respond
from envs_jax.multiwalker.touching import Contacts

PUSH, PUSH_SLOP, LARGEST_PUSH = 0.2, 0.005, 0.2
NEAR_ENOUGH = -0.015


class Rows(NamedTuple):
    """K contacts of n walkers, two rows each: along the surface, then along the normal.

    Attributes:
        pull: 2 times K of (7, n, E), a row's speed is its product with the free coordinates.
        response: 2 times K of (7, n, E), of the free coordinates to a unit impulse.
        gain: (2, K, n, E), of a row's speed to a unit impulse on the walker; infinite where there is nothing to push.
        friction: (K, n, E).
    """

    pull: list[list[jax.Array]]
    response: list[list[jax.Array]]
    gain: jax.Array
    friction: jax.Array


def make_rows(tree: Tree, contacts: Contacts) -> Rows:
    """The rows of contacts."""

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
    """What each of the five spins does to the points: vectors (K, n, E)."""
    arms = []
    for j in range(NUM_BODIES):
        moved = [(contacts.member[b], arm) for b in range(NUM_BODIES) if (arm := tree.arms[b][j]) is not None]
        own = contacts.member[j]
        arms.append(tuple(own * contacts.arm[i] + sum(m * arm[i] for m, arm in moved) for i in (0, 1)))
    return arms


def find_again(code: jax.Array, old_code: jax.Array, impulse: jax.Array) -> jax.Array:
    """The impulses (L, 2, n, E) of the points that are still there, for those that `code` (K, n, E) tells of now."""
    same = (code[:, None] == old_code[None]) & (code[:, None] > 0)
    return fold(jnp.add, (same[:, number, None] * old for number, old in enumerate(impulse)))


def warm_start(rows: Rows, free: jax.Array, impulse: jax.Array) -> jax.Array:
    """The free coordinates after impulses (K, 2, n, E)."""
    return fold(jnp.add, (rows.response[i][k] * each for k, both in enumerate(impulse) for i, each in enumerate(both))) + free


def _new_impulses(old: jax.Array, gain: jax.Array, speed: jax.Array, limit: jax.Array | None) -> jax.Array:
    """An impulse that stops `speed`: at most `limit` either way, or where that is None only a push."""
    new = old - speed / gain  # a quotient, which XLA computes once
    return jnp.maximum(new, 0.0) if limit is None else jnp.clip(new, -limit, limit)


def sweep_ground(rows: Rows, free: jax.Array, impulse: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """Every contact with the ground once: friction, then the normal. `impulse` is K of (2, n, E)."""
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
    """The contacts of walkers with the package, (2 rows, 2 points, ...).

    Attributes:
        walker: on the walkers.
        pull: (3, 2, 2, n, E), a row's speed is its product with the package's velocity, beside the walker's.
        response: (3, 2, 2, n, E), of the package.
        gain: (2, 2, n, E), as if each walker had its share of the package: so all may push at once and still agree in the end.
    """

    walker: Rows
    pull: jax.Array
    response: jax.Array
    gain: jax.Array


def make_package_rows(tree: Tree, contacts: Contacts, arm: Vector, package: body.Package) -> PackageRows:
    """The rows of walkers' contacts with the package, at `arm` (2, n, E) from its middle."""
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
    """Every contact with the package once, all walkers at a time; `package` is its velocity, three of (E,)."""
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
    """Rows of pairs of neighbours as rows of all walkers, the missing ones without effect."""
    return jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(before, after), (0, 0)]), rows)


def sweep_neighbours(
    left: Rows, right: Rows, gain: jax.Array, free: jax.Array, impulse: list[jax.Array]
) -> tuple[jax.Array, list[jax.Array]]:
    """Every contact between neighbours once, all pairs at a time.

    Args:
        left: rows of every walker as the left one of a pair, those of the last one without effect.
        right: as the right one, those of the first one without effect.
        gain: (2 rows, 2 points, n - 1, E), as if each walker had half of itself for each neighbour.
        free: (7, n, E).
        impulse: two of (2, n - 1, E).
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
    """One of two things in contact: how far it has moved (x, y and turn), and its arm to the point as the contact was made."""

    moved: tuple[jax.Array, jax.Array, jax.Array]
    arm: Vector


class Overlap(NamedTuple):
    """A contact where its two things are now; arrays (K, n, E).

    Attributes:
        normal: direction in which the second is pushed.
        arms: of both.
        separation: below 0 where skins overlap.
    """

    normal: Vector
    arms: tuple[Vector, Vector]
    separation: jax.Array


def turned(arm: Vector, angle: jax.Array) -> Vector:
    """`arm` after a small turn."""
    square = angle * angle
    cos, sin = 1 - square * (0.5 - square * (1 / 24)), angle * (1 - square * (1 / 6 - square * (1 / 120)))
    return cos * arm[0] - sin * arm[1], sin * arm[0] + cos * arm[1]


def overlap(normal: Vector, separation: jax.Array, by_second: jax.Array, first: Side, second: Side) -> Overlap:
    """Contacts after both things have moved.

    As in Box2D the side that decided the normal turns with its thing, and the point of the other stays where it is on that.
    """
    lift = 0.5 * jnp.where(by_second, -1.0, 1.0) * (separation + SKIN)
    arms = [(side.arm[0] + lift * normal[0], side.arm[1] + lift * normal[1]) for side in (first, second)]
    places, points = [], []
    for (x, y, turn), arm in zip((first.moved, second.moved), arms, strict=True):
        along = turned(arm, turn)
        places.append((x - arm[0], y - arm[1]))  # from where the point was
        points.append((x - arm[0] + along[0], y - arm[1] + along[1]))
    point = jnp.where(by_second, points[0][0], points[1][0]), jnp.where(by_second, points[0][1], points[1][1])
    now = turned(normal, jnp.where(by_second, second.moved[2], first.moved[2]))
    one, other = minus(point, places[0]), minus(point, places[1])
    way = jnp.where(by_second, dot(normal, arms[1]) - dot(now, other), dot(now, one) - dot(normal, arms[0]))
    return Overlap(now, (one, other), separation + way)


def _feature(contacts: Contacts) -> tuple[Vector, jax.Array, jax.Array]:
    return contacts.normal, contacts.separation, contacts.by_second


def moved_members(contacts: Contacts, moved: jax.Array) -> Side:
    """How the bodies of contacts have moved, of all bodies (3, 5, n, E)."""
    x, y, turn = (sum((contacts.member[b] * value[b] for b in range(NUM_BODIES)), jnp.zeros(())) for value in moved)
    return Side((x, y, turn), contacts.arm)


def push_of(separation: jax.Array, used: jax.Array, share: float) -> jax.Array:
    """By how much to part what overlaps: of all but a small overlap `share`."""
    return jnp.where(used, -jnp.clip(share * (separation + PUSH_SLOP), -LARGEST_PUSH, 0.0), 0.0)


def moves(contacts: Contacts, push: Vector, torque: jax.Array) -> jax.Array:
    """What pushes (K, n, E) and their torques do to the places of bodies, (3, 5, n, E), all at a time."""
    change = contacts.light * push[0], contacts.light * push[1], contacts.light_turn * torque
    return jnp.stack([jnp.stack([fold(jnp.add, member * value) for member in contacts.member]) for value in change])


def _lowest(separation: jax.Array, contacts: Contacts) -> jax.Array:
    return jnp.where(contacts.code > 0, separation, 0.0).min(0, initial=0.0)


def push_from_ground(contacts: Contacts, moved: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How bodies that have `moved` (3, 5, n, E) are pushed out of the ground, and the deepest separation (n, E)."""
    zero, used = jnp.zeros_like(contacts.separation), contacts.code > 0
    found = overlap(*_feature(contacts), Side((zero, zero, zero), (zero, zero)), moved_members(contacts, moved))
    torque = cross(found.arms[1], found.normal)
    gain = contacts.light + contacts.light_turn * torque**2
    push = push_of(found.separation, used, PUSH) / jnp.where(used, gain, 1.0)
    pushes = found.normal[0] * push, found.normal[1] * push
    return moves(contacts, pushes, torque * push), _lowest(found.separation, contacts)


def push_from_package(
    contacts: Contacts, arm: Vector, package: body.Package, moved: jax.Array, package_moved: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `push_from_ground` between walkers and package, which has moved (3, E) and is pushed, too."""
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
    """As `push_from_ground` between neighbours: contacts of the left and the right one of each pair."""
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
