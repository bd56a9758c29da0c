"""Centralized critics, one MLP per agent: Q_i of MADDPG, and V_i of MA-PPO and LOLA."""

import chex
import jax
import jax.numpy as jnp

from mamt_jax.networks.layers import MLP, layer
from mamt_jax.networks.per_agent import Network
from mamt_jax.types import Params


def centralized_critic(widths: tuple[tuple[int, ...], ...], hidden_size: int) -> Network:
    """Build centralized critics, which read some inputs of all agents, such as observations and actions (Lowe et al. 2017).

    `widths` has the width of each agent for each input. `init` returns the critics of all agents with a leading agent axis.
    `apply(params of one agent, *inputs (n, B, d))` returns values (B,). For actions see `ActionDistribution.features`. Critics
    read the concatenated inputs without padding. All critics therefore have the same shape.
    """
    num_agents = len(widths[0])
    module = layer(MLP((hidden_size, hidden_size, 1)))

    def init(key: jax.Array) -> Params:
        example = jnp.zeros((1, sum(map(sum, widths))))
        return jax.vmap(lambda k: module.init(k, example))(jax.random.split(key, num_agents))

    def apply(params: Params, *inputs: jax.Array) -> jax.Array:
        chex.assert_axis_dimension(inputs[0], 0, num_agents)
        own = [x[agent, :, :size] for x, sizes in zip(inputs, widths, strict=True) for agent, size in enumerate(sizes)]
        return module.apply(params, jnp.concatenate(own, -1))[..., 0]

    return Network(init, apply)
