"""Runs environments in separate processes and steps them as one batch.

Processes, pipes and shared memory are those of Gymnasium's AsyncVectorEnv. The alternative, SuperSuit, requires identical
agents, does not support agents that leave early, and is not faster (experiments/results/benchmark_processes.json).
"""

import atexit
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import util
from typing import Any

import gymnasium
import numpy as np
import psutil
from gymnasium.vector import async_vector_env

from envs_jax.adapters.pettingzoo_episodes import Episodes, Row
from envs_jax.adapters.space_codec import SpaceError, make_codec
from envs_jax.environment import EnvSpec, HostBatch, HostError, TimeStep

SECONDS = 600.0
"""Seconds after which the process of a step or reset counts as hanging."""
GRACE = 3.0
"""Seconds that a process has to close its environments before it is terminated and then killed."""


def open_batch(
    make_env: Callable[[], Any], spec: EnvSpec, metrics: tuple[str, ...], processes: int, num_envs: int
) -> HostBatch:
    """Opens `num_envs` environments in at most `processes` processes, which hold the same number of environments each.

    Raises:
        HostError: here or in a call of the batch, if an environment raises an error, returns invalid values, dies or hangs. All
            environments are then closed.
    """
    count = next(count for count in range(processes, 0, -1) if num_envs % count == 0)
    vector = _start(partial(_Group, make_env, spec, metrics, num_envs // count), count, spec)
    close = _closer(vector)

    def result(send: Callable[[], None], receive: Callable[..., tuple]) -> dict[str, Any]:
        try:
            send()
            seen, *_, infos = receive(timeout=SECONDS)
        except (OSError, EOFError, multiprocessing.TimeoutError) as error:
            for process in vector.processes:
                process.join(0.1)  # wait for the exit code of a process that just died
            ends = [process.exitcode for process in vector.processes]
            close(0.0)
            died = [f"process {number} has ended with code {code}" for number, code in enumerate(ends) if code is not None]
            raise HostError(
                f"{spec.name}: {', '.join(died) or f'its processes did not answer within {SECONDS:.0f} s'}."
            ) from error
        if "error" in infos:
            close(GRACE)
            raise HostError(next(text for text in infos["error"] if text))
        return {name: value.reshape(num_envs, *value.shape[2:]) for name, value in seen.items()}

    def timestep(seen: dict[str, Any]) -> TimeStep:
        seen["metrics"] = {name: seen["metrics"][:, number] for number, name in enumerate(metrics)}
        masks = ("action_mask", "final_action_mask") if spec.has_action_masks else ()
        seen |= {name: seen[name].astype(bool) for name in ("terminated", "truncated", "active", *masks)}
        if not masks:
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

    return HostBatch(reset, step, partial(close, GRACE))


def _start(make_group: Callable[[], gymnasium.Env], count: int, spec: EnvSpec) -> gymnasium.vector.AsyncVectorEnv:
    try:
        return gymnasium.vector.AsyncVectorEnv(
            [make_group] * count,
            context="forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn",
            autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
            worker=_work,
        )
    except (OSError, EOFError) as error:
        raise HostError(f"{spec.name}: a process ended while it started ({type(error).__name__}).") from error


def _work(*arguments: Any) -> None:
    """Main function of a process: runs Gymnasium's worker until the training process closes it or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the training process handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with suppress(OSError):  # the training process may have ended
            async_vector_env._async_worker(*arguments)
    finally:
        _kill(_children(os.getpid()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    _kill(_children(os.getpid()))
    os._exit(1)


def _closer(vector: gymnasium.vector.AsyncVectorEnv) -> Callable[[float], None]:
    """Returns the function that ends all processes and their children, after the given number of seconds to close."""

    def close(grace: float) -> None:
        if vector.closed:
            return
        vector.closed = True
        atexit.unregister(close_at_exit)
        children = [child for process in vector.processes for child in _children(process.pid)]
        for pipe in vector.parent_pipes:
            with suppress(OSError, AttributeError):  # the pipe may be broken, or None if Gymnasium closed it
                pipe.send(("close", None))
        _join(vector.processes, grace)
        for process in vector.processes:
            process.terminate()
        _join(vector.processes, min(grace, 1.0))
        for process in vector.processes:
            process.kill()
            process.join()
        _kill(children)
        for pipe in vector.parent_pipes:
            if pipe is not None:
                pipe.close()

    def close_at_exit() -> None:
        close(GRACE)

    atexit.register(close_at_exit)
    return close


def _join(processes: Sequence[Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))


def _children(pid: int | None) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _stop_helpers() -> None:
    """Ends the two helper processes of multiprocessing, which otherwise end only after the command."""
    from multiprocessing import resource_tracker

    with suppress(Exception):
        from multiprocessing import forkserver

        forkserver._forkserver._stop()  # pyright: ignore[reportAttributeAccessIssue]
    with suppress(Exception):
        resource_tracker._resource_tracker._stop()  # pyright: ignore[reportAttributeAccessIssue]


util.Finalize(None, _stop_helpers, exitpriority=-100)  # after everything that needs them


class _Group(gymnasium.Env):
    """The environments of one process as one environment of AsyncVectorEnv, whose observation contains all their results.

    The first reset makes the environments, because it runs only in the process.
    """

    def __init__(self, make_env: Callable[[], Any], spec: EnvSpec, metrics: tuple[str, ...], count: int) -> None:
        self.seeds = np.zeros(count, np.uint32)
        self._make_env, self._spec, self._codec, self._metrics = make_env, spec, make_codec(spec), metrics
        self._all: list[Episodes] = []
        shapes = {
            "observation": (spec.num_agents, spec.observation_size),
            "final_observation": (spec.num_agents, spec.observation_size),
            "reward": (spec.num_agents,),
            "terminated": (spec.num_agents,),
            "truncated": (),
            "active": (spec.num_agents,),
            "metrics": (len(metrics),),
        }
        if spec.has_action_masks:
            shapes |= dict.fromkeys(("action_mask", "final_action_mask"), (spec.num_agents, spec.action_size))
        boxes = [(name, gymnasium.spaces.Box(-np.inf, np.inf, (count, *shape))) for name, shape in shapes.items()]
        self.observation_space = gymnasium.spaces.Dict(boxes)
        action = (spec.num_agents,) if spec.discrete else (spec.num_agents, spec.action_size)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (count, *action))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Starts a new episode in every environment, with its entry of `seeds`."""
        del seed, options
        return self._seen(lambda number: self._environment(number).reset(int(self.seeds[number])))

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        """Steps every environment. If an episode ends, the next one starts."""
        seen, told = self._seen(lambda number: self._all[number].step(action[number]))
        return seen, 0.0, False, False, told

    def close(self) -> None:
        """Closes all environments."""
        for each in self._all:
            each.env.close()

    def _environment(self, number: int) -> Episodes:
        if number == len(self._all):
            self._all.append(Episodes(self._make_env(), self._codec, self._metrics))
        return self._all[number]

    def _seen(self, play: Callable[[int], Row]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Results of `play` in all environments, and an error, if any, as text for the training process."""
        spaces = self.observation_space
        assert isinstance(spaces, gymnasium.spaces.Dict)
        seen = {name: np.zeros(space.shape or (), np.float32) for name, space in spaces.items()}
        try:
            for number in range(len(self.seeds)):
                row = play(number)
                for name, array in seen.items():
                    array[number] = row[name]
        except SpaceError as error:
            return seen, {"error": f"{self._spec.name}: {error}"}
        except Exception:
            return seen, {"error": f"{self._spec.name} failed in its process:\n{traceback.format_exc()}"}
        return seen, {}
