"""Policies: one MLP per agent, which maps its own observation to the parameters of its action distribution."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from mamt_jax.networks.layers import MLP, layer
from mamt_jax.networks.per_agent import Network, init_agents
from mamt_jax.types import Params

Restrict = Callable[[jax.Array, jax.Array | None], jax.Array]
"""Function (parameters (n, B, P), action mask (n, B, A) or None) -> parameters of a policy that takes only allowed actions."""


def restricted(network: Network, restrict: Restrict) -> Network:
    """Apply action masks to the outputs of `network`.

    The new function is `apply(params, inputs (n, B, d), action mask (n, B, A) or None)`.
    """

    def apply(params: Params, inputs: jax.Array, action_mask: jax.Array | None = None) -> jax.Array:
        return restrict(network.apply(params, inputs), action_mask)

    return Network(network.init, apply)


def mlp_per_agent(
    input_sizes: tuple[int, ...], output_sizes: tuple[int, ...], hidden_size: int, output_scale: float = 1.0
) -> Network:
    """Build one MLP with two hidden layers per agent, without shared parameters.

    `apply` maps (n, B, widest input) to (n, B, widest output). A small `output_scale` makes initial policies nearly uniform.
    """

    def module(output_size: int) -> Network:
        return layer(MLP((hidden_size, hidden_size, output_size), output_scale))

    def init_one(key: jax.Array, size: tuple[int, int]) -> Params:
        return module(size[1]).init(key, jnp.zeros((1, size[0])))

    def init(key: jax.Array) -> Params:
        return init_agents(init_one, tuple(zip(input_sizes, output_sizes, strict=True)), key)

    def apply(params: Params, inputs: jax.Array) -> jax.Array:
        chex.assert_shape(inputs, (len(input_sizes), None, max(input_sizes)))
        return jax.vmap(module(max(output_sizes)).apply)(params, inputs)

    return Network(init, apply)
