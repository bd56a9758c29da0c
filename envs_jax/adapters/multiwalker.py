"""Multi-Walker (Gupta et al., 2017) as PettingZoo has it, with its time limit told from its ends."""

from functools import partial
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper

from envs_jax.adapters.from_pettingzoo import from_pettingzoo
from envs_jax.environment import HostEnvironment
from envs_jax.validation import require_count, require_each, require_number, require_switch


class TellsTimeLimit(BaseParallelWrapper):
    """multiwalker_v9 that truncates at its time limit, where the original terminates, and reports `displacement`.

    That is how far the package has come at the end of an episode, in metres. As metrics are averaged over steps, what each
    step reports is by how much steps x displacement grew: the average is what the last step knows.
    """

    def __init__(self, env: ParallelEnv) -> None:
        """Wraps the parallel form."""
        super().__init__(env)
        self._world: Any = env.unwrapped.env  # pyright: ignore[reportAttributeAccessIssue]
        self._start = self._sum = 0.0

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """A new episode."""
        shown = super().reset(seed, options)
        self._start, self._sum = self._world.package.position.x, 0.0
        return shown

    def step(self, actions: dict[str, np.ndarray]) -> tuple[dict, dict, dict, dict, dict]:
        """A step of all."""
        agents = list(self.agents)
        observations, rewards, terminations, truncations, infos = super().step(actions)
        over = dict(zip(self.possible_agents, self._world.get_last_dones().values(), strict=True))
        limit = self._world.frames >= self._world.max_cycles
        before, self._sum = self._sum, self._world.frames * (self._world.package.position.x - self._start)
        for agent in agents:
            terminations[agent] = bool(over[agent])
            truncations[agent] = bool(limit and not over[agent])
            infos[agent] = {"displacement": self._sum - before}
        return observations, rewards, terminations, truncations, infos


def _make(options: dict[str, Any], render_mode: str | None = None) -> ParallelEnv:
    # Imported late: it needs Box2D, which has no wheels for the newest Pythons.
    from pettingzoo.sisl.multiwalker.multiwalker import parallel_env

    return TellsTimeLimit(parallel_env(**options, render_mode=render_mode))


def multiwalker(
    num_walkers: int = 3,
    episode_limit: int = 500,
    position_noise: float = 1e-3,
    angle_noise: float = 1e-3,
    forward_reward: float = 1.0,
    terminate_reward: float = -100.0,
    fall_reward: float = -10.0,
    shared_reward: bool = True,
    terminate_on_fall: bool = True,
    remove_on_fall: bool = True,
    terrain_length: int = 200,
    processes: int | None = None,
) -> HostEnvironment:
    """Multi-Walker: bipedal walkers carry a package over rough ground; PettingZoo's multiwalker_v9 in processes.

    - observation: 31 each: hull, joints, feet, ten rays of lidar, neighbours, package.
    - action: torques of two hips and two knees, each from -1 to 1.
    - termination: a walker or the package falls, or the package reaches the end; truncated after `episode_limit` steps.

    The metric `displacement` is how far the package was carried, in metres.

    Args:
        num_walkers: walkers, the agents.
        episode_limit: steps before truncation.
        position_noise: standard deviation of the noise of observed positions.
        angle_noise: standard deviation of the noise of the package's observed angle.
        forward_reward: reward for the package's way forward.
        terminate_reward: reward of each walker for ending the episode by a fall.
        fall_reward: reward of a walker for falling.
        shared_reward: whether all walkers get the mean of their rewards.
        terminate_on_fall: whether one walker's fall ends the episode for all.
        remove_on_fall: whether a fallen walker is taken away where its fall does not end the episode.
        terrain_length: length of the ground in steps of 0.47 m.
        processes: processes to share out the environments among, the CPU cores if None.

    Raises:
        ValueError: if an option has a value that is not allowed, or Box2D is not installed.
    """
    require_each(require_count, num_walkers=num_walkers, episode_limit=episode_limit, terrain_length=terrain_length)
    require_each(require_number, position_noise=position_noise, angle_noise=angle_noise, forward_reward=forward_reward)
    require_each(require_number, terminate_reward=terminate_reward, fall_reward=fall_reward)
    require_each(
        require_switch, shared_reward=shared_reward, terminate_on_fall=terminate_on_fall, remove_on_fall=remove_on_fall
    )
    options = {
        "n_walkers": num_walkers,
        "position_noise": position_noise,
        "angle_noise": angle_noise,
        "forward_reward": forward_reward,
        "terminate_reward": terminate_reward,
        "fall_reward": fall_reward,
        "shared_reward": shared_reward,
        "terminate_on_fall": terminate_on_fall,
        "remove_on_fall": remove_on_fall,
        "terrain_length": terrain_length,
        "max_cycles": episode_limit,
    }
    try:
        return from_pettingzoo(partial(_make, options), episode_limit, ("displacement",), processes)
    except ImportError as error:
        raise ValueError(
            f"Environment 'pettingzoo/multiwalker' needs Box2D ({error}): pip install box2d, on Python up to 3.13."
        ) from error
