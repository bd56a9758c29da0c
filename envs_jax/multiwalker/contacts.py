"""Contacts: impulses that keep points from going into each other and rub, and pushing apart what overlaps.

Arrays have the batch as their last axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.multiwalker import body
from envs_jax.multiwalker.body import NUM_BODIES
from envs_jax.multiwalker.collision import Vector, cross
from envs_jax.multiwalker.joints import Parts, Tree, respond, turn_by
from envs_jax.multiwalker.touching import Contacts

PUSH, PUSH_SLOP, LARGEST_PUSH = 0.2, 0.005, 0.2


class Rows(NamedTuple):
    """K contacts of n walkers, two rows each: along the surface, then along the normal.

    Attributes:
        pull: (K, 2, 7, n, E), a row's speed is its product with the free coordinates.
        response: (K, 2, 7, n, E), of the free coordinates to a unit impulse.
        gain: (K, 2, n, E), of a row's speed to a unit impulse on the walker.
        friction: (K, n, E).
    """

    pull: jax.Array
    response: jax.Array
    gain: jax.Array
    friction: jax.Array


def make_rows(tree: Tree, contacts: Contacts) -> Rows:
    """The rows of contacts."""
    arms = _arms(tree, contacts)
    normal = contacts.normal
    pulls, responses, gains = [], [], []
    for direction in ((normal[1], -normal[0]), normal):
        turn = [cross(arm, direction) for arm in arms]
        pull = jnp.stack([*direction, *turn])
        response = respond(tree, direction, turn)
        pulls.append(pull)
        responses.append(response)
        gains.append((pull * response).sum(0))
    pull, response = (jnp.moveaxis(jnp.stack(rows), 2, 0) for rows in (pulls, responses))
    return Rows(pull, response, jnp.stack(gains, 1), contacts.friction)


def _arms(tree: Tree, contacts: Contacts) -> list[Vector]:
    """What each of the five spins does to the points: vectors (K, n, E)."""
    arms = []
    for j in range(NUM_BODIES):
        moved = [(contacts.member[b], arm) for b in range(NUM_BODIES) if (arm := tree.arms[b][j]) is not None]
        own = contacts.member[j]
        arms.append(tuple(own * contacts.arm[i] + sum(m * arm[i] for m, arm in moved) for i in (0, 1)))
    return arms


def invert(gain: jax.Array) -> jax.Array:
    """1 / gain, 0 where there is nothing to push."""
    return jnp.where(gain > 1e-9, 1 / jnp.maximum(gain, 1e-9), 0.0)


def find_again(code: jax.Array, old_code: jax.Array, impulse: jax.Array) -> jax.Array:
    """The impulses (L, 2, n, E) of the points that are still there, for those that `code` (K, n, E) tells of now."""
    same = (code[:, None] == old_code[None]) & (code[:, None] > 0)
    return (same[:, :, None] * impulse[None]).sum(1)


def warm_start(rows: Rows, free: jax.Array, impulse: jax.Array) -> jax.Array:
    """The free coordinates after impulses (K, 2, n, E)."""
    return free + (rows.response * impulse[:, :, None]).sum((0, 1))


def _new_impulses(old: jax.Array, mass: jax.Array, speed: jax.Array, limit: jax.Array | None) -> jax.Array:
    """An impulse that stops `speed`: at most `limit` either way, or where that is None only a push."""
    new = old - mass * speed
    return jnp.maximum(new, 0.0) if limit is None else jnp.clip(new, -limit, limit)


def sweep_ground(rows: Rows, mass: jax.Array, free: jax.Array, impulse: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """Every contact with the ground once: friction, then the normal. `impulse` is K of (2, n, E)."""
    impulse = list(impulse)
    for k in range(len(impulse)):
        old = impulse[k]
        limit = rows.friction[k] * old[1]
        new = []
        for i, bound in enumerate((limit, None)):
            speed = (rows.pull[k, i] * free).sum(0)
            new.append(_new_impulses(old[i], mass[k, i], speed, bound))
            free = free + rows.response[k, i] * (new[i] - old[i])
        impulse[k] = jnp.stack(new)
    return free, impulse


class PackageRows(NamedTuple):
    """The contacts of walkers with the package, (2 points, 2 rows, ...).

    Attributes:
        walker: on the walkers.
        pull: (2, 2, 3, n, E), a row's speed is its product with the package's velocity, beside the walker's.
        response: (2, 2, 3, n, E), of the package.
        mass: (2, 2, n, E), as if each walker had its share of the package: so all may push at once and still agree in the end.
    """

    walker: Rows
    pull: jax.Array
    response: jax.Array
    mass: jax.Array


def make_package_rows(tree: Tree, contacts: Contacts, arm: Vector, package: body.Package) -> PackageRows:
    """The rows of walkers' contacts with the package, at `arm` (2, n, E) from its middle."""
    walker = make_rows(tree, contacts)
    normal = contacts.normal
    pulls = [
        jnp.stack([-direction[0], -direction[1], -cross(arm, direction)], 1) for direction in ((normal[1], -normal[0]), normal)
    ]
    pull = jnp.stack(pulls, 1)
    light = np.float32([1 / package.mass, 1 / package.mass, 1 / package.inertia])[:, None, None]
    response = pull * light
    carriers = jnp.maximum((contacts.code > 0).any(0).sum(0), 1).astype(jnp.float32)
    gain = walker.gain + carriers * (pull * response).sum(2)
    return PackageRows(walker, pull, response, jnp.where(walker.gain > 1e-9, invert(gain), 0.0))


