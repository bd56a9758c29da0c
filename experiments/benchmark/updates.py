"""Measures seconds per update of every algorithm, of one run and of many side by side, and the speed of training.

python experiments/benchmark/updates.py [--out experiments/results/benchmark_updates.json]

Run it alone on the machine.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params

from envs_jax.environment import Environment, EnvSpec
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.cli.devices import use_every_core
from mamt_jax.training.config import TrainingConfig, make_schedule
from mamt_jax.training.experiment import Experiment, build
from mamt_jax.training.loop import CPU_OPTIONS, compile_with
from mamt_jax.training.rollout import EnvBatch
from mamt_jax.training.run_folder import describe_machine, read_rows
from mamt_jax.training.settings import find_settings, make_experiment
from mamt_jax.training.trainer import make_replay, sample_shape
from mamt_jax.training.vectorized import make_runs, run_keys, runs_sharding, shard, stack_configs

SHAPES = ((1024, 1024, 1024), (1024, 256, 128), (8192, 128, 128))
SECONDS = 1.2  # per timing, of consecutive updates in one program
GROUPS = 8  # timings of each program
REPEATS = 30  # timings of a matrix product
UPDATES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "maac": ("rover_tower", "maac", {}),
    "mamd": ("rover_tower", "mamd", {}),
    "mamt": ("rover_tower", "mamt", {}),
    "mamt, trust regions from all 1024 rows": ("rover_tower", "mamt", {"trust_region_batch_size": 0}),
    "maddpg": ("rover_tower", "maddpg", {}),
    "mappo": ("rover_tower", "mappo", {}),
    "lola, 2 agents": ("spread", "lola", {}),
}
DEFAULTS = ("maac", "mamd", "mamt", "maddpg")
"""Algorithms whose update is also timed with the default settings on Rover-Tower."""
SIDE_BY_SIDE = {"maac": (1, 2, 4, 16, 64), "mappo": (1, 2, 4, 16, 64)}
ROUNDS = {"maac": 10, "mamt": 5, "mappo": 10}  # rounds of training per timing
SHARED = ("maac", "mamt", "mappo")
TURNS = 12  # of training with one device and with all
FIRST_EVALUATIONS = ("maac", "mamt")


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and extremes of repeated measurements."""
    ordered = sorted(seconds)
    return {"median": statistics.median(ordered), "min": ordered[0], "max": ordered[-1], "repeats": len(ordered)}


def timed(call: Callable[[], Any], repeats: int, parts: int = 1) -> dict[str, float]:
    """Wall-clock seconds of `call` after a warm-up, divided by the number of its equal `parts`."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append((time.perf_counter() - start) / parts)
    return spread(seconds)


def matmul_gflops(shape: tuple[int, int, int]) -> float:
    """Highest measured GFLOP per second of a float32 matrix product (m, k) x (k, n) on this machine."""
    m, k, n = shape
    multiply = jax.jit(jnp.matmul)
    left, right = jnp.ones((m, k)), jnp.ones((k, n))
    return 2 * m * k * n / timed(lambda: multiply(left, right), REPEATS)["min"] / 1e9


def matmul_gflop(function: Callable[..., Any], *arguments: Any) -> float:
    """GFLOP of the matrix products in one call; those inside a scan count once per step."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr) / 1e9


