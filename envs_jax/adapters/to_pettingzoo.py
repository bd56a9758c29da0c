"""Converts environments to PettingZoo's ParallelEnv."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import gymnasium
import jax
import numpy as np
from pettingzoo import ParallelEnv

from envs_jax.environment import Box, Discrete, Environment, EnvState, TimeStep
from envs_jax.reference_policies import idle_action
from envs_jax.rendering import frame, scenes

RenderMode = Literal["rgb_array", "human"] | None


def to_pettingzoo(env: Environment, render_mode: RenderMode = None) -> ParallelEnv:
    """Converts `env` to a PettingZoo ParallelEnv. `pettingzoo.utils.parallel_to_aec` turns that into an AECEnv.

    Observations are float32 vectors of each agent's own width. Actions are ints or float32 vectors. `state()` is the
    concatenation of all observations. An agent that terminates before the others leaves `agents` and is idle afterwards. If the
    spec has action masks, they are in the infos of reset and step, as `infos[agent]["action_mask"]`, int8.

    Raises:
        ValueError: if the render mode is unknown, or if the environment has no `scene` to render.
    """
    if render_mode not in (None, *JaxParallelEnv.metadata["render_modes"]):
        raise ValueError(f"render_mode={render_mode!r} is not valid: give None, 'rgb_array' or 'human'.")
    if render_mode:
        scenes(env)
    return JaxParallelEnv(env, render_mode)


def gymnasium_space(space: Discrete | Box) -> gymnasium.Space:
    """Converts an action space to Gymnasium."""
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.num_actions)
    return gymnasium.spaces.Box(space.low, space.high, (space.size,), np.float32)


@partial(jax.jit, static_argnums=0)
def _reset(env: Environment, key: jax.Array) -> tuple[EnvState, TimeStep]:
    return env.reset(key)


@partial(jax.jit, static_argnums=0)
def _step(env: Environment, key: jax.Array, state: EnvState, action: Any) -> tuple[EnvState, TimeStep]:
    return env.step(key, state, action)


class JaxParallelEnv(ParallelEnv):
    """The environment that `to_pettingzoo` returns: bookkeeping on the host around a jitted reset and step."""

    metadata = {"render_modes": ["rgb_array", "human"], "is_parallelizable": True, "render_fps": 10}

    def __init__(self, env: Environment, render_mode: RenderMode = None) -> None:
        """Makes the spaces; compiles nothing."""
        spec = env.spec
        self.metadata = {**type(self).metadata, "name": spec.name}
        self.render_mode = render_mode
        self.possible_agents = list(spec.agent_names)
        self.agents: list[str] = []
        self.action_spaces = dict(zip(spec.agent_names, map(gymnasium_space, spec.action_spaces), strict=True))
        self.observation_spaces = {
            name: gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
            for name, size in zip(spec.agent_names, spec.observation_sizes, strict=True)
        }
        self.state_space = gymnasium.spaces.Box(-np.inf, np.inf, (sum(spec.observation_sizes),), np.float32)
        self._env = env
        self._idle = idle_action(spec)
        self._key: jax.Array | None = None
        self._state: EnvState = None
        self._observation = np.zeros(0, np.float32)

    def observation_space(self, agent: str) -> gymnasium.Space:
        """Observation space of an agent, the same object in every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space:
        """Action space of an agent, the same object in every call."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
        """Starts a new episode. Without a seed it continues the random stream of the last seed."""
        del options
        if seed is not None or self._key is None:
            self._key = jax.random.key(np.random.SeedSequence(seed).generate_state(1)[0])
        self._state, timestep = _reset(self._env, self._next_key())
        self.agents = list(self.possible_agents) if timestep.active is None else self._active(timestep.active)
        return self._observations(timestep, self.agents), self._infos(timestep, self.agents)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict]]:
        """Steps all agents; returns five dicts over the agents that were alive before the step.

        Observations and infos also include agents that appear in the step.

        Raises:
            KeyError: if a living agent has no action.
            ValueError: if an action is not in the agent's space.
        """
        if not self.agents:
            return {}, {}, {}, {}, {}
        self._state, timestep = _step(self._env, self._next_key(), self._state, self._joint(actions))
        alive = self.agents
        place = {agent: self.possible_agents.index(agent) for agent in alive}
        reward, terminated, truncated = jax.device_get((timestep.reward, timestep.terminated, timestep.truncated))
        terminations = {agent: bool(terminated[i]) for agent, i in place.items()}
        truncations = dict.fromkeys(alive, bool(truncated))
        lasting = [agent for agent in alive if not terminations[agent]]
        self.agents = [] if truncated else lasting if timestep.active is None else self._active(timestep.active)
        seen = [agent for agent in self.possible_agents if agent in {*alive, *self.agents}]
        rewards = {agent: float(reward[i]) for agent, i in place.items()}
        if self.render_mode == "human":
            self.render()
        return self._observations(timestep, seen), rewards, terminations, truncations, self._infos(timestep, seen)

    def state(self) -> np.ndarray:
        """Concatenation of all agents' observations."""
        return self._observation[np.asarray(self._env.spec.observation_mask)]

    def render(self) -> np.ndarray | None:
        """Draws the current state: returns (height, width, 3) uint8, or shows it in a window if the render mode is "human"."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() draws nothing, because render_mode is None: give to_pettingzoo a render_mode.")
            return None
        picture = frame(self._env, self._state)
        if self.render_mode == "rgb_array":
            return picture
        import matplotlib.pyplot as plt

        figure = plt.figure(self._env.spec.name)
        figure.clear()
        figure.figimage(picture)
        plt.pause(1e-3)
        return None

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self.render_mode == "human":
            import matplotlib.pyplot as plt

            plt.close(self._env.spec.name)

    def _next_key(self) -> jax.Array:
        assert self._key is not None, "step() was called before reset(): call reset() first."
        self._key, key = jax.random.split(self._key)
        return key

    def _active(self, active: jax.Array) -> list[str]:
        return [agent for agent, acts in zip(self.possible_agents, np.asarray(active), strict=True) if acts]

    def _observations(self, timestep: TimeStep, agents: Sequence[str]) -> dict[str, np.ndarray]:
        self._observation = np.asarray(timestep.observation, np.float32)
        sizes = zip(self.possible_agents, self._observation, self._env.spec.observation_sizes, strict=True)
        return {name: row[:size].copy() for name, row, size in sizes if name in agents}

    def _infos(self, timestep: TimeStep, agents: Sequence[str]) -> dict[str, dict]:
        """Infos of `agents`, with action masks if the environment has any."""
        if not self._env.spec.has_action_masks:
            return {agent: {} for agent in agents}
        masks = np.asarray(timestep.action_mask, np.int8)
        own = zip(self.possible_agents, masks, self._env.spec.action_sizes, strict=True)
        return {agent: {"action_mask": row[:size].copy()} for agent, row, size in own if agent in agents}

    def _joint(self, actions: dict[str, Any]) -> np.ndarray:
        """Joint action, (n,) or (n, k). Agents that have left are idle."""
        joint = self._idle.copy()
        for i, agent in enumerate(self.possible_agents):
            if agent not in self.agents:
                continue
            space, action = self.action_spaces[agent], np.asarray(actions[agent])
            if not (action.shape == space.shape if isinstance(space, gymnasium.spaces.Box) else space.contains(action[()])):
                raise ValueError(f"action {actions[agent]!r} of {agent} is not valid: give an element of {space}.")
            if isinstance(space, gymnasium.spaces.Box):
                joint[i, : action.size] = action
            else:
                joint[i] = action
        return joint
