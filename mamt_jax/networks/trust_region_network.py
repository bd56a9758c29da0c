"""Trust region decomposition network (Eq. 13, Fig. 2): message passing between agents, implemented with jraph."""

from typing import Any, cast

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from envs_jax.environment import EnvSpec
from mamt_jax.networks.layers import MLP, SplitDense, layer, leaky_relu
from mamt_jax.networks.per_agent import Network, init_agents
from mamt_jax.types import Params

EPSILON_EMBEDDING = 16


class NodeEncoder(nn.Module):
    """Encoder of one node, from the observation o_i, the action a_i and log epsilon_i of an agent."""

    hidden_size: int

    @nn.compact
    def __call__(self, observation: jax.Array, action_features: jax.Array, log_epsilon: jax.Array) -> jax.Array:
        """Map inputs (B, d), (B, A) and (B, 1) to nodes (B, hidden_size)."""
        behaviour = leaky_relu(SplitDense(self.hidden_size)(observation, action_features))
        trust_region = leaky_relu(SplitDense(EPSILON_EMBEDDING)(log_epsilon))
        return leaky_relu(SplitDense(self.hidden_size)(behaviour, trust_region))


def symmetric_weights(coordination: jax.Array) -> jax.Array:
    """Compute undirected edge weights (C_ij + C_ji) / 2 from coordination coefficients (n, n, B)."""
    return (coordination + coordination.swapaxes(0, 1)) / 2


def normalise_edges(weights: jax.Array) -> jax.Array:
    """Add self edges to symmetric weights W (n, n) with zero diagonal, and normalise: D^-1/2 (W + I) D^-1/2."""
    with_self_edges = weights + jnp.eye(weights.shape[0], dtype=weights.dtype)
    scale = jax.lax.rsqrt(with_self_edges.sum(1))
    return with_self_edges * scale[:, None] * scale[None, :]


def graph_convolution(nodes: jax.Array, weights: jax.Array) -> jax.Array:
    """Propagate node features (n, H) along weighted edges (n, n) and self edges, symmetrically normalised.

    Every graph has all n^2 edges, and absent edges have weight zero. Shapes are therefore static.
    """
    n = nodes.shape[0]
    receivers, senders = np.divmod(np.arange(n * n), n)
    graph = jraph.GraphsTuple(
        nodes=nodes,
        edges=normalise_edges(weights).reshape(n * n, 1),
        senders=jnp.asarray(senders),
        receivers=jnp.asarray(receivers),
        globals=None,
        n_node=jnp.array([n]),
        n_edge=jnp.array([n * n]),
    )

    def message(edge: Any, sender: Any, receiver: Any, context: Any) -> jax.Array:
        return edge * sender

    def gather(node: Any, sent: Any, received: Any, context: Any) -> jax.Array:
        return received

    return cast(jax.Array, jraph.GraphNetwork(update_edge_fn=message, update_node_fn=gather)(graph).nodes)


def trust_region_network(spec: EnvSpec, hidden_size: int) -> Network:
    """Build the network that estimates each agent's share of the joint policy divergence.

    `apply(params, observation (n, B, d), action features (n, B, A), log_epsilon (n,), weights (n, n, B)) -> KLhat (n, B) >= 0`.
    Each agent has its own encoders, and all agents share the graph convolution and the decoder. The network is equivariant: a
    permutation of the agents and their encoders permutes the output.
    """
    encoder, convolution, decoder = (
        layer(module) for module in (NodeEncoder(hidden_size), SplitDense(hidden_size), MLP((hidden_size, 1)))
    )

    def init_one(key: jax.Array, size: tuple[int, int]) -> Params:
        return encoder.init(key, *(jnp.zeros((1, width)) for width in (*size, 1)))

    def init(key: jax.Array) -> Params:
        messages_key, own_key, convolution_key, decoder_key = jax.random.split(key, 4)
        sizes = tuple(zip(spec.observation_sizes, spec.action_sizes, strict=True))
        return {
            "messages": init_agents(init_one, sizes, messages_key),
            "own": init_agents(init_one, sizes, own_key),
            "convolution": convolution.init(convolution_key, jnp.zeros((1, hidden_size))),
            "decoder": decoder.init(decoder_key, jnp.zeros((1, 2 * hidden_size))),
        }

    def apply(
        params: Params, observation: jax.Array, action_features: jax.Array, log_epsilon: jax.Array, weights: jax.Array
    ) -> jax.Array:
        n, batch_size, _ = observation.shape
        chex.assert_shape(log_epsilon, (n,))
        chex.assert_shape(weights, (n, n, batch_size))
        inputs = (observation, action_features, jnp.broadcast_to(log_epsilon[:, None, None], (n, batch_size, 1)))
        encode = jax.vmap(encoder.apply)
        messages = convolution.apply(params["convolution"], encode(params["messages"], *inputs))
        received = leaky_relu(jax.vmap(graph_convolution, (1, 2), 1)(messages, weights))
        joined = jnp.concatenate([received, encode(params["own"], *inputs)], -1)
        return nn.softplus(decoder.apply(params["decoder"], joined)[..., 0])

    return Network(init, apply)
