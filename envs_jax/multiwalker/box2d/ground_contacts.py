"""Manifolds of bodies with ground edges, in a fixed number of slots per body."""

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.physics.contact_detection import Contacts, GroundManifolds, ground_feature_ids
from envs_jax.multiwalker.physics.manifold import Manifold, select_manifolds

FEET, OTHERS = (2, 4), (0, 1, 3)


def num_edges(group: tuple[int, ...]) -> int:
    """Number of slots for edges of each body of a group."""
    return 4 if group == FEET else 2


def _first(manifold: Manifold, count: int) -> Manifold:
    """The first `count` edges that each body touches. Unused slots are zeros."""
    touching = manifold.touching.any(0)
    rank = jnp.where(touching, jnp.cumsum(touching.astype(jnp.int32), 0), 0)
    return manifold if len(touching) == count else select_manifolds(manifold, rank, count)


def ground_manifolds(contacts: Contacts) -> list[Manifold]:
    """Manifolds (K, B, n, E) of the bodies of `FEET`, then of those of `OTHERS`, from left to right.

    Their features are unique among a body's points, and 0 for unused points.
    """

    def with_ids(ground: GroundManifolds) -> Manifold:
        manifold = ground.manifold
        return manifold._replace(feature=jnp.where(manifold.touching, ground_feature_ids(ground), 0.0))

    hull, legs = with_ids(contacts.hull), with_ids(contacts.legs)
    upper, feet = (jax.tree.map(lambda leaf, first=first: leaf[..., first::2, :, :], legs) for first in (0, 1))
    hull, upper = (_first(each, num_edges(OTHERS)) for each in (hull, upper))
    others = jax.tree.map(lambda one, other: jnp.concatenate([one, other], one.ndim - 3), hull, upper)
    return [_first(feet, num_edges(FEET)), others]
