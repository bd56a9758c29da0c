"""Parameter sharing: agents of one kind, with equal observation and action spaces, share parameters.

Their parameters start equal and follow the same mean gradient. They therefore stay equal.
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
    """Return for each agent the index of the first agent with the same observation and action spaces."""
    spaces = list(zip(spec.observation_sizes, spec.action_spaces, strict=True))
    return [spaces.index(own) for own in spaces]


def shared_init(spec: EnvSpec, init: Callable[[jax.Array], Params], *joint: str) -> Callable[[jax.Array], Params]:
    """Wrap `init` to return equal parameters for agents of one kind.

    Leaves are (n, ...), except leaves under the names in `joint`, which have no agent axis and do not change.
    """
    first = jnp.array(first_of_kind(spec))
    return lambda key: of_agents(lambda leaf: leaf[first], init(key), joint)


def shared_network(spec: EnvSpec, network: Network) -> Network:
    """Wrap `network` to initialise equal parameters for agents of one kind. Leaves are (n, ...)."""
    return network._replace(init=shared_init(spec, network.init))


def shared_optimizer(spec: EnvSpec, optimizer: optax.GradientTransformation, *joint: str) -> optax.GradientTransformation:
    """Wrap `optimizer` to use the mean gradient over the agents of one kind, except for leaves under the names in `joint`."""

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        return optimizer.update(of_agents(functools.partial(average_over_kinds, spec), updates, joint), state, params)

    return optax.GradientTransformation(optimizer.init, update)


def of_agents(function: Callable[[jax.Array], jax.Array], params: Params, joint: Collection[str]) -> Params:
    """Apply `function` to every leaf with an agent axis, which excludes leaves under the names in `joint`."""
    own = {name: leaf for name, leaf in params.items() if name not in joint}
    return params | jax.tree.map(function, own)


def average_over_kinds(spec: EnvSpec, leaf: jax.Array) -> jax.Array:
    """Replace the entry of each agent in `leaf` (n, ...) by the mean over all agents of its kind."""
    kind = np.array(first_of_kind(spec))
    same = kind[:, None] == kind
    share = jnp.asarray(same / same.sum(1, keepdims=True), leaf.dtype)
    return jnp.tensordot(share, leaf, 1, precision=jax.lax.Precision.HIGHEST)
