"""Repeat First: agents see a symbol once and repeat it until the episode ends. Only policies with a memory can."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Discrete, Environment, EnvSpec, TimeStep, make_timestep, no_noise
from envs_jax.scene import INK, Scene, Shape, colour
from envs_jax.validation import require_count


class RepeatFirstState(NamedTuple):
    """State of Repeat First.

    Attributes:
        symbol: (n,) int32, the symbol of each agent.
        action: (n,) int32, the symbol that each agent named last; -1 before the first step.
        step: () int32, number of steps.
    """

    symbol: jax.Array
    action: jax.Array
    step: jax.Array


def _timestep(spec: EnvSpec, state: RepeatFirstState) -> TimeStep:
    first = state.step == 0
    observation = jax.nn.one_hot(jnp.where(first, state.symbol, -1), spec.observation_size)
    right = (state.action == state.symbol).astype(jnp.float32)
    return make_timestep(
        spec,
        observation,
        reward=right / spec.episode_limit,
        truncated=state.step >= spec.episode_limit,
        metrics={"right": right.mean()},
    )


def _reset(key: jax.Array, spec: EnvSpec) -> tuple[RepeatFirstState, TimeStep]:
    symbol = jax.random.randint(key, (spec.num_agents,), 0, spec.observation_size)
    state = RepeatFirstState(symbol, jnp.full(spec.num_agents, -1, jnp.int32), jnp.zeros((), jnp.int32))
    return state, _timestep(spec, state)


def _transition(
    state: RepeatFirstState, action: jax.Array, noise: tuple[()], spec: EnvSpec
) -> tuple[RepeatFirstState, TimeStep]:
    del noise
    state = state._replace(action=action.astype(jnp.int32), step=state.step + 1)
    return state, _timestep(spec, state)


def _scene(state: RepeatFirstState, episode_limit: int) -> Scene:
    """Draws each agent's symbol, and below it what the agent said last."""
    shapes = []
    for agent, (symbol, said) in enumerate(zip(np.asarray(state.symbol), np.asarray(state.action), strict=True)):
        shapes.append(Shape("disc", agent, 0.5, 0.3, colour(agent), str(symbol)))
        shapes.append(Shape("square", agent, -0.5, 0.3, INK, str(said) if said >= 0 else ""))
    return Scene((-0.6, -1.0), (len(state.symbol) - 0.4, 1.0), shapes, f"Step {state.step} of {episode_limit}", 2.0)


def repeat_first(num_agents: int = 2, num_symbols: int = 4, episode_limit: int = 10) -> Environment:
    """Repeat First: each agent sees a symbol in the first step, and names it in every step of the episode.

    - observation: the agent's symbol as a one-hot vector in the first step, 0 later.
    - action: the symbol that the agent names, int32.
    - reward: 1 / `episode_limit` for the right symbol. A return of 1 is the highest. Without memory the highest expected return
      is (1 + (`episode_limit` - 1) / `num_symbols`) / `episode_limit`, 0.325 with the defaults.
    - termination: never; truncated after `episode_limit` steps.
    - state: `RepeatFirstState`.

    The metric `right` is the share of agents that named their symbol. The scripted policy always does. The task is that of
    POPGym's RepeatFirst (Morad et al. 2023), with a symbol for each agent.

    Args:
        num_agents: number of agents.
        num_symbols: number of symbols.
        episode_limit: number of steps in an episode.

    Raises:
        ValueError: if an option is not a positive integer.
    """
    for name, value in (("num_agents", num_agents), ("num_symbols", num_symbols), ("episode_limit", episode_limit)):
        require_count(name, value)
    spec = EnvSpec(
        name="repeat_first",
        agent_names=tuple(f"agent_{i}" for i in range(num_agents)),
        observation_sizes=(num_symbols,) * num_agents,
        action_spaces=(Discrete(num_symbols),) * num_agents,
        episode_limit=episode_limit,
    )
    return Environment(
        spec=spec,
        reset=functools.partial(_reset, spec=spec),
        transition=functools.partial(_transition, spec=spec),
        sample_noise=no_noise,
        scripted=lambda key, state: state.symbol,
        scene=functools.partial(_scene, episode_limit=episode_limit),
        dependence=lambda state: jnp.zeros((num_agents, num_agents), bool),
    )