def sweep_package(
    rows: PackageRows, free: jax.Array, package: jax.Array, impulse: list[jax.Array]
) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """Every contact with the package once, all walkers at a time; `package` is its velocity (3, E)."""
    impulse = list(impulse)
    for k in range(len(impulse)):
        old = impulse[k]
        limit = rows.walker.friction[k] * old[1]
        new = []
        for i, bound in enumerate((limit, None)):
            speed = (rows.walker.pull[k, i] * free).sum(0) + (rows.pull[k, i] * package[:, None]).sum(0)
            new.append(_new_impulses(old[i], rows.mass[k, i], speed, bound))
            change = new[i] - old[i]
            free = free + rows.walker.response[k, i] * change
            package = package + (rows.response[k, i] * change).sum(1)
        impulse[k] = jnp.stack(new)
    return free, package, impulse


def sweep_neighbours(
    left: Rows, right: Rows, mass: jax.Array, free: jax.Array, impulse: list[jax.Array]
) -> tuple[jax.Array, list[jax.Array]]:
    """Every contact between neighbours once, all pairs at a time; rows of the left and the right one of each pair."""
    impulse = list(impulse)
    for k in range(len(impulse)):
        old = impulse[k]
        limit = left.friction[k] * old[1]
        new = []
        for i, bound in enumerate((limit, None)):
            speed = (left.pull[k, i] * free[:, :-1]).sum(0) + (right.pull[k, i] * free[:, 1:]).sum(0)
            new.append(_new_impulses(old[i], mass[k, i], speed, bound))
            change = new[i] - old[i]
            free = free.at[:, :-1].add(left.response[k, i] * change).at[:, 1:].add(right.response[k, i] * change)
        impulse[k] = jnp.stack(new)
    return free, impulse


class Package(NamedTuple):
    """The package while it is pushed out of walkers: how far it has moved (3, E); 1 / its mass and 1 / its inertia."""

    moved: jax.Array
    light: tuple[float, float]


def _moved(parts: Parts, start: Parts, contacts: Contacts, k: int) -> tuple[Vector, Vector]:
    """How far a contact's point has moved with its body since `start`, and its arm now."""
    member = contacts.member[:, k]

    def own(values: list[jax.Array]) -> jax.Array:
        return sum((member[b] * values[b] for b in range(NUM_BODIES)), jnp.zeros(()))

    x, y = own(parts.x) - own(start.x), own(parts.y) - own(start.y)
    turn = own(parts.angle) - own(start.angle)
    cos, sin = turn_by(jnp.ones(()), jnp.zeros(()), turn)
    before = contacts.arm[0][k], contacts.arm[1][k]
    arm = cos * before[0] - sin * before[1], sin * before[0] + cos * before[1]
    return (x + arm[0] - before[0], y + arm[1] - before[1]), arm


def push_from_ground(parts: Parts, start: Parts, contacts: Contacts, active: jax.Array) -> tuple[Parts, jax.Array]:
    """Every contact with the ground once: a fifth of its overlap is taken away; the deepest separation before (n, E)."""
    lowest = jnp.zeros(active.shape)
    for k in range(len(contacts.separation)):
        moved, arm = _moved(parts, start, contacts, k)
        normal = contacts.normal[0][k], contacts.normal[1][k]
        separation = contacts.separation[k] + normal[0] * moved[0] + normal[1] * moved[1]
        used = contacts.code[k] > 0
        lowest = jnp.minimum(lowest, jnp.where(used, separation, 0.0))
        push = jnp.where(used & active, -jnp.clip(PUSH * (separation + PUSH_SLOP), -LARGEST_PUSH, 0.0), 0.0)
        light, light_turn = _lightness(contacts, k)
        torque = cross(arm, normal)
        impulse = push * invert(light + light_turn * torque * torque)
        parts = _apply(parts, contacts, k, normal, torque, impulse)
    return parts, lowest


def _lightness(contacts: Contacts, k: int) -> tuple[jax.Array, jax.Array]:
    member = contacts.member[:, k]
    light = sum((member[b] * np.float32(1 / body.MASS[b]) for b in range(NUM_BODIES)), jnp.zeros(()))
    turn = sum((member[b] * np.float32(1 / body.INERTIA[b]) for b in range(NUM_BODIES)), jnp.zeros(()))
    return light, turn


