"""Ground edges that each body touches, in a fixed number of slots. Arrays have the batch as their last axis."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from envs_jax.multiwalker.physics.contact_detection import Contacts, GroundManifolds, ground_feature_ids
from envs_jax.multiwalker.physics.manifold import Vector

FEET, OTHERS = (2, 4), (0, 1, 3)


def num_edges(group: tuple[int, ...]) -> int:
    """Number of slots for edges of each body of a group."""
    return 4 if group == FEET else 2


class Edges(NamedTuple):
    """Contact manifolds of K edges with B bodies. Arrays are (K, B, n, E), or (2, K, B, n, E) for the two points.

    Attributes:
        normal: unit normal from the ground to the body.
        r: from the body's centre of mass to the point.
        separation: negative where the skins overlap.
        by_body: bool, whether the reference side belongs to the body.
        touching: bool, whether the point exists.
        feature_id: feature id, a positive integer that is unique among a body's points; 0 for unused points.
    """

    normal: Vector
    r: Vector
    separation: jax.Array
    by_body: jax.Array
    touching: jax.Array
    feature_id: jax.Array


def _edges(ground: GroundManifolds) -> Edges:
    manifold = ground.manifold
    shape = manifold.separation.shape
    normal = jnp.broadcast_to(manifold.normal[0], shape[1:]), jnp.broadcast_to(manifold.normal[1], shape[1:])
    feature_id = jnp.where(manifold.touching, ground_feature_ids(ground), 0.0)
    return Edges(normal, manifold.point, manifold.separation, manifold.reference_is_second, manifold.touching, feature_id)


def _first(edges: Edges, count: int) -> Edges:
    """The first `count` edges that each body touches. Unused slots are zeros."""
    if len(edges.by_body) == count:
        return edges
    touching = edges.touching.any(0)
    rank = jnp.where(touching, jnp.cumsum(touching.astype(jnp.int32), 0), 0)
    chosen = rank[None] == jnp.arange(1, count + 1).reshape(-1, *[1] * rank.ndim)

    def take(leaf: jax.Array) -> jax.Array:
        of_points = leaf.ndim > rank.ndim
        picked = jnp.where(chosen[:, None] if of_points else chosen, leaf[None], 0).sum(2 if of_points else 1)
        return (jnp.moveaxis(picked, 0, 1) if of_points else picked).astype(leaf.dtype)

    return jax.tree.map(take, edges)


def edges_under(contacts: Contacts) -> list[Edges]:
    """Edges under the bodies of `FEET`, then under those of `OTHERS`, at most `num_edges` per body."""
    hull, legs = _edges(contacts.hull), _edges(contacts.legs)

    def of_legs(first: int) -> Edges:
        return jax.tree.map(lambda leaf: leaf[..., first::2, :, :], legs)

    hull, upper, feet = (
        _first(each, num_edges(group)) for each, group in ((hull, OTHERS), (of_legs(0), OTHERS), (of_legs(1), FEET))
    )
    return [feet, jax.tree.map(lambda one, other: jnp.concatenate([one, other], one.ndim - 3), hull, upper)]
