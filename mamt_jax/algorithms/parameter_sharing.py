"""Parameter sharing: agents with equal observation and action spaces learn one policy.

Their policies begin as one and follow one gradient, so they stay one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from envs_jax.environment import EnvSpec
from mamt_jax.networks.per_agent import Network
from mamt_jax.types import Params


def first_of_kind(spec: EnvSpec) -> list[int]:
    """For each agent the first one whose observation and action spaces equal its own."""
    spaces = list(zip(spec.observation_sizes, spec.action_spaces, strict=True))
    return [spaces.index(own) for own in spaces]


def shared_network(spec: EnvSpec, network: Network) -> Network:
    """`network` whose initial parameters, leaves (n, ...), are equal for agents of one kind."""
    first = jnp.array(first_of_kind(spec))
    return network._replace(init=lambda key: jax.tree.map(lambda leaf: leaf[first], network.init(key)))


def shared_optimizer(spec: EnvSpec, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` of the mean gradient of all agents of one kind; its state is the same."""

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        return optimizer.update(average_over_kinds(spec, updates), state, params)

    return optax.GradientTransformation(optimizer.init, update)


def average_over_kinds(spec: EnvSpec, gradient: Params) -> Params:
    """The mean gradient of all agents of a kind for each of them; leaves (n, ...)."""
    kind = jnp.array(first_of_kind(spec))
    number = jax.ops.segment_sum(jnp.ones(spec.num_agents), kind, spec.num_agents)

    def mean(leaf: jax.Array) -> jax.Array:
        total = jax.ops.segment_sum(leaf, kind, spec.num_agents)[kind]
        return total / number[kind].reshape(-1, *(1,) * (leaf.ndim - 1))

    return jax.tree.map(mean, gradient)
