"""Opponent models (Eq. 12): agent i predicts the action of agent j from its own observation, with one MLP per ordered pair."""

import jax
import numpy as np

from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import mlp_per_agent
from mamt_jax.types import Params


def ordered_pairs(num_agents: int) -> tuple[tuple[int, int], ...]:
    """Return all pairs (i, j) with j != i, in lexicographic order. This is the order of the pair axis."""
    return tuple((i, j) for i in range(num_agents) for j in range(num_agents) if j != i)


def opponent_models(observation_sizes: tuple[int, ...], parameter_sizes: tuple[int, ...], hidden_size: int) -> Network:
    """Build the modelling policies `h_ij(o_i)` of all ordered pairs.

    `apply` maps observations (n, B, d) to parameters of the action distributions of j, (n (n - 1), B, P).
    """
    pairs = ordered_pairs(len(observation_sizes))
    observers = tuple(i for i, _ in pairs)
    network = mlp_per_agent(
        tuple(observation_sizes[i] for i, _ in pairs), tuple(parameter_sizes[j] for _, j in pairs), hidden_size
    )

    def apply(params: Params, observation: jax.Array) -> jax.Array:
        return network.apply(params, observation[np.array(observers)])

    return Network(network.init, apply)