def _apply(parts: Parts, contacts: Contacts, k: int, normal: Vector, torque: jax.Array, impulse: jax.Array) -> Parts:
    member = contacts.member[:, k]
    own = [member[b] * impulse for b in range(NUM_BODIES)]
    x = [parts.x[b] + own[b] * np.float32(1 / body.MASS[b]) * normal[0] for b in range(NUM_BODIES)]
    y = [parts.y[b] + own[b] * np.float32(1 / body.MASS[b]) * normal[1] for b in range(NUM_BODIES)]
    turns = [own[b] * np.float32(1 / body.INERTIA[b]) * torque for b in range(NUM_BODIES)]
    turned = [turn_by(c, s, t) for c, s, t in zip(parts.cos, parts.sin, turns, strict=True)]
    angle = [a + t for a, t in zip(parts.angle, turns, strict=True)]
    return Parts(x, y, [c for c, _ in turned], [s for _, s in turned], angle)


def push_from_package(
    parts: Parts, start: Parts, contacts: Contacts, arm: Vector, package: Package, active: jax.Array
) -> tuple[Parts, Package, jax.Array]:
    """As `push_from_ground` between walkers and package, all walkers at a time."""
    lowest = jnp.zeros(active.shape)
    carriers = jnp.maximum((contacts.code > 0).any(0).sum(0), 1).astype(jnp.float32)
    light, light_turn = package.light
    for k in range(len(contacts.separation)):
        moved, own_arm = _moved(parts, start, contacts, k)
        cos, sin = turn_by(jnp.ones(()), jnp.zeros(()), package.moved[2])
        before = arm[0][k], arm[1][k]
        its_arm = cos * before[0] - sin * before[1], sin * before[0] + cos * before[1]
        its_move = package.moved[0] + its_arm[0] - before[0], package.moved[1] + its_arm[1] - before[1]
        normal = contacts.normal[0][k], contacts.normal[1][k]
        separation = contacts.separation[k] + normal[0] * (moved[0] - its_move[0]) + normal[1] * (moved[1] - its_move[1])
        used = contacts.code[k] > 0
        lowest = jnp.minimum(lowest, jnp.where(used, separation, 0.0))
        push = jnp.where(used & active, -jnp.clip(PUSH * (separation + PUSH_SLOP), -LARGEST_PUSH, 0.0), 0.0)
        own_light, own_turn = _lightness(contacts, k)
        torque, its_torque = cross(own_arm, normal), cross(its_arm, normal)
        gain = own_light + own_turn * torque**2 + carriers * (light + light_turn * its_torque**2)
        impulse = push * jnp.where(used, invert(gain), 0.0)
        parts = _apply(parts, contacts, k, normal, torque, impulse)
        change = jnp.stack([light * normal[0] * impulse, light * normal[1] * impulse, light_turn * its_torque * impulse])
        package = package._replace(moved=package.moved - change.sum(1))
    return parts, package, lowest


def _padded(contacts: Contacts, before: int, after: int) -> Contacts:
    """Contacts of pairs as contacts of all walkers, the missing one unused."""

    def pad(leaf: jax.Array) -> jax.Array:
        return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(before, after), (0, 0)])

    return jax.tree.map(pad, contacts)


def push_from_neighbours(
    parts: Parts, start: Parts, left: Contacts, right: Contacts, active: jax.Array
) -> tuple[Parts, jax.Array]:
    """As `push_from_ground` between neighbours, all pairs at a time."""
    left, right = _padded(left, 0, 1), _padded(right, 1, 0)
    lowest = jnp.zeros(active.shape)

    def onward(values: jax.Array, steps: int) -> jax.Array:
        return jnp.roll(values, steps, 0)

    for k in range(len(left.separation)):
        left_moved, left_arm = _moved(parts, start, left, k)
        right_moved, right_arm = _moved(parts, start, right, k)
        normal = left.normal[0][k], left.normal[1][k]
        away = left_moved[0] - onward(right_moved[0], -1), left_moved[1] - onward(right_moved[1], -1)
        separation = left.separation[k] + normal[0] * away[0] + normal[1] * away[1]
        used = left.code[k] > 0
        lowest = jnp.minimum(lowest, jnp.where(used, separation, 0.0))
        push = jnp.where(used & active, -jnp.clip(PUSH * (separation + PUSH_SLOP), -LARGEST_PUSH, 0.0), 0.0)
        right_normal = right.normal[0][k], right.normal[1][k]
        torques = cross(left_arm, normal), cross(right_arm, right_normal)
        gains = []
        for contacts, torque in zip((left, right), torques, strict=True):
            light, light_turn = _lightness(contacts, k)
            gains.append(light + light_turn * torque**2)
        impulse = 0.5 * push * invert(gains[0] + onward(gains[1], -1))
        parts = _apply(parts, left, k, normal, torques[0], impulse)
        parts = _apply(parts, right, k, right_normal, torques[1], onward(impulse, 1))
    return parts, jnp.minimum(lowest, onward(lowest, 1))
