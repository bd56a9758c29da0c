"""Parameter sharing: agents with equal observation and action spaces learn one policy.

Their policies begin as one and follow one gradient, so they stay one.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs_jax.environment import EnvSpec
from mamt_jax.networks.per_agent import Network
from mamt_jax.types import Params


def first_of_kind(spec: EnvSpec) -> list[int]:
    """For each agent the first one whose observation and action spaces equal its own."""
    spaces = list(zip(spec.observation_sizes, spec.action_spaces, strict=True))
    return [spaces.index(own) for own in spaces]


def shared_init(spec: EnvSpec, init: Callable[[jax.Array], Params], *joint: str) -> Callable[[jax.Array], Params]:
    """`init` of parameters that are equal for agents of one kind; leaves (n, ...), but for those under a name of `joint`."""
    first = jnp.array(first_of_kind(spec))
    return lambda key: of_agents(lambda leaf: leaf[first], init(key), joint)


def shared_network(spec: EnvSpec, network: Network) -> Network:
    """`network` whose initial parameters, leaves (n, ...), are equal for agents of one kind."""
    return network._replace(init=shared_init(spec, network.init))


def shared_optimizer(spec: EnvSpec, optimizer: optax.GradientTransformation, *joint: str) -> optax.GradientTransformation:
    """`optimizer` of the mean gradient of all agents of one kind, but for what is under a name of `joint`."""

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        return optimizer.update(of_agents(functools.partial(average_over_kinds, spec), updates, joint), state, params)

    return optax.GradientTransformation(optimizer.init, update)


def of_agents(function: Callable[[jax.Array], jax.Array], params: Params, joint: Collection[str]) -> Params:
    """`function` of every leaf, but for those under a name of `joint`, which agents have together."""
    own = {name: leaf for name, leaf in params.items() if name not in joint}
    return params | jax.tree.map(function, own)


def average_over_kinds(spec: EnvSpec, leaf: jax.Array) -> jax.Array:
    """The mean over all agents of a kind for each of them, (n, ...)."""
    kind = np.array(first_of_kind(spec))
    same = kind[:, None] == kind
    share = jnp.asarray(same / same.sum(1, keepdims=True), leaf.dtype)
    return jnp.tensordot(share, leaf, 1, precision=jax.lax.Precision.HIGHEST)
