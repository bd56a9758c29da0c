"""PettingZoo environments in processes: 12 of them stepped here and by SuperSuit, environment steps per second.

python experiments/benchmark/processes.py [--out experiments/results/benchmark_processes.json]

Run alone on the machine, with the extra `benchmark`. Both step the same environments with actions drawn
beforehand, turn by turn, so that a slow minute of the machine is shared.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from envs_jax.adapters.from_pettingzoo import from_pettingzoo
from envs_jax.environment import HostEnvironment
from mamt_jax.training.run_folder import describe_machine

ENVS, TURNS, SECONDS = 12, 5, 3.0
PROCESSES = (1, 2, 12)


def multiwalker() -> Any:
    """PettingZoo's own, whose agents all end together, as SuperSuit asks."""
    from pettingzoo.sisl.multiwalker.multiwalker import parallel_env

    return parallel_env()


def pursuit() -> Any:
    """PettingZoo's own."""
    from pettingzoo.sisl.pursuit.pursuit import parallel_env

    return parallel_env()


def ours(env: HostEnvironment, actions: np.ndarray) -> tuple[Callable[[int], Any], Callable[[], None]]:
    """What takes a step, and what ends it all."""
    batch = env.open(ENVS)
    batch.reset(np.arange(ENVS))
    return lambda step: batch.step(actions[step % len(actions)]), batch.close


def supersuits(make: Callable[[], Any], actions: np.ndarray, processes: int) -> tuple[Callable[[int], Any], Callable[[], None]]:
    """The same with SuperSuit, to which every agent is an environment."""
    import supersuit  # pyright: ignore[reportMissingImports]  it is needed here alone

    single = supersuit.pettingzoo_env_to_vec_env_v1(make())
    vector = supersuit.concat_vec_envs_v1(single, ENVS, num_cpus=processes, base_class="gymnasium")
    vector.reset(seed=0)
    flat = actions.reshape(len(actions), -1, *actions.shape[3:])
    return lambda step: vector.step(flat[step % len(flat)]), vector.close


def rate(step: Callable[[int], Any]) -> float:
    """Environment steps per second."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        step(count)
        count += 1
    return ENVS * count / (time.perf_counter() - start)


def compare(make: Callable[[], Any]) -> dict[str, dict[str, float]]:
    """Median and extremes of every way, in turns."""
    spec = from_pettingzoo(make, 500).spec
    size, rng = (50, ENVS, spec.num_agents), np.random.default_rng(0)
    discrete = rng.integers(0, spec.action_size, size)
    actions = discrete if spec.discrete else rng.uniform(-1, 1, (*size, spec.action_size)).astype(np.float32)
    ways = {f"ours, {count}": ours(from_pettingzoo(make, 500, processes=count), actions) for count in PROCESSES}
    ways |= {f"SuperSuit, {count}": supersuits(make, actions, count) for count in PROCESSES}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, (step, _) in ways.items():
            rates[name].append(rate(step))
    for _, close in ways.values():
        close()
    return {name: {"median": float(np.median(all_)), "min": min(all_), "max": max(all_)} for name, all_ in rates.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "benchmark_processes.json")
    out = parser.parse_args().out
    warnings.simplefilter("ignore", DeprecationWarning)
    results = {make.__name__: compare(make) for make in (multiwalker, pursuit)}
    content = {"machine": describe_machine(), "environments": ENVS, "env_steps_per_second": results}
    print(json.dumps(results, indent=1))
    out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