def _count(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            factor: Any = equation.invars[0].aval
            product: Any = equation.outvars[0].aval
            total += 2.0 * product.size * math.prod(factor.shape[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(map(_count, jaxprs_in_params(equation.params)))
    return total


def experiment(env: str, algo: str, options: dict[str, Any], preset: str = "paper") -> Experiment:
    """An experiment with one run of an algorithm, with the settings of a preset and these options."""
    return make_experiment(find_settings(env, algo, preset, lambda options: {}), options)


def random_data(algorithm: Algorithm, spec: EnvSpec, training: TrainingConfig | None = None) -> Any:
    """Random data in the shape of the algorithm's batch or rollout; `training` is by default that of the paper."""
    training = training or TrainingConfig(**dict(algorithm.training))
    schedule = make_schedule(training, spec.episode_limit, algorithm.data)
    replay = make_replay(spec, algorithm, training, schedule._replace(replay_iterations=1))
    key, observation = jax.random.key(0), jnp.zeros((training.num_envs, spec.num_agents, spec.observation_size))
    sampled = sample_shape(replay, replay.init(), key, EnvBatch(None, observation))
    shapes, structure = jax.tree.flatten(sampled)

    def noise(key: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
        if shape.dtype == bool:
            return jnp.zeros(shape.shape, bool)
        if jnp.issubdtype(shape.dtype, jnp.integer):
            return jax.random.randint(key, shape.shape, 0, min(spec.action_sizes), shape.dtype)
        return jax.random.normal(key, shape.shape, shape.dtype)

    keys = jax.random.split(key, len(shapes))
    return jax.tree.unflatten(structure, [noise(k, shape) for k, shape in zip(keys, shapes, strict=True)])


def update_seconds(
    env_name: str, algo: str, options: dict[str, Any], num_runs: int = 1, preset: str = "paper"
) -> dict[str, Any]:
    """Wall-clock seconds of an update of `num_runs` runs side by side, and GFLOP of the matrix products of one run."""
    what = experiment(env_name, algo, options, preset)
    env, algorithm, (config,), _ = build(what)
    data, sharding = random_data(algorithm, env.spec, what.training), runs_sharding(num_runs)
    keys = jax.device_put(jax.random.split(jax.random.key(2), num_runs), sharding)

    def update(state: Any, key: jax.Array, number: jax.Array) -> Any:
        return algorithm.update(config, state, data, jax.random.fold_in(key, number))[0]

    def group(states: Any, keys: jax.Array, count: jax.Array) -> Any:
        return jax.lax.fori_loop(0, count, lambda i, states: jax.vmap(update, (0, 0, None))(states, keys, i), states)

    compiled = jax.jit(shard(group, sharding, by_run=2, shared=1), donate_argnums=0, out_shardings=sharding)
    kept = [jax.jit(jax.vmap(lambda key: algorithm.init(config, key)), out_shardings=sharding)(keys)]
    gflop = matmul_gflop(update, jax.tree.map(lambda leaf: leaf[0], kept[0]), keys[0], jnp.zeros((), int))

    def call(count: int) -> Any:
        kept[0] = compiled(kept[0], keys, count)
        return kept[0]

    count = max(1, round(SECONDS / timed(lambda: call(1), 2)["min"]))
    seconds = timed(lambda: call(count), GROUPS, count)
    return seconds | {"gflop": gflop, "gflops_per_second": num_runs * gflop / seconds["median"]}


def end_to_end(name: str, rounds: int) -> dict[str, Any]:
    """Seconds of compilation, and environment steps per second, of training on Rover-Tower with the paper's settings."""
    what = experiment("rover_tower", name, {})
    env, algorithm, own, schedule = build(what)
    assert isinstance(env, Environment)
    runs = make_runs(env, algorithm, what.training, schedule, 1)
    configs, keys = stack_configs(own), run_keys([0])
    start = time.perf_counter()
    effort: list[Any] = [{"xla_backend_optimization_level": level} for level in (0, 1)]  # as training does
    init = runs.init.lower(configs, keys).compile(effort[0])
    states = init(configs, keys)
    runs.evaluate.lower(configs, states, 0).compile(effort[1])
    advance = runs.advance.lower(configs, states, 0, 1).compile()
    compile_seconds = time.perf_counter() - start
    states = jax.block_until_ready(advance(configs, states, 0, schedule.warmup_iterations + 2))
    rates, done = [], schedule.warmup_iterations + 2
    for _ in range(3):
        start = time.perf_counter()
        states = jax.block_until_ready(advance(configs, states, done, rounds))
        rates.append(rounds * schedule.transitions / (time.perf_counter() - start))
        done += rounds
    return {"compile_seconds": compile_seconds, "env_steps_per_second": spread(rates), "rounds": rounds}


def trainer(algo: str, devices: int) -> tuple[Callable[[int], None], int]:
    """A function that trains one run on Rover-Tower for some iterations of the defaults, and the number of devices in use."""
    what = experiment("rover_tower", algo, {"devices_per_run": devices}, preset="tuned")
    env, algorithm, own, schedule = build(what)
    assert isinstance(env, Environment)
    runs = make_runs(env, algorithm, what.training, schedule, 1)
    configs, keys = jax.device_put((stack_configs(own), run_keys([0])), runs.sharding)
    states, done = runs.init(configs, keys), 0
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else {}
    advance = compile_with(runs.advance.lower(configs, states, 0, 1), options)

    def train(count: int) -> None:
        nonlocal states, done
        states, done = jax.block_until_ready(advance(configs, states, done, count)), done + count

    train(schedule.warmup_iterations + 1)
    return train, runs.sharding.num_devices


def shared_run(algo: str) -> dict[str, Any]:
    """Seconds per iteration of one run, by the number of devices that share it; the two numbers take turns."""
    trainers = [trainer(algo, devices) for devices in (1, len(jax.local_devices()))]
    counts = [max(1, round(SECONDS / timed(partial(train, 1), 2)["min"])) for train, _ in trainers]
    seconds: list[list[float]] = [[] for _ in trainers]
    for turn in range(TURNS):
        for number in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            trainers[number][0](counts[number])
            seconds[number].append((time.perf_counter() - start) / counts[number])
    return {str(devices): spread(measured) for (_, devices), measured in zip(trainers, seconds, strict=True)}


def first_evaluation(name: str, cache: Path) -> dict[str, float]:
    """Seconds from the command to the first evaluation after an update, and peak memory in GB."""
    with tempfile.TemporaryDirectory() as out:
        options = ["--algo", name, "--evaluation-interval", "50", "--out", f"{out}/run", "--compilation-cache", str(cache)]
        command = [sys.executable, "-m", "mamt_jax", "train", *options]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            metrics = Path(out, "run", "metrics.jsonl")
            while not any(row["updates"] for row in read_rows(metrics)):
                time.sleep(0.1)
            seconds = time.perf_counter() - start
            process.send_signal(signal.SIGTERM)
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = 0
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return {"seconds": seconds, "peak_memory_gb": usage.ru_maxrss * unit / 1e9}


def first_evaluations() -> dict[str, Any]:
    """Times to the first evaluation with an empty compilation cache (anew) and with a full one (again)."""
    with tempfile.TemporaryDirectory() as cache:
        return {
            f"{name}, {when}": first_evaluation(name, Path(cache)) for name in FIRST_EVALUATIONS for when in ("anew", "again")
        }


def updates() -> dict[str, Any]:
    """Times one update of each kind."""
    defaults = {f"{algo}, defaults": update_seconds("rover_tower", algo, {}, preset="tuned") for algo in DEFAULTS}
    return {name: update_seconds(*what) for name, what in UPDATES.items()} | defaults


def side_by_side() -> dict[str, Any]:
    """Times updates of many runs side by side."""
    return {
        name: {str(runs): update_seconds(*UPDATES[name], num_runs=runs) for runs in counts}
        for name, counts in SIDE_BY_SIDE.items()
    }


SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "first_evaluation": first_evaluations,
    "matmul_gflops_per_second": lambda: {"x".join(map(str, shape)): matmul_gflops(shape) for shape in SHAPES},
    "update_seconds": updates,
    "training": lambda: {name: end_to_end(name, rounds) for name, rounds in ROUNDS.items()},
    "side_by_side": side_by_side,
    "shared_run": lambda: {algo: shared_run(algo) for algo in SHARED},
}


def main() -> None:
    """Measures the sections that are asked for, prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "benchmark_updates.json")
    parser.add_argument("--only", choices=tuple(SECTIONS), nargs="+", help="measure only these and keep the rest of the file")
    asked = parser.parse_args()
    use_every_core()
    result: dict[str, Any] = json.loads(asked.out.read_text()) if asked.only else {}
    result |= {"machine": describe_machine(), "command": "python experiments/benchmark/updates.py"}
    for name in asked.only or SECTIONS:
        result[name] = SECTIONS[name]()
        print(name, json.dumps(result[name], indent=2), flush=True)
    asked.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
