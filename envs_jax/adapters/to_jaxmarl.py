"""Converts environments to JaxMARL's MultiAgentEnv."""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxmarl.environments import MultiAgentEnv, State, spaces

from envs_jax.environment import Discrete, Environment, TimeStep


@flax.struct.dataclass
class AdaptedState(State):
    """JaxMARL's state with `done` and `step`, and the data for `get_obs` and `get_avail_actions`.

    Attributes:
        inner: state of the converted environment.
        observation: (n, d) float32.
        action_mask: (n, A) bool.
    """

    inner: Any
    observation: jax.Array
    action_mask: jax.Array


def to_jaxmarl(env: Environment) -> MultiAgentEnv:
    """Converts `env` to a JaxMARL environment with dicts over agents, without padding.

    `step_env` has no automatic reset. `step` of JaxMARL also starts the next episode in the step that ends one. `dones` do not
    distinguish termination from truncation. Metrics are in `infos`, repeated for every agent, as JaxMARL's training scripts
    expect.
    """
    return JaxMultiAgentEnv(env)


class JaxMultiAgentEnv(MultiAgentEnv):
    """The environment that `to_jaxmarl` returns."""

    def __init__(self, env: Environment) -> None:
        """Makes the spaces; compiles nothing."""
        spec = env.spec
        super().__init__(spec.num_agents)
        self.agents = list(spec.agent_names)
        self.observation_spaces = {
            agent: spaces.Box(-jnp.inf, jnp.inf, (size,))
            for agent, size in zip(self.agents, spec.observation_sizes, strict=True)
        }
        self.action_spaces = {
            agent: spaces.Discrete(space.num_actions)
            if isinstance(space, Discrete)
            else spaces.Box(space.low, space.high, (space.size,))
            for agent, space in zip(self.agents, spec.action_spaces, strict=True)
        }
        self._env = env

    @property
    def name(self) -> str:
        """Name of the converted environment."""
        return self._env.spec.name

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        """Agents by the prefix of their names: {"rover": ["rover_0", "rover_1"], ...}."""
        words = [agent.rpartition("_")[0] or agent for agent in self.agents]
        return {word: [agent for agent, own in zip(self.agents, words, strict=True) if own == word] for word in words}

    @partial(jax.jit, static_argnums=0)
    def reset(self, key: jax.Array) -> tuple[dict[str, jax.Array], AdaptedState]:
        """Starts a new episode; returns observations and state."""
        inner, timestep = self._env.reset(key)
        state = _state(inner, timestep, jnp.zeros((), jnp.int32))
        return self.get_obs(state), state

    @partial(jax.jit, static_argnums=0)
    def step_env(
        self, key: jax.Array, state: AdaptedState, actions: dict[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], AdaptedState, dict[str, jax.Array], dict[str, jax.Array], dict[str, jax.Array]]:
        """Steps without automatic reset; returns observations, state, rewards, dones with "__all__", and infos."""
        inner, timestep = self._env.step(key, state.inner, self._joint(actions))
        state = _state(inner, timestep, state.step + 1)
        dones = {**self._views(timestep.terminated | timestep.done), "__all__": timestep.done}
        infos = {name: jnp.broadcast_to(metric, self.num_agents) for name, metric in timestep.metrics.items()}
        return self.get_obs(state), state, self._views(timestep.reward), dones, infos

    def get_obs(self, state: AdaptedState) -> dict[str, jax.Array]:
        """Observation of each agent, without padding."""
        sizes = self._env.spec.observation_sizes
        return {agent: state.observation[i, : sizes[i]] for i, agent in enumerate(self.agents)}

    def get_avail_actions(self, state: AdaptedState) -> dict[str, jax.Array]:
        """Allowed actions of each agent, (number of its actions,) bool."""
        sizes = self._env.spec.action_sizes
        return {agent: state.action_mask[i, : sizes[i]] for i, agent in enumerate(self.agents)}

    def _views(self, values: jax.Array) -> dict[str, jax.Array]:
        return {agent: values[i] for i, agent in enumerate(self.agents)}

    def _joint(self, actions: dict[str, jax.Array]) -> jax.Array:
        """Joint action, (n,) int32, or (n, k) float32 zero-padded."""
        spec = self._env.spec
        if spec.discrete:
            return jnp.stack([jnp.asarray(actions[agent], jnp.int32).reshape(()) for agent in self.agents])
        rows = [jnp.asarray(actions[agent], jnp.float32) for agent in self.agents]
        return jnp.stack([jnp.pad(row, (0, spec.action_size - row.size)) for row in rows])


def _state(inner: Any, timestep: TimeStep, step: jax.Array) -> AdaptedState:
    return AdaptedState(timestep.done, step, inner, timestep.observation, timestep.action_mask)
