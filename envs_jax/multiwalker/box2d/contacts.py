"""Contacts in the order in which Box2D's b2Island visits them, and access to the motion of the bodies in contact."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.batching import fold
from envs_jax.multiwalker import model
from envs_jax.multiwalker.model import INERTIA, MASS, single
from envs_jax.multiwalker.physics.contact_constraint import Body, ContactConstraint, make_contact_constraint
from envs_jax.multiwalker.physics.contact_detection import ContactPoints, Contacts
from envs_jax.multiwalker.physics.geometry import Motion, running_count
from envs_jax.multiwalker.physics.manifold import Manifold, select_manifolds

FEET, OTHERS = (2, 4), (0, 1, 3)
EDGES = {FEET: 4, OTHERS: 2}
"""Largest number of ground edges that each body of a group touches."""


class Motions(NamedTuple):
    """Velocities or displacements of the five bodies of all walkers (n, E), and of the package (E,)."""

    bodies: tuple[Motion, ...]
    package: Motion


class Place(NamedTuple):
    """Bodies that contacts act on."""

    read: Callable[[Motions], Motion]  # reads their motion
    add: Callable[[Motions, Motion], Motions]  # adds a change to their motion
    walkers: int | slice | None  # index of their walkers; None for the package


def _sum(one: Motion, other: Motion) -> Motion:
    return jax.tree.map(jnp.add, one, other)


PACKAGE = Place(
    lambda motions: motions.package, lambda motions, new: motions._replace(package=_sum(motions.package, new)), None
)


def _body_of(w: int, one_hot: jax.Array) -> Place:
    """One body of walker `w` in each environment, by its one-hot index (5, E)."""

    def read(motions: Motions) -> Motion:
        return jax.tree.map(
            lambda *leaves: fold(jnp.add, map(jnp.multiply, one_hot, [x[..., w, :] for x in leaves])), *motions.bodies
        )

    def add(motions: Motions, change: Motion) -> Motions:
        each = zip(one_hot, motions.bodies, strict=True)
        return motions._replace(
            bodies=tuple(jax.tree.map(lambda x, new, on=on: x.at[..., w, :].add(on * new), body, change) for on, body in each)
        )

    return Place(read, add, w)


def _bodies(group: tuple[int, ...]) -> Place:
    """These bodies of all walkers, (B, n, E)."""

    def add(motions: Motions, change: Motion) -> Motions:
        bodies = list(motions.bodies)
        for i, b in enumerate(group):
            bodies[b] = jax.tree.map(lambda x, new, i=i: x + new[..., i, :, :], bodies[b], change)
        return motions._replace(bodies=tuple(bodies))

    return Place(
        lambda motions: jax.tree.map(lambda *x: jnp.stack(x, -3), *(motions.bodies[b] for b in group)), add, slice(None)
    )


class ContactSet(NamedTuple):
    """Contacts of the same bodies with K ground edges, or with another body (K = 1)."""

    places: tuple[Place, ...]  # where the bodies that move are, the one to which the normal points last
    bodies: tuple[Body, ...]  # these bodies, with `r` (2, 2 points, K, ...)
    manifold: Manifold  # manifolds (K, ...). Their features are unique among the points of the set, and 0 for unused points.
    friction: jax.Array  # coefficient of friction


def make_constraints(contacts: ContactSet) -> list[ContactConstraint]:
    """Constraints of each manifold of a set."""
    manifold = contacts.manifold
    return [
        make_contact_constraint(
            manifold.normal[:, k],
            manifold.touching[:, k],
            tuple(body._replace(r=body.r[:, :, k]) for body in contacts.bodies),
            contacts.friction,
        )
        for k in range(manifold.touching.shape[1])
    ]


def _on_ground(contacts: Contacts, group: tuple[int, ...]) -> ContactSet:
    """Contacts of a group of bodies with the first edges that they touch, from left to right."""
    which = np.array(group)
    manifold = jax.tree.map(lambda leaf: leaf[..., which, :, :], contacts.ground)
    touching = manifold.touching.any(0)
    manifold = select_manifolds(manifold, jnp.where(touching, running_count(touching), 0), EDGES[group])
    constants = 1 / MASS, 1 / INERTIA, np.sqrt(model.FRICTION * model.TERRAIN_FRICTION)
    inv_mass, inv_inertia, friction = (jnp.asarray(single(of)[which, None, None]) for of in constants)
    return ContactSet((_bodies(group),), (Body(manifold.point, inv_mass, inv_inertia),), manifold, friction)


def _shared(points: ContactPoints, values: jax.Array) -> jax.Array:
    """Values (..., 2, n, E) that both points of a contact share, read from a point in use."""
    return jnp.where(points.used[0], values[..., 0, :, :], values[..., 1, :, :])


def _body(points: ContactPoints, w: int) -> Body:
    return Body(points.r[:, :, None, w], _shared(points, points.inv_mass)[w], _shared(points, points.inv_inertia)[w])


def _pair(points: ContactPoints, w: int, place: Place, other: Body, walker: int) -> ContactSet:
    """Contact `w` of a body of a walker with another body, at `place`."""
    manifold = Manifold(
        normal=_shared(points, points.normal)[:, None, w],
        point=points.r[:, :, None, w],
        separation=points.separation[:, None, w],
        touching=points.used[:, None, w],
        reference_is_second=_shared(points, points.reference_is_second)[None, w],
        feature=points.feature_id[:, None, w],
    )
    own = _body_of(walker, _shared(points, points.one_hot)[:, w])
    return ContactSet(
        (place, own), (other._replace(sign=-1.0), _body(points, w)), manifold, _shared(points, points.friction)[w]
    )


def contact_sets(contacts: Contacts, package: model.Package) -> list[ContactSet]:
    """All contacts in Box2D's order: neighbours and the package from the last walker to the first, then the ground."""
    (left, right), points, sets = contacts.neighbours, contacts.package, []
    for w in reversed(range(right.used.shape[1])):
        sets.append(_pair(right, w, _body_of(w, _shared(left, left.one_hot)[:, w]), _body(left, w), w + 1))
    for w in reversed(range(points.used.shape[1])):
        its = Body(contacts.package_r[:, :, None, w], jnp.asarray(1 / package.mass), jnp.asarray(1 / package.inertia))
        sets.append(_pair(points, w, PACKAGE, its, w))
    return [*sets, *(_on_ground(contacts, group) for group in EDGES)]
