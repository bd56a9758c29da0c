"""Centralized critics, one MLP per agent: MADDPG's Q_i and MA-PPO's V_i."""

import chex
import jax
import jax.numpy as jnp

from envs_jax.environment import EnvSpec
from mamt_jax.networks.layers import MLP, layer
from mamt_jax.networks.per_agent import Network
from mamt_jax.types import Params


def centralized_critic(spec: EnvSpec, hidden_size: int, *, actions: bool) -> Network:
    """The value to one agent of all observations, and of all actions if `actions` (Lowe et al. 2017).

    `init` makes the critics of all agents, stacked; `apply(one agent's params, observation (n, B, d))`, or with
    `ActionDistribution.features` (n, B, A) after it, gives (B,). Critics read the true observations and actions side by side,
    without padding, so those of unlike agents are alike.
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
