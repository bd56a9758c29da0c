"""Attention critic of MAAC (Iqbal & Sha 2019): each agent attends to the observations and actions of the other agents.

Arrays are agent-major, (n, B, ...).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import EnvSpec
from mamt_jax.networks.layers import MLP, SplitDense, layer, leaky_relu
from mamt_jax.networks.per_agent import Network, init_agents
from mamt_jax.sharding import rows_are_split
from mamt_jax.types import Params

SHARED = "attention"
LOWEST = float(np.finfo(np.float32).min)


class CriticOutput(NamedTuple):
    """Output of the critics of all agents.

    Attributes:
        q: (n, B, K), Q_i(o, (candidate, a_-i)) for each candidate action of agent i.
        squared_logits: (n, B), squared attention logits, averaged over the other agents and summed over heads.
        attention: (n, n), [i, j] is the attention weight of agent j in the critic of agent i, averaged over batch and heads.
            Each row sums to 1.
    """

    q: jax.Array
    squared_logits: jax.Array
    attention: jax.Array


class AttentionCritic(NamedTuple):
    """Centralized critics of all agents, as pure functions.

    Attributes:
        init: key -> params. All leaves have a leading agent axis, except those in `params["attention"]`.
        values: (params, observation (n, B, d), action features (n, B, A), candidates (n, B, K) or (n, B, K, k))
            -> CriticOutput.
        swapped_values: (params, observation, action, action features, candidates) -> (n, n, B, K). [i, j, :, c] is
            Q_i with the action of agent j replaced by candidate c of agent j. The entries with i = j are undefined.
    """

    init: Callable[[jax.Array], Params]
    values: Callable[[Params, jax.Array, jax.Array, jax.Array], CriticOutput]
    swapped_values: Callable[[Params, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


class Architecture(NamedTuple):
    """Architecture of the critic.

    Attributes:
        spec: spec of the environment.
        hidden_size: width H of every hidden layer.
        num_heads: number h of attention heads, each of width m = H / h.
        features: function from actions to inputs of the networks.
    """

    spec: EnvSpec
    hidden_size: int
    num_heads: int
    features: Callable[[jax.Array], jax.Array]

    @property
    def dense(self) -> Network:
        """Hidden layer."""
        return layer(SplitDense(self.hidden_size))

    def value(self, num_actions: int) -> Network:
        """Last layer: one value per action if actions are discrete, else the value of the input action."""
        return layer(MLP((num_actions if self.spec.discrete else 1,)))

    def heads(self, x: jax.Array) -> jax.Array:
        """Split the last axis into heads: (..., H) -> (..., h, m)."""
        return x.reshape(*x.shape[:-1], self.num_heads, self.hidden_size // self.num_heads)


def attention_critic(
    spec: EnvSpec, hidden_size: int, num_heads: int, features: Callable[[jax.Array], jax.Array]
) -> AttentionCritic:
    """Build the critic of Eq. 9 for agents of `spec`.

    The encodings are `s_i = f_i(o_i)` and `e_j = g_j(o_j, a_j)`. Each head attends from s_i to all e_j with j != i. The value
    is `Q_i = MLP_i([s_i, heads])` for all actions of agent i at once (discrete), or `MLP_i([s_i, heads, a_i])` (continuous).
    `features` maps actions to inputs of the networks (`ActionDistribution.features`).

    Raises:
        ValueError: if `hidden_size` is not a multiple of `num_heads`.
    """
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} must be a multiple of num_heads {num_heads}.")
    sizes = Architecture(spec, hidden_size, num_heads, features)
    return AttentionCritic(partial(init, sizes), partial(values, sizes), partial(swapped_values, sizes))


def init(sizes: Architecture, key: jax.Array) -> Params:
    """Initialise encoders and last layers per agent, at the widths of its spaces, and the attention that all agents share."""
    agents_key, *shared_keys = jax.random.split(key, 4)
    agent_sizes = tuple(zip(sizes.spec.observation_sizes, sizes.spec.action_sizes, strict=True))
    agents = init_agents(lambda key, size: init_agent(sizes, key, *size), agent_sizes, agents_key)
    shared = layer(MLP((sizes.hidden_size,)))
    example = jnp.zeros((1, sizes.hidden_size))
    query, key_map, value = (shared.init(k, example)["params"]["Dense_0"] for k in shared_keys)
    return agents | {
        SHARED: {"query": query["kernel"], "key": key_map["kernel"], "value": value["kernel"], "bias": value["bias"]}
    }


def init_agent(sizes: Architecture, key: jax.Array, observation_size: int, action_size: int) -> Params:
    """Initialise the parameters that are not shared, for one agent."""
    observation, action, hidden = (jnp.zeros((1, width)) for width in (observation_size, action_size, sizes.hidden_size))
    state_key, action_key, hidden_key, value_key = jax.random.split(key, 4)
    return {
        "state": sizes.dense.init(state_key, observation),
        "action": sizes.dense.init(action_key, observation, action),
        "hidden": sizes.dense.init(hidden_key, hidden, hidden, *(() if sizes.spec.discrete else (action,))),
        "value": sizes.value(action_size).init(value_key, hidden),
    }


def encode_state(sizes: Architecture, params: Params, observation: jax.Array) -> jax.Array:
    """Encode observations: `s_i = f_i(o_i)`, (n, ..., H)."""
    return leaky_relu(jax.vmap(sizes.dense.apply)(params["state"], observation))


def encode_action(sizes: Architecture, params: Params, observation: jax.Array, features: jax.Array) -> jax.Array:
    """Encode observations and actions: `e_j = g_j(o_j, a_j)`, (n, ..., H)."""
    return leaky_relu(jax.vmap(sizes.dense.apply)(params["action"], observation, features))


def shared_dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute `x @ kernel` as one matrix product over all leading axes, whose backward pass is faster.

    Rows that devices share stay apart from agents. XLA would collect them on every device.
    """
    return x @ kernel if rows_are_split() else (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def queries(sizes: Architecture, params: Params, state: jax.Array) -> jax.Array:
    """Compute the queries `W_q s_i` per head, (..., h, m)."""
    return sizes.heads(shared_dense(state, params[SHARED]["query"]))


def keys_and_values(sizes: Architecture, params: Params, encoding: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the keys `W_k e_j` and the values `LeakyReLU(W_v e_j + b)` per head, (..., h, m)."""
    key, value = (shared_dense(encoding, params[SHARED][name]) for name in ("key", "value"))
    bias = params[SHARED]["bias"].reshape((1,) * (encoding.ndim - 1) + (-1,))
    return sizes.heads(key), sizes.heads(leaky_relu(value + bias))


def own_values(
    sizes: Architecture, agent_params: Params, state: jax.Array, attended: jax.Array, candidates: jax.Array
) -> jax.Array:
    """Compute Q of one agent for its candidates (..., K) or (..., K, k). `state` and `attended` are (..., H)."""
    value = sizes.value(sizes.spec.action_size)
    if sizes.spec.discrete:
        hidden = leaky_relu(sizes.dense.apply(agent_params["hidden"], state, attended))
        return jnp.take_along_axis(value.apply(agent_params["value"], hidden), candidates, -1)
    hidden = sizes.dense.apply(agent_params["hidden"], state[..., None, :], attended[..., None, :], candidates)
    return value.apply(agent_params["value"], leaky_relu(hidden))[..., 0]


def agents_only(params: Params) -> Params:
    """Select the parameters with a leading agent axis."""
    return {name: leaf for name, leaf in params.items() if name != SHARED}


def values(
    sizes: Architecture, params: Params, observation: jax.Array, features: jax.Array, candidates: jax.Array
) -> CriticOutput:
    """Implement `AttentionCritic.values`."""
    n = sizes.spec.num_agents
    chex.assert_shape(observation, (n, None, sizes.spec.observation_size))
    chex.assert_shape(features, (n, None, sizes.spec.action_size))
    state = encode_state(sizes, params, observation)
    key, value = keys_and_values(sizes, params, encode_action(sizes, params, observation, features))
    logits = jnp.einsum("ibhm,jbhm->ijbh", queries(sizes, params, state), key)
    others = ~np.eye(n, dtype=bool)[..., None, None]
    weights = jax.nn.softmax(jnp.where(others, logits / np.sqrt(key.shape[-1]), LOWEST), 1)
    attended = jnp.einsum("ijbh,jbhm->ibhm", weights, value).reshape(state.shape)
    squared_logits = jnp.where(others, jnp.square(logits), 0.0).sum((1, 3)) / (n - 1)
    q = jax.vmap(partial(own_values, sizes))(agents_only(params), state, attended, candidates)
    return CriticOutput(q, squared_logits, weights.mean((2, 3)))


def swapped_values(
    sizes: Architecture,
    params: Params,
    observation: jax.Array,
    action: jax.Array,
    features: jax.Array,
    candidates: jax.Array,
) -> jax.Array:
    """Implement `AttentionCritic.swapped_values`.

    A new action of j changes only the key and the value of j, and therefore only one term of each attention sum.
    """
    n = sizes.spec.num_agents
    state = encode_state(sizes, params, observation)
    key, value = keys_and_values(sizes, params, encode_action(sizes, params, observation, features))
    swapped = encode_action(sizes, params, observation[..., None, :], sizes.features(candidates))
    swapped_key, swapped_value = keys_and_values(sizes, params, swapped)
    query, scale = queries(sizes, params, state), 1.0 / np.sqrt(key.shape[-1])

    # The attention of i to agents other than j does not depend on the candidate of j. It is computed once.
    others = ~np.eye(n, dtype=bool)
    remaining = (others[:, None] & others[None])[..., None, None]
    logits = jnp.where(remaining, jnp.einsum("ibhm,lbhm->ilbh", query, key)[:, None] * scale, LOWEST)
    rest = jnp.einsum("ijlbh,lbhm->ijbhm", jax.nn.softmax(logits, 2), value)
    swapped_logits = jnp.einsum("ibhm,jbkhm->ijbkh", query, swapped_key) * scale
    share = jax.nn.sigmoid(swapped_logits - jax.nn.logsumexp(logits, 2)[:, :, :, None])

    def of_agent(agent: tuple[Params, jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
        agent_params, own_state, own_action, own_rest, own_share = agent
        base = own_rest[:, :, None]
        attended = base + own_share[..., None] * (swapped_value - base)
        rows = attended.shape[:3]
        own = jnp.broadcast_to(own_action[None, :, None, None], (*rows, 1, *own_action.shape[1:]))
        return own_values(sizes, agent_params, own_state[None, :, None], attended.reshape(*rows, -1), own)[..., 0]

    return jax.lax.map(of_agent, (agents_only(params), state, action, rest, share))
