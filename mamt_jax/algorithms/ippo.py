"""IPPO (de Witt et al. 2020): PPO for each agent alone. Policies and value functions read their own agent's observation."""

import functools

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import mappo, on_policy
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.algorithms.mappo import MAPPOConfig
from mamt_jax.algorithms.on_policy import OnPolicy
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import mlp_per_agent


def make(spec: EnvSpec) -> Algorithm:
    """Create IPPO for the agents of `spec`.

    Raises:
        ValueError: if some agents have discrete and others continuous actions.
    """
    return on_policy.algorithm(spec, MAPPOConfig, functools.partial(mappo.update, build), build)


def build(spec: EnvSpec, config: MAPPOConfig) -> OnPolicy:
    """Build the parts of MA-PPO with value functions of an agent's own observation."""
    return mappo.build(spec, config)._replace(critic=own_critic(on_policy.input_sizes(spec, config), config.hidden_size))


def own_critic(input_sizes: tuple[int, ...], hidden_size: int) -> Network:
    """Build one value function per agent, which reads the inputs of this agent's policy."""
    network = mlp_per_agent(input_sizes, (1,) * len(input_sizes), hidden_size)
    return network._replace(apply=lambda params, inputs: network.apply(params, inputs)[..., 0])
