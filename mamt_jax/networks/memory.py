"""Memory of policies: one GRU per agent, which reads the agent's observations in order of time."""

from typing import Literal, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mamt_jax.networks.layers import UNIFORM_FAN_IN, layer
from mamt_jax.networks.per_agent import Network, init_agents
from mamt_jax.types import Params

Memory = Literal["none", "gru"]


class History(NamedTuple):
    """What a memory needs besides the rows of S sequences of T steps. Rows are in order of time, (n, T x S, ...).

    Attributes:
        hidden_state: (n, S, h), hidden states before the first step.
        begins: (n, T x S) bool, whether an episode begins with this row; its hidden state before the row is then 0. None if
            none does.
    """

    hidden_state: jax.Array
    begins: jax.Array | None = None


def gru_per_agent(input_sizes: tuple[int, ...], hidden_size: int) -> Network:
    """Build one GRU per agent (Cho et al. 2014), without shared parameters. Kernels start as those of all layers here.

    `apply(params, inputs (n, T x S, d), history)` returns the hidden states after each row, (n, T x S, h).
    """
    cell = layer(nn.GRUCell(hidden_size, kernel_init=UNIFORM_FAN_IN, recurrent_kernel_init=UNIFORM_FAN_IN))

    def init_one(key: jax.Array, size: int) -> Params:
        return cell.init(key, jnp.zeros((1, hidden_size)), jnp.zeros((1, size)))

    def init(key: jax.Array) -> Params:
        return init_agents(init_one, input_sizes, key)

    def apply(params: Params, inputs: jax.Array, history: History) -> jax.Array:
        hidden_state, begins = history
        chex.assert_shape(inputs, (len(input_sizes), None, max(input_sizes)))
        chex.assert_shape(hidden_state, (len(input_sizes), None, hidden_size))
        begins = jnp.zeros(inputs.shape[:2], bool) if begins is None else begins

        def by_time(x: jax.Array) -> jax.Array:
            return x.reshape(len(x), -1, hidden_state.shape[1], *x.shape[2:]).swapaxes(0, 1)

        def step(hidden_state: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            row, begins = now
            before = jnp.where(begins[..., None], 0.0, hidden_state)
            after, _ = jax.vmap(cell.apply)(params, before, row)
            return after, after

        _, after = jax.lax.scan(step, hidden_state, (by_time(inputs), by_time(begins)))
        return after.swapaxes(0, 1).reshape(*inputs.shape[:2], hidden_size)

    return Network(init, apply)


def remember(memory: Network | None, params: Params, observation: jax.Array, history: History | None) -> jax.Array:
    """Put the hidden states after each row before the observations, (n, B, h + d). Without a memory these do not change.

    Args:
        memory: the memory; None if there is none.
        params: parameters of policies with this memory, from `with_memory`.
        observation: (n, B, d).
        history: history of these rows; None without a memory.
    """
    if memory is None or history is None:
        return observation
    return jnp.concatenate([memory.apply(params["memory"], observation, history), observation], -1)


def with_memory(memory: Network, policy: Network) -> Network:
    """Add the parameters of `memory` to those of `policy`, whose inputs are results of `remember`."""

    def init(key: jax.Array) -> Params:
        memory_key, policy_key = jax.random.split(key)
        return {"memory": memory.init(memory_key), "policy": policy.init(policy_key)}

    return Network(init, lambda params, *inputs: policy.apply(params["policy"], *inputs))
