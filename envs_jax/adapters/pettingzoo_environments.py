"""PettingZoo environments by name: Multi-Walker, and any module with a `parallel_env`."""

import importlib
from functools import partial
from typing import Any

import numpy as np
from pettingzoo import ParallelEnv
from pettingzoo.utils import BaseParallelWrapper

from envs_jax.adapters.from_pettingzoo import from_pettingzoo
from envs_jax.adapters.pettingzoo_episodes import check_environment_type
from envs_jax.environment import EnvironmentFactory, HostEnvironment
from envs_jax.validation import one_line, require_count, require_each, require_number, require_switch


def find_factory(name: str) -> EnvironmentFactory:
    """Returns the factory of Multi-Walker for "multiwalker", else a factory that calls `parallel_env` of the module `name`.

    Raises:
        ValueError: if the module cannot be imported, or has no `parallel_env`.
    """
    if name == "multiwalker":
        return multiwalker
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ValueError(
            f"Environment {f'pettingzoo/{name}'!r} cannot be imported ({one_line(error)}): give a module with a parallel_env, "
            f"such as pettingzoo/mpe2.simple_spread_v3 or pettingzoo/pettingzoo.sisl.pursuit.pursuit."
        ) from error
    if not hasattr(module, "parallel_env"):
        raise ValueError(f"Environment {f'pettingzoo/{name}'!r} is not valid: the module {name} has no parallel_env.")

    def factory(episode_limit: int | None = None, options: dict | None = None, processes: int | None = None) -> HostEnvironment:
        """Builds the environment.

        Args:
            episode_limit: number of steps after which an episode is truncated, if it is not over before. None means the
                environment's own max_cycles or max_steps.
            options: keyword arguments of parallel_env, such as {'N': 5}.
            processes: number of processes that share the environments. None means the number of CPU cores.
        """
        make_env = partial(_make, name, options or {})
        try:
            limit = _max_cycles(make_env()) if episode_limit is None else episode_limit
            return from_pettingzoo(make_env, limit, processes=processes)
        except Exception as error:
            raise ValueError(
                f"Environment {f'pettingzoo/{name}'!r} cannot be made with {options=}: {one_line(error)}."
            ) from error

    return factory


def _make(module: str, options: dict[str, Any], **more: Any) -> ParallelEnv:
    return importlib.import_module(module).parallel_env(**{**options, **more})


def _max_cycles(env: ParallelEnv) -> int:
    """Time limit of an environment, or of the simulator inside, which is closed; raises ValueError if there is none."""
    check_environment_type(env)
    inner = [env.unwrapped, getattr(env.unwrapped, "env", None)]
    found = [getattr(each, limit) for each in inner for limit in ("max_cycles", "max_steps") if hasattr(each, limit)]
    env.close()
    if not found:
        raise ValueError("it does not declare a time limit. Give episode_limit.")
    return int(found[0])


class TellsTimeLimit(BaseParallelWrapper):
    """Wraps multiwalker_v9: truncates at the time limit, where the original terminates, and reports `displacement`.

    `displacement` is the distance by which the package has moved, in metres.
    """

    def __init__(self, env: ParallelEnv) -> None:
        """Wraps `env`, the ParallelEnv of multiwalker_v9."""
        super().__init__(env)
        self._world: Any = env.unwrapped.env  # pyright: ignore[reportAttributeAccessIssue]
        self._start = 0.0

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Starts a new episode."""
        shown = super().reset(seed, options)
        self._start = self._world.package.position.x
        return shown

    def step(self, actions: dict[str, np.ndarray]) -> tuple[dict, dict, dict, dict, dict]:
        """Steps all agents."""
        agents = list(self.agents)
        observations, rewards, terminations, truncations, infos = super().step(actions)
        over = dict(zip(self.possible_agents, self._world.get_last_dones().values(), strict=True))
        limit = self._world.frames >= self._world.max_cycles
        displacement = self._world.package.position.x - self._start
        for agent in agents:
            terminations[agent] = bool(over[agent])
            truncations[agent] = bool(limit and not over[agent])
            infos[agent] = {"displacement": displacement}
        return observations, rewards, terminations, truncations, infos


def _make_multiwalker(options: dict[str, Any], render_mode: str | None = None) -> ParallelEnv:
    # Imported here because it needs Box2D, which has no wheels for the newest Pythons.
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
    """Multi-Walker: bipedal walkers carry a package over rough ground; PettingZoo's multiwalker_v9 in separate processes.

    - observation: 31 entries per walker: hull, joints, feet, ten lidar rays, neighbours, package.
    - action: 4 numbers from -1 to 1, torques of two hips and two knees.
    - termination: a walker or the package falls, or the package reaches the end; truncated after `episode_limit` steps.

    Metric: `displacement`, the distance in metres by which the package has moved, of which an episode reports the last value.

    Args:
        num_walkers: number of walkers, which are the agents.
        episode_limit: number of steps after which an episode is truncated.
        position_noise: standard deviation of the noise of observed positions.
        angle_noise: standard deviation of the noise of the package's observed angle.
        forward_reward: weight of the package's forward movement in the reward.
        terminate_reward: reward of all walkers when the episode fails, by a fall or by the package. If falls do not end the
            episode, a fallen walker also receives it for its fall.
        fall_reward: reward of a walker for a fall.
        shared_reward: whether all walkers receive the mean of the individual rewards.
        terminate_on_fall: whether a fall of one walker ends the episode for all.
        remove_on_fall: whether a fallen walker is removed, if its fall does not end the episode.
        terrain_length: length of the ground in steps of 0.47 m.
        processes: number of processes that share the environments. None means the number of CPU cores.

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
        made = partial(_make_multiwalker, options)
        return from_pettingzoo(made, episode_limit, ("displacement",), processes, last_metrics=("displacement",))
    except ImportError as error:
        raise ValueError(
            f"Environment 'pettingzoo/multiwalker' needs Box2D ({error}): install it with `pip install box2d`. "
            "It supports Python up to 3.13."
        ) from error
