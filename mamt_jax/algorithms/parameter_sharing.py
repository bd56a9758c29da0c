"""Policies that agents of a kind share: they begin as one and follow one gradient, so they stay one."""

import jax
import jax.numpy as jnp

from envs_jax.environment import EnvSpec
from mamt_jax.types import Params


def kinds(spec: EnvSpec) -> list[int]:
    """For each agent the first whose observations and actions are like its own."""
    own = list(zip(spec.observation_sizes, spec.action_spaces, strict=True))
    return [own.index(each) for each in own]


def as_first_of_kind(spec: EnvSpec, params: Params) -> Params:
    """The parameters of the first agent of a kind for each of them; leaves (n, ...)."""
    first = jnp.array(kinds(spec))
    return jax.tree.map(lambda leaf: leaf[first], params)


def average_over_kinds(spec: EnvSpec, gradient: Params) -> Params:
    """The mean gradient of all agents of a kind for each of them; leaves (n, ...)."""
    kind = jnp.array(kinds(spec))
    number = jax.ops.segment_sum(jnp.ones(spec.num_agents), kind, spec.num_agents)

    def mean(leaf: jax.Array) -> jax.Array:
        total = jax.ops.segment_sum(leaf, kind, spec.num_agents)[kind]
        return total / number[kind].reshape(-1, *(1,) * (leaf.ndim - 1))

    return jax.tree.map(mean, gradient)
