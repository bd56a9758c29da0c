"""A task that is learnt in a second, and an algorithm that does: for tests of everything around them.

Each agent sees one of three symbols and earns 1 for naming it. Episodes last five steps, or end early where asked.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from envs_jax.environment import Discrete, Environment, EnvSpec, TimeStep, make_timestep
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.types import Metrics, Transition

SYMBOLS = 3
TRACES = {"update": 0, "transition": 0}
"""How often jax has traced them."""


class SymbolState(NamedTuple):
    symbol: jax.Array  # (n,)
    next_symbol: jax.Array  # (n,)
    step: jax.Array  # ()


def symbols(num_agents: int = 2, episode_limit: int = 5) -> Environment:
    """The task.

    Args:
        num_agents: how many name their symbol.
        episode_limit: steps before truncation.
    """
    if num_agents < 1:
        raise ValueError(f"num_agents={num_agents} is not valid: num_agents must be a positive integer.")
    names = tuple(f"namer_{i}" for i in range(num_agents))
    spec = EnvSpec("symbols", names, (SYMBOLS,) * num_agents, (Discrete(SYMBOLS),) * num_agents, episode_limit)

    def show(state: SymbolState, reward: jax.Array) -> tuple[SymbolState, TimeStep]:
        observation = jax.nn.one_hot(state.symbol, SYMBOLS)
        ended = state.step >= episode_limit
        return state, make_timestep(spec, observation, reward, truncated=ended, metrics={"named": reward.mean()})

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (num_agents,), 0, SYMBOLS)

    def reset(key: jax.Array) -> tuple[SymbolState, TimeStep]:
        symbol_key, next_key = jax.random.split(key)
        state = SymbolState(draw(symbol_key), draw(next_key), jnp.zeros((), jnp.int32))
        return show(state, jnp.zeros(num_agents))

    def sample_noise(key: jax.Array, state: SymbolState) -> jax.Array:
        return draw(key)

    def transition(state: SymbolState, action: jax.Array, noise: jax.Array) -> tuple[SymbolState, TimeStep]:
        TRACES["transition"] += 1
        reward = (action == state.symbol).astype(jnp.float32)
        return show(SymbolState(state.next_symbol, noise, state.step + 1), reward)

    return Environment(spec, reset, transition, sample_noise, scripted=lambda key, state: state.symbol)


@struct.dataclass
class NamerConfig:
    """Hyperparameters."""

    learning_rate: float = 0.5
    """Step of the values."""
    temperature: float = 0.2
    """Of the softmax that explores."""
    size: int = struct.field(pytree_node=False, default=1)
    """Copies of the values, to take room."""


class NamerState(NamedTuple):
    value: jax.Array  # (n, d, a, size)
    key: jax.Array
    updates: jax.Array


def make(spec: EnvSpec) -> Algorithm:
    """Values of actions, linear in the observation."""

    def values(learner: NamerState, observation: jax.Array) -> jax.Array:
        return jnp.einsum("...nd,nda->...na", observation, learner.value[..., 0])

    def init(config: NamerConfig, key: jax.Array) -> NamerState:
        value_key, own_key = jax.random.split(key)
        shape = (spec.num_agents, spec.observation_size, spec.action_size, config.size)
        return NamerState(0.01 * jax.random.normal(value_key, shape), own_key, jnp.zeros((), jnp.int32))

    def act(config: NamerConfig, learner: NamerState, observation: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, values(learner, observation) / config.temperature)

    def greedy(config: NamerConfig, learner: NamerState, observation: jax.Array) -> jax.Array:
        return values(learner, observation).argmax(-1).astype(jnp.int32)

    def update(config: NamerConfig, learner: NamerState, batch: Transition, key: jax.Array) -> tuple[NamerState, Metrics]:
        TRACES["update"] += 1

        def loss(value: jax.Array) -> Any:
            predicted = values(learner._replace(value=value), batch.observation)
            chosen = jnp.take_along_axis(predicted, batch.action[..., None], -1)[..., 0]
            return jnp.square(chosen - batch.reward).mean(0).sum()

        noise = 1e-3 * jax.random.normal(key, learner.value.shape)
        value = learner.value - config.learning_rate * (jax.grad(loss)(learner.value) + noise)
        metrics = {"loss": loss(learner.value), "update": 1.0 * learner.updates, "value": value.mean((1, 2, 3))}
        return NamerState(value, learner.key, learner.updates + 1), metrics

    def policy(learner: NamerState) -> Any:
        return learner._replace(key=None, updates=None)  # type: ignore[arg-type]

    return Algorithm(NamerConfig, init, act, greedy, update, policy)
