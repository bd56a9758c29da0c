"""Environment steps per second with random actions: ours at several batch sizes, the originals in one process and in twelve.

python experiments/benchmark/environments.py [--out experiments/results/benchmark_environments.json]

Run alone on the machine. An environment step is one step of all its agents. Ours reset themselves within the step, as in
training. Rover-Tower's original cannot be installed beside current packages, so that it has no row of its own here.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs_jax
from envs_jax import auto_reset, random_policy
from envs_jax.adapters.originals import make_original
from envs_jax.environment import Environment
from mamt_jax.training.writers import describe_machine

BATCHES = (1, 64, 1024, 4096)
SECONDS, REPEATS, PROCESSES = 2.0, 5, 12
ENVIRONMENTS: dict[str, dict[str, Any]] = {"spread": {"num_agents": 3}, "rover_tower": {}, "pursuit": {}}


def make_steps(env: Environment, batch: int) -> tuple[Callable[[Any, jax.Array, int], Any], Any]:
    """A program that plays `batch` environments for a number of steps, and where they start."""
    env = auto_reset(env)
    act = random_policy(env.spec)

    def steps(state: Any, key: jax.Array, count: jax.Array) -> Any:
        def step(number: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, seen = carry
            keys = jax.random.split(jax.random.fold_in(key, number), (batch, 2))
            action = jax.vmap(act)(keys[:, 0], state)
            state, timestep = jax.vmap(env.step)(keys[:, 1], state, action)
            return state, seen + timestep.observation.sum() + timestep.reward.sum()  # so that nothing is left out

        return jax.lax.fori_loop(0, count, step, (state, jnp.zeros(())))

    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), batch))[0]
    return jax.jit(steps), state


def ours(env: Environment, batch: int) -> dict[str, float]:
    """Environment steps per second, median and extremes."""
    steps, state = make_steps(env, batch)
    start = time.perf_counter()
    program = steps.lower(state, jax.random.key(1), 1).compile()  # pyright: ignore[reportFunctionMemberAccess]
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready(program(state, jax.random.key(1), 20))
    count = max(20, int(20 * SECONDS / (time.perf_counter() - start)))
    rates = []
    for repeat in range(REPEATS):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, jax.random.key(repeat), count))
        rates.append(batch * count / (time.perf_counter() - start))
    return {"median": float(np.median(rates)), "min": min(rates), "max": max(rates), "compile_seconds": compile_seconds}


def play_original(name: str, seconds: float) -> float:
    """Environment steps per second of one process, random actions drawn by its own spaces."""
    env = make_original(name, **ENVIRONMENTS[name])
    env.reset(seed=0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        if not env.agents:
            env.reset()
        env.step({agent: int(env.action_space(agent).sample()) for agent in env.agents})
        steps += 1
    return steps / (time.perf_counter() - start)


def originals(name: str) -> dict[str, float]:
    """One process, and the sum of twelve at once."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        together = pool.starmap(play_original, [(name, 3 * SECONDS)] * PROCESSES)
    return {"one process": play_original(name, 3 * SECONDS), f"{PROCESSES} processes": sum(together)}


def main() -> None:
    """Measure all, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "benchmark_environments.json")
    out = parser.parse_args().out
    result: dict[str, Any] = {"machine": describe_machine(), "command": "python experiments/benchmark/environments.py"}
    for name, options in ENVIRONMENTS.items():
        env = envs_jax.make(name, **options)
        rates = {str(batch): ours(env, batch) for batch in BATCHES}
        result[name] = {"options": options, "env_steps_per_second": rates}
        if name != "rover_tower":
            result[name]["original"] = originals(name)
        print(name, json.dumps(result[name], indent=1), flush=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
