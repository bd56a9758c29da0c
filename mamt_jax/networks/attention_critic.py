"""MAAC's critic (Iqbal & Sha 2019): every agent attends to what the others see and do. Agent-major: arrays are (n, B, ...)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import EnvSpec
from mamt_jax.networks.agent_axis import init_agents
from mamt_jax.networks.layers import MLP, SplitDense, layer, leaky_relu
from mamt_jax.types import Params

SHARED = "attention"
LOWEST = float(np.finfo(np.float32).min)


class CriticOutput(NamedTuple):
    """Values of each agent's own candidate actions, and what the attention regulariser needs.

    Attributes:
        q: (n, B, K), Q_i(o, (candidate, a_-i)).
        squared_logits: (n,), each agent's squared attention logits, mean over batch and others, summed over heads.
    """

    q: jax.Array
    squared_logits: jax.Array


class AttentionCritic(NamedTuple):
    """Central critics of all agents as pure functions.

    Attributes:
        init: key -> params; all but `params["attention"]` has a leading agent axis.
        values: (params, observation (n, B, d), action features (n, B, A), candidates (n, B, K) or (n, B, K, k))
            -> CriticOutput.
        swapped_values: (params, observation, action, action features, candidates) -> (n, n, B, K): [i, j, :, c] is Q_i
            with agent j's action replaced by j's candidate c, all other actions as given. The diagonal means nothing.
    """

    init: Callable[[jax.Array], Params]
    values: Callable[[Params, jax.Array, jax.Array, jax.Array], CriticOutput]
    swapped_values: Callable[[Params, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def attention_critic(spec: EnvSpec, hidden_size: int, num_heads: int, candidate_features: Callable) -> AttentionCritic:
    """Build the critic of Eq. 9 for agents of `spec`.

    For agent i: `s_i = f_i(o_i)`, `e_j = g_j(o_j, a_j)`; each head attends from s_i to all e_j, j != i; then
    `Q_i = MLP_i([s_i, heads])` for all own actions at once (discrete), or `MLP_i([s_i, heads, a_i])` (continuous).
    `candidate_features` maps actions to what the networks read (`ActionDistribution.features`).

    Raises:
        ValueError: if `hidden_size` is not a multiple of `num_heads`.
    """
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} must be a multiple of num_heads {num_heads}")
    n, head_size = spec.num_agents, hidden_size // num_heads
    others = ~np.eye(n, dtype=bool)
    encoder = layer(SplitDense(hidden_size))
    value_layer = layer(MLP((spec.action_size if spec.discrete else 1,)))

    def init_one(key: jax.Array, size: tuple[int, int]) -> Params:
        observation, action = (jnp.zeros((1, width)) for width in size)
        features = jnp.zeros((1, hidden_size))
        state_key, action_key, hidden_key, value_key = jax.random.split(key, 4)
        own_action = () if spec.discrete else (action,)
        return {
            "state": encoder.init(state_key, observation),
            "action": encoder.init(action_key, observation, action),
            "hidden": encoder.init(hidden_key, features, features, *own_action),
            "value": layer(MLP((size[1] if spec.discrete else 1,))).init(value_key, features),
        }

    def init(key: jax.Array) -> Params:
        agents_key, *shared_keys = jax.random.split(key, 4)
        agents = init_agents(init_one, tuple(zip(spec.observation_sizes, spec.action_sizes, strict=True)), agents_key)
        features = jnp.zeros((1, hidden_size))
        maps = [MLP((hidden_size,)).init(k, features)["params"]["Dense_0"] for k in shared_keys]
        kernels = {"query": {"kernel": maps[0]["kernel"]}, "key": {"kernel": maps[1]["kernel"]}}
        return agents | {SHARED: kernels | {"value": maps[2]}}

    def split_heads(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], num_heads, head_size)

    def query(params: Params, state: jax.Array) -> jax.Array:
        return split_heads(shared_dense(state, params[SHARED]["query"]["kernel"]))

    def key_and_value(params: Params, encoding: jax.Array) -> tuple[jax.Array, jax.Array]:
        key, value = (shared_dense(encoding, params[SHARED][name]["kernel"]) for name in ("key", "value"))
        return split_heads(key), split_heads(leaky_relu(value + rank_up(params[SHARED]["value"]["bias"], encoding.ndim)))

    def encode_state(params: Params, observation: jax.Array) -> jax.Array:
        return leaky_relu(jax.vmap(encoder.apply)(params["state"], observation))

    def encode_action(params: Params, observation: jax.Array, features: jax.Array) -> jax.Array:
        return leaky_relu(jax.vmap(encoder.apply)(params["action"], observation, features))

    def own_values(agent_params: Params, state: jax.Array, attended: jax.Array, candidates: jax.Array) -> jax.Array:
        """One agent's Q of its candidates (..., K) or (..., K, k); state and attended (..., H)."""
        if spec.discrete:
            hidden = leaky_relu(encoder.apply(agent_params["hidden"], state, attended))
            return jnp.take_along_axis(value_layer.apply(agent_params["value"], hidden), candidates, -1)
        hidden = encoder.apply(agent_params["hidden"], state[..., None, :], attended[..., None, :], candidates)
        return value_layer.apply(agent_params["value"], leaky_relu(hidden))[..., 0]

    def values(params: Params, observation: jax.Array, features: jax.Array, candidates: jax.Array) -> CriticOutput:
        chex.assert_shape(observation, (n, None, spec.observation_size))
        chex.assert_shape(features, (n, None, spec.action_size))
        state, encoding = encode_state(params, observation), encode_action(params, observation, features)
        key, value = key_and_value(params, encoding)
        logits = jnp.einsum("ibhm,jbhm->ijbh", query(params, state), key)
        weights = jax.nn.softmax(jnp.where(others[..., None, None], logits / np.sqrt(head_size), LOWEST), 1)
        attended = jnp.einsum("ijbh,jbhm->ibhm", weights, value).reshape(state.shape)
        squared = jnp.where(others[..., None, None], jnp.square(logits), 0.0).sum((1, 3)).mean(1) / (n - 1)
        return CriticOutput(jax.vmap(own_values)(agents_only(params), state, attended, candidates), squared)

    def swapped_values(
        params: Params, observation: jax.Array, action: jax.Array, features: jax.Array, candidates: jax.Array
    ) -> jax.Array:
        state = encode_state(params, observation)
        key, value = key_and_value(params, encode_action(params, observation, features))
        swapped = encode_action(params, observation[..., None, :], candidate_features(candidates))
        swapped_key, swapped_value = key_and_value(params, swapped)

        def of_agent(agent: tuple[Params, jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
            agent_params, own_state, own_query, own_action, other = agent
            # What i attends to besides j is the same for all of j's candidates: formed once, then j's term is blended in.
            remaining = other & ~np.eye(n, dtype=bool)
            logits = jnp.einsum("bhm,lbhm->bhl", own_query, key)[:, :, None] / np.sqrt(head_size)
            rest = jnp.einsum("bhjl,lbhm->jbhm", masked_softmax(logits, remaining), value)
            log_rest = jax.nn.logsumexp(jnp.where(remaining, logits, LOWEST), -1).transpose(2, 0, 1)
            swapped_logits = jnp.einsum("bhm,jbkhm->jbkh", own_query, swapped_key) / np.sqrt(head_size)
            share = jax.nn.sigmoid(swapped_logits - log_rest[:, :, None])[..., None]
            attended = (rest[:, :, None] + share * (swapped_value - rest[:, :, None])).reshape(*share.shape[:3], hidden_size)
            own = jnp.broadcast_to(own_action[None, :, None, None], (*share.shape[:3], 1, *own_action.shape[1:]))
            return own_values(agent_params, own_state[None, :, None], attended, own)[..., 0]

        agents = (agents_only(params), state, query(params, state), action, jnp.asarray(others)[:, None])
        return jax.lax.map(of_agent, agents)

    return AttentionCritic(init, values, swapped_values)


def agents_only(params: Params) -> Params:
    """The parameters with a leading agent axis."""
    return {name: leaf for name, leaf in params.items() if name != SHARED}


def shared_dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x @ kernel` as one matrix product over all leading axes, which is the faster way back."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def masked_softmax(logits: jax.Array, mask: jax.Array | np.ndarray) -> jax.Array:
    """Softmax over the last axis among the entries where `mask` (trailing axes) holds."""
    return jax.nn.softmax(jnp.where(rank_up(mask, logits.ndim), logits, LOWEST), -1)


def rank_up(x: Any, ndim: int) -> Any:
    """`x` with leading axes of length one up to rank `ndim`."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)
