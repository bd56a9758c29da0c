"""PettingZoo's parallel environments in processes of their own, stepped as one batch.

The processes, their pipes and shared memory are gymnasium's AsyncVectorEnv. SuperSuit was the other candidate: it wants agents
that are all alike, has no room for agents that leave early, and is no faster (experiments/results/benchmark_processes.json).
"""

import math
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.vector.async_vector_env import AsyncState
from pettingzoo import ParallelEnv

from envs_jax.environment import Box, Discrete, EnvSpec, HostBatch, HostEnvironment, HostError, TimeStep
from envs_jax.options import require_count

MakeEnv = Callable[[], ParallelEnv]
SECONDS = 600.0
"""How long a step or reset may take before its process counts as hanging."""


def from_pettingzoo(
    make_env: MakeEnv, episode_limit: int, metrics: Sequence[str] = (), processes: int | None = None
) -> HostEnvironment:
    """Any PettingZoo parallel environment as one that `experiments/run.py` trains in.

    Observations are flattened and zero-padded to the widest agent; a box of actions with bounds of several sizes becomes one
    from -1 to 1. A dead agent observes zeros, earns nothing and counts as terminated. Truncation is that of all agents who
    were left; an agent that is truncated alone counts as terminated.

    Args:
        make_env: () -> ParallelEnv, called in each process; it is sent there by cloudpickle.
        episode_limit: steps after which it truncates, at the earliest.
        metrics: names of numbers in the agents' `infos` that are reported as task metrics, their mean over agents.
        processes: processes to share out the environments among, the CPU cores if None.

    Raises:
        ValueError: if an option or a space is not valid.
    """
    require_count("episode_limit", episode_limit)
    if processes is not None:
        require_count("processes", processes)
    env = make_env()
    try:
        spec = _spec(env, episode_limit)
    finally:
        env.close()
    open_batch = partial(_open, make_env, spec, tuple(metrics), processes or os.cpu_count() or 1)
    return HostEnvironment(spec, open_batch, tuple(metrics))


def _spec(env: ParallelEnv, episode_limit: int) -> EnvSpec:
    agents = tuple(env.possible_agents)
    return EnvSpec(
        name=str(env.metadata.get("name", type(env.unwrapped).__name__)),
        agent_names=agents,
        observation_sizes=tuple(flatdim(env.observation_space(agent)) for agent in agents),
        action_spaces=tuple(_action_space(agent, env.action_space(agent)) for agent in agents),
        episode_limit=episode_limit,
    )


def _action_space(agent: str, space: gymnasium.Space) -> Discrete | Box:
    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box) and space.is_bounded():
        alike = len(np.unique(space.low)) == len(np.unique(space.high)) == 1
        bounds = (float(space.low.flat[0]), float(space.high.flat[0])) if alike else (-1.0, 1.0)
        return Box(math.prod(space.shape), *bounds)
    raise ValueError(f"The action space {space} of {agent} is not valid: it must be Discrete, or a Box with bounds.")


def _native_action(space: gymnasium.Space, own: Discrete | Box) -> Callable[[np.ndarray], Any]:
    """From an action of `own` to one that the environment's `space` takes."""
    if isinstance(own, Discrete):
        first = int(getattr(space, "start", 0))
        return lambda action: int(action) + first
    assert isinstance(space, gymnasium.spaces.Box)
    low, width = space.low, (space.high - space.low) / (own.high - own.low)

    def native(action: np.ndarray) -> np.ndarray:
        inside = action[: own.size].clip(own.low, own.high).reshape(low.shape)
        return (low + (inside - own.low) * width).astype(low.dtype)

    return native


