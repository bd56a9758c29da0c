"""Centralized critics, one MLP per agent: Q_i of MADDPG, and V_i of MA-PPO and LOLA."""

import chex
import jax
import jax.numpy as jnp

from envs_jax.environment import EnvSpec
from mamt_jax.networks.layers import MLP, layer
from mamt_jax.networks.per_agent import Network
from mamt_jax.types import Params


def centralized_critic(spec: EnvSpec, hidden_size: int, *, actions: bool) -> Network:
    """Build centralized critics, which read the observations of all agents, and their actions if `actions` (Lowe et al. 2017).

    `init` returns the critics of all agents with a leading agent axis. `apply(params of one agent, observation (n, B, d))`
    returns values (B,). If `actions`, it also takes action features (n, B, A), see `ActionDistribution.features`. Critics read
    the concatenated observations and actions without padding. All critics therefore have the same shape.
    """
    widths = (spec.observation_sizes, *((spec.action_sizes,) if actions else ()))
    module = layer(MLP((hidden_size, hidden_size, 1)))

    def init(key: jax.Array) -> Params:
        example = jnp.zeros((1, sum(map(sum, widths))))
        return jax.vmap(lambda k: module.init(k, example))(jax.random.split(key, spec.num_agents))

    def apply(params: Params, *inputs: jax.Array) -> jax.Array:
        chex.assert_axis_dimension(inputs[0], 0, spec.num_agents)
        own = [x[agent, :, :size] for x, sizes in zip(inputs, widths, strict=True) for agent, size in enumerate(sizes)]
        return module.apply(params, jnp.concatenate(own, -1))[..., 0]

    return Network(init, apply)
