"""The probe's task as somebody else's PettingZoo environment, which can end, lose an agent, break, die or hang."""

import os
import subprocess
import time
from functools import partial

import gymnasium
import numpy as np
from pettingzoo import ParallelEnv

from envs_jax.adapters.from_pettingzoo import from_pettingzoo
from envs_jax.environment import HostEnvironment

LIMIT = 5
PERIODS = (LIMIT, 3)


class Symbols(ParallelEnv):
    """Each agent earns 1 for naming its symbol. Every other episode is truncated; in the rest namer_1 leaves first.

    The first seed says with which of both it begins, so that there are equally many of each.
    """

    metadata = {"name": "symbols", "render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, fault: str = "", render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.possible_agents = ["namer_0", "namer_1"]
        self.fault, self.episode = fault, -2
        self.rng = np.random.default_rng()
        box = gymnasium.spaces.Box
        self.observation_spaces = {"namer_0": box(0, 9, (2, 2)), "namer_1": box(0, 9, (3,))}
        self.action_spaces = dict.fromkeys(self.possible_agents, gymnasium.spaces.Discrete(3, start=7))

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def _look(self, agents):
        self.symbol = {agent: int(self.rng.integers(3)) for agent in self.possible_agents}
        hot = {agent: np.eye(3, dtype=np.float32)[symbol] for agent, symbol in self.symbol.items()}
        seen = {"namer_0": np.append(hot["namer_0"], self.steps / 10).reshape(2, 2), "namer_1": hot["namer_1"]}
        return {agent: seen[agent] for agent in agents}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
            self.episode = seed % 2 - 1 if self.episode < -1 else self.episode
        self.steps, self.episode, self.agents = 0, self.episode + 1, self.possible_agents[:]
        return self._look(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.steps += 1
        if self.fault == "leave a process" and self.steps == 1:
            subprocess.Popen(["sleep", "600"])
        if self.fault in ("break", "die", "hang") and self.steps == 2:
            {"break": lambda: 1 // 0, "die": lambda: os._exit(3), "hang": lambda: time.sleep(60)}[self.fault]()
        agents = self.agents
        reward = {agent: float(actions[agent] == 7 + self.symbol[agent]) for agent in agents}
        over, odd = self.steps == PERIODS[self.episode % 2], self.episode % 2
        terminated = {agent: bool(odd and (over or agent == "namer_1")) for agent in agents}
        truncated = dict.fromkeys(agents, bool(over and not odd))
        self.agents = [agent for agent in agents if not (terminated[agent] or truncated[agent])]
        return self._look(agents), reward, terminated, truncated, {agent: {"named": reward[agent]} for agent in agents}

    def render(self):
        """A row for each agent that is as long as its symbol is large."""
        picture = np.full((4, 6, 3), 255, np.uint8)
        for i, agent in enumerate(self.possible_agents):
            picture[2 * i : 2 * i + 2, : 2 * self.symbol[agent] + 2] = 0
        return picture


parallel_env = Symbols


def make(fault: str = "", processes: int = 2, episode_limit: int = LIMIT) -> HostEnvironment:
    """The task in processes.

    Args:
        fault: what goes wrong in the second step, or "leave a process".
        processes: processes.
        episode_limit: what it is said to be.
    """
    return from_pettingzoo(partial(Symbols, fault), episode_limit, metrics=["named"], processes=processes)
