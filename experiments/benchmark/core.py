"""Seconds per update, environment steps per second and compile time of the core. Run alone on the machine.

python experiments/benchmark/core.py [--out experiments/results/benchmark_core.json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import envs_jax
from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import registry
from mamt_jax.training.config import TrainingConfig, make_schedule
from mamt_jax.training.runs import make_runs, run_keys, stack_configs
from mamt_jax.training.writers import describe_machine
from mamt_jax.types import Transition

BATCH, REPEATS = 1024, 30
GROUP, GROUPS = 12, 8  # updates in one program, as training makes them, and how often it is timed


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and extremes of repeated measurements."""
    ordered = sorted(seconds)
    return {"median": statistics.median(ordered), "min": ordered[0], "max": ordered[-1], "repeats": len(ordered)}


def timed(call: Callable[[], Any], repeats: int, parts: int = 1) -> dict[str, float]:
    """Wall seconds of `call`, warm, or of one of its equal `parts`."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append((time.perf_counter() - start) / parts)
    return spread(seconds)


def random_batch(spec: EnvSpec) -> Transition:
    """A batch of noise in the shapes of replay."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (BATCH, spec.num_agents, spec.observation_size)
    observation, next_observation = (jax.random.normal(key, shape) * spec.observation_mask[None] for key in keys[:2])
    action = jax.random.randint(keys[2], shape[:2], 0, spec.action_size, jnp.int32)
    reward = jax.random.normal(keys[3], shape[:2])
    return Transition(observation, action, reward, next_observation, jnp.zeros(shape[:2], bool))


def update_seconds(spec: EnvSpec, name: str, **options: Any) -> dict[str, float]:
    """One update of 8 agents, batch 1024, width 128, among the `GROUP` that training makes in a row."""
    algorithm = registry.make(name, spec)
    config, batch, key = algorithm.config(**options), random_batch(spec), jax.random.key(2)

    def group(config: Any, state: Any) -> Any:
        def update(number: jax.Array, state: Any) -> Any:
            return algorithm.update(config, state, batch, jax.random.fold_in(key, number))[0]

        return jax.lax.fori_loop(0, GROUP, update, state)

    compiled, state = jax.jit(group, donate_argnums=1), [jax.jit(algorithm.init)(config, jax.random.key(1))]

    def call() -> Any:
        state[0] = compiled(config, state[0])
        return state[0]

    return timed(call, GROUPS, GROUP)


def end_to_end(name: str, rounds: int) -> dict[str, Any]:
    """Rover-Tower training with the paper's settings: compile seconds, then environment steps a second."""
    env = envs_jax.make("rover_tower")
    algorithm = registry.make(name, env.spec)
    training = TrainingConfig()
    schedule = make_schedule(training, env.spec.episode_limit)
    runs = make_runs(env, algorithm, training, schedule, 1)
    configs, keys = stack_configs([algorithm.config()]), run_keys([0])
    start = time.perf_counter()
    states = jax.block_until_ready(runs.init(configs, keys))
    advance = runs.advance.lower(configs, states, 0, 1).compile()
    runs.evaluate.lower(configs, states, 0).compile()
    compile_seconds = time.perf_counter() - start
    states = jax.block_until_ready(advance(configs, states, 0, schedule.warmup_rounds + 2))
    rates, done = [], schedule.warmup_rounds + 2
    for _ in range(3):
        start = time.perf_counter()
        states = jax.block_until_ready(advance(configs, states, done, rounds))
        rates.append(rounds * schedule.rows / (time.perf_counter() - start))
        done += rounds
    return {"compile_seconds": compile_seconds, "env_steps_per_second": spread(rates), "rounds": rounds}


def matmul_gflops(shape: tuple[int, int, int]) -> float:
    """This machine's own float32 matrix product, for scale."""
    m, k, n = shape
    multiply = jax.jit(jnp.matmul)
    left, right = jnp.ones((m, k)), jnp.ones((k, n))
    return 2 * m * k * n / timed(lambda: multiply(left, right), REPEATS)["min"] / 1e9


def main() -> None:
    """Measure all, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "benchmark_core.json")
    out = parser.parse_args().out
    spec = envs_jax.make("rover_tower").spec
    result = {
        "machine": describe_machine(),
        "command": "python experiments/benchmark/core.py",
        "matmul_gflops_per_second": {"x".join(map(str, s)): matmul_gflops(s) for s in ((1024, 1024, 1024), (1024, 256, 128))},
        "update_seconds": {
            "maac": update_seconds(spec, "maac"),
            "mamt": update_seconds(spec, "mamt"),
            "mamt, trust regions from all 1024 rows": update_seconds(spec, "mamt", trust_region_batch_size=0),
        },
        "training": {name: end_to_end(name, rounds) for name, rounds in (("maac", 10), ("mamt", 5))},
    }
    maac = result["update_seconds"]["maac"]["median"]
    result["maac_updates_per_update"] = {name: row["median"] / maac for name, row in result["update_seconds"].items()}
    print(json.dumps(result, indent=2))
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
