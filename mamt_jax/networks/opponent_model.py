"""Opponent models (Eq. 12): agent i predicts agent j's action from its own observation; one MLP per ordered pair."""

import jax
import numpy as np

from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import mlp_per_agent
from mamt_jax.types import Params


def ordered_pairs(num_agents: int) -> tuple[tuple[int, int], ...]:
    """All (i, j) with j != i, i first: the order of the pair axis."""
    return tuple((i, j) for i in range(num_agents) for j in range(num_agents) if j != i)


def opponent_models(observation_sizes: tuple[int, ...], parameter_sizes: tuple[int, ...], hidden_size: int) -> Network:
    """`h_i^j(o_i)` for every ordered pair: (n, B, d) -> (n (n - 1), B, P), parameters of j's action distribution."""
    pairs = ordered_pairs(len(observation_sizes))
    observers = tuple(i for i, _ in pairs)
    network = mlp_per_agent(
        tuple(observation_sizes[i] for i, _ in pairs), tuple(parameter_sizes[j] for _, j in pairs), hidden_size
    )

    def apply(params: Params, observation: jax.Array) -> jax.Array:
        return network.apply(params, observation[np.array(observers)])

    return Network(network.init, apply)