def _open(make_env: MakeEnv, spec: EnvSpec, metrics: tuple[str, ...], processes: int, num_envs: int) -> HostBatch:
    count = next(count for count in range(processes, 0, -1) if num_envs % count == 0)
    make_group = partial(_Group, make_env, spec, metrics, num_envs // count)
    vector = gymnasium.vector.AsyncVectorEnv(
        [make_group] * count,
        context="forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn",
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
    )

    def close() -> None:
        vector._state = AsyncState.DEFAULT  # else it waits for what a dead process was asked last
        vector.close(terminate=True)

    def result(send: Callable[[], None], receive: Callable[..., tuple]) -> dict[str, Any]:
        try:
            send()
            seen, *_, infos = receive(timeout=SECONDS)
        except (OSError, EOFError, multiprocessing.TimeoutError) as error:
            for process in vector.processes:
                process.join(0.1)  # so that the code of one that just died is known
            ends = [process.exitcode for process in vector.processes]
            close()
            died = [f"process {number} has ended with code {code}" for number, code in enumerate(ends) if code is not None]
            raise HostError(f"{spec.name}: {', '.join(died) or f'no answer in {SECONDS:.0f} s'}.") from error
        if "error" in infos:
            close()
            raise HostError(f"{spec.name} failed in its process:\n{next(text for text in infos['error'] if text)}")
        return {name: value.reshape(num_envs, *value.shape[2:]) for name, value in seen.items()}

    def timestep(seen: dict[str, Any]) -> TimeStep:
        seen["metrics"] = {name: seen["metrics"][:, number] for number, name in enumerate(metrics)}
        seen |= {name: seen[name].astype(bool) for name in ("terminated", "truncated")}
        seen["action_mask"] = np.broadcast_to(spec.action_mask, (num_envs, *spec.action_mask.shape))
        return TimeStep(**seen)

    def reset(seeds: np.ndarray) -> TimeStep:
        def send() -> None:
            vector.set_attr("seeds", list(seeds.reshape(count, -1)))
            vector.reset_async()

        return timestep(result(send, vector.reset_wait))

    def step(action: np.ndarray) -> TimeStep:
        grouped = action.reshape(count, -1, *action.shape[1:])
        return timestep(result(lambda: vector.step_async(grouped), vector.step_wait))

    return HostBatch(reset, step, close)


class _Group(gymnasium.Env):
    """The environments of one process, as AsyncVectorEnv steps them: all that they show is one observation."""

    def __init__(self, make_env: MakeEnv, spec: EnvSpec, metrics: tuple[str, ...], count: int) -> None:
        if multiprocessing.parent_process():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains
        self.seeds = np.zeros(count, np.uint32)
        self._spec, self._metrics = spec, metrics
        self._envs = [make_env() for _ in range(count)]
        spaces = [
            (self._envs[0].action_space(agent), own) for agent, own in zip(spec.agent_names, spec.action_spaces, strict=True)
        ]
        self._native_action = [_native_action(*each) for each in spaces]
        self._observation_space = [self._envs[0].observation_space(agent) for agent in spec.agent_names]
        shapes = {
            "observation": (spec.num_agents, spec.observation_size),
            "final_observation": (spec.num_agents, spec.observation_size),
            "reward": (spec.num_agents,),
            "terminated": (spec.num_agents,),
            "truncated": (),
            "metrics": (len(metrics),),
        }
        boxes = [(name, gymnasium.spaces.Box(-np.inf, np.inf, (count, *shape))) for name, shape in shapes.items()]
        self.observation_space = gymnasium.spaces.Dict(boxes)
        action = (spec.num_agents,) if spec.discrete else (spec.num_agents, spec.action_size)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (count, *action))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """All environments begin anew, each from its one of `seeds`."""
        del seed, options
        seen = self._nothing()

        def play() -> None:
            for number, (env, each) in enumerate(zip(self._envs, self.seeds, strict=True)):
                seen["observation"][number] = self._joint(env.reset(seed=int(each))[0])
            seen["final_observation"] = seen["observation"]

        return seen, _told(play)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """One step of each; those that end begin anew."""
        seen = self._nothing()

        def play() -> None:
            for number, env in enumerate(self._envs):
                for name, value in self._step(env, action[number]).items():
                    seen[name][number] = value

        return seen, 0.0, False, False, _told(play)

    def close(self) -> None:
        """Closes all."""
        for env in self._envs:
            env.close()

    def _nothing(self) -> dict[str, np.ndarray]:
        spaces = self.observation_space
        assert isinstance(spaces, gymnasium.spaces.Dict)
        return {name: np.zeros(space.shape or (), np.float32) for name, space in spaces.items()}

    def _step(self, env: ParallelEnv, action: np.ndarray) -> dict[str, Any]:
        spec, alive = self._spec, list(env.agents)
        acting = zip(spec.agent_names, self._native_action, action, strict=True)
        native = {agent: native_action(own) for agent, native_action, own in acting if agent in alive}
        observations, rewards, terminations, truncations, infos = env.step(native)
        final = observation = self._joint(observations)
        over = not env.agents
        if over:
            observation = self._joint(env.reset()[0])
        cut = [agent for agent in alive if truncations[agent] and not terminations[agent]]
        truncated = over and bool(cut)
        lasting = {agent for agent in alive if not (terminations[agent] or truncations[agent])} | set(cut if truncated else ())
        return {
            "observation": observation,
            "final_observation": final,
            "reward": [rewards.get(agent, 0.0) for agent in spec.agent_names],
            "terminated": [agent not in lasting for agent in spec.agent_names],
            "truncated": truncated,
            "metrics": [sum(infos[agent][name] for agent in alive) / len(alive) for name in self._metrics],
        }

    def _joint(self, observations: Mapping[str, Any]) -> np.ndarray:
        joint = np.zeros((self._spec.num_agents, self._spec.observation_size), np.float32)
        rows = zip(joint, self._spec.agent_names, self._spec.observation_sizes, self._observation_space, strict=True)
        for row, agent, size, space in rows:
            if agent in observations:
                row[:size] = np.asarray(flatten(space, observations[agent]))
        return joint


def _told(play: Callable[[], None]) -> dict[str, str]:
    """What goes wrong in `play` as a text that reaches the other process whole."""
    try:
        play()
    except Exception:
        return {"error": traceback.format_exc()}
    return {}
