"""Measures environment steps per second with random actions: ours and JaxMARL's by batch size, and the originals.

python experiments/benchmark/environments.py [--out experiments/results/benchmark_environments.json]

Run it alone on the machine. An environment step is one step of all agents. Our environments and JaxMARL's Spread reset
themselves within the step, as in training. A batch is split over the devices, and each core of a CPU is one device. The
originals play in one process and in twelve. Rover-Tower's original is left out: it cannot be installed with current packages.
"""

import argparse
import importlib.util
import json
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import envs_jax
from envs_jax import auto_reset
from envs_jax.adapters.originals import make_original
from envs_jax.environment import Environment
from envs_jax.reference_policies import sample_action
from mamt_jax.cli.devices import use_every_core
from mamt_jax.training.run_folder import describe_machine
from mamt_jax.training.vectorized import shard

BATCHES = (1, 64, 1024, 4096)
SECONDS, REPEATS, PROCESSES = 2.0, 5, 12
ENVIRONMENTS: dict[str, dict[str, Any]] = {"spread": {"num_agents": 3}, "rover_tower": {}, "pursuit": {}, "multiwalker": {}}


class Game(NamedTuple):
    """An environment under random actions that resets itself.

    Attributes:
        reset: key -> state.
        step: (state, keys (2,)) -> (state, sum of all outputs of the step, which keeps XLA from removing any).
    """

    reset: Callable[[jax.Array], Any]
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array]]


def our_game(env: Environment) -> Game:
    """Makes a game of one of our environments."""
    env = auto_reset(env)

    def step(state: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
        action = sample_action(env.spec, keys[0], jnp.asarray(env.spec.action_mask))
        state, timestep = env.step(keys[1], state, action)
        return state, timestep.observation.sum() + timestep.reward.sum()

    return Game(lambda key: env.reset(key)[0], step)


def jaxmarl_game() -> Game:
    """Makes a game of JaxMARL's Spread with three agents, with JaxMARL's own automatic reset and sampling of actions."""
    import jaxmarl

    env = jaxmarl.make("MPE_simple_spread_v3")

    def step(state: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
        draws = zip(env.agents, jax.random.split(keys[0], env.num_agents), strict=True)
        actions = {agent: env.action_space(agent).sample(key) for agent, key in draws}
        observations, state, rewards, _, _ = env.step(keys[1], state, actions)
        return state, jnp.stack([leaf.sum() for leaf in jax.tree.leaves((observations, rewards))]).sum()

    return Game(lambda key: env.reset(key)[1], step)


def in_parts(batch: int) -> NamedSharding:
    """The sharding that splits a batch evenly over as many devices as divide it."""
    devices = jax.devices()[: math.gcd(batch, jax.device_count())]
    return NamedSharding(Mesh(np.array(devices), ("games",)), PartitionSpec("games"))


def draw_keys(seed: int, batch: int) -> jax.Array:
    """Makes one key per game, on the device that plays it."""
    return jax.device_put(jax.random.split(jax.random.key(seed), batch), in_parts(batch))


def make_steps(game: Game, batch: int) -> tuple[Callable[[Any, jax.Array, int], Any], Any]:
    """Makes a program that plays `batch` games for a number of steps; returns it with the initial states."""
    parts = in_parts(batch)

    def steps(state: Any, keys: jax.Array, count: jax.Array) -> Any:
        def step(number: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, seen = carry
            step_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number)))(keys)
            state, shown = jax.vmap(game.step)(state, step_keys)
            return state, seen + shown

        return jax.lax.fori_loop(0, count, step, (state, jnp.zeros(len(keys))))

    program = jax.jit(shard(steps, parts, by_run=2, shared=1), in_shardings=(parts, parts, None), out_shardings=parts)
    return program, jax.jit(jax.vmap(game.reset), out_shardings=parts)(draw_keys(0, batch))


def measure(game: Game, batch: int) -> dict[str, float]:
    """Environment steps per second, median, minimum and maximum, and seconds of compilation."""
    steps, state = make_steps(game, batch)
    start = time.perf_counter()
    program = steps.lower(state, draw_keys(1, batch), 1).compile()  # pyright: ignore[reportFunctionMemberAccess]
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    state, _ = jax.block_until_ready(program(state, draw_keys(1, batch), 20))
    count = max(20, int(20 * SECONDS / (time.perf_counter() - start)))
    rates = []
    for repeat in range(REPEATS):
        keys = draw_keys(2 + repeat, batch)
        start = time.perf_counter()
        state, _ = jax.block_until_ready(program(state, keys, count))
        rates.append(batch * count / (time.perf_counter() - start))
    return {"median": float(np.median(rates)), "min": min(rates), "max": max(rates), "compile_seconds": compile_seconds}


def play_original(name: str, seconds: float) -> float:
    """Environment steps per second of the original in one process, with random actions from its own spaces."""
    env = make_original(name, **ENVIRONMENTS[name])
    env.reset(seed=0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        if not env.agents:
            env.reset()
        env.step({agent: env.action_space(agent).sample() for agent in env.agents})
        steps += 1
    return steps / (time.perf_counter() - start)


def originals(name: str) -> dict[str, float]:
    """Environment steps per second of the original in one process, and in total of `PROCESSES` at once."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        together = pool.starmap(play_original, [(name, 3 * SECONDS)] * PROCESSES)
    return {"one process": play_original(name, 3 * SECONDS), f"{PROCESSES} processes": sum(together)}


def main() -> None:
    """Measures the environments that are asked for, prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "benchmark_environments.json")
    parser.add_argument(
        "--only", choices=tuple(ENVIRONMENTS), nargs="+", help="measure only these and keep the rest of the file"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help=f"batch sizes (default {BATCHES})")
    asked = parser.parse_args()
    use_every_core()
    command = {"machine": describe_machine(), "command": "python experiments/benchmark/environments.py"}
    result: dict[str, Any] = (json.loads(asked.out.read_text()) if asked.only and asked.out.exists() else {}) | command
    for name in asked.only or ENVIRONMENTS:
        env = envs_jax.make(name, **ENVIRONMENTS[name])
        rates = {str(batch): measure(our_game(env), batch) for batch in asked.batches}
        result[name] = {"options": ENVIRONMENTS[name], "env_steps_per_second": rates}
        if name == "spread" and importlib.util.find_spec("jaxmarl"):
            result[name]["jaxmarl"] = {str(batch): measure(jaxmarl_game(), batch) for batch in asked.batches}
        if name != "rover_tower":
            result[name]["original"] = originals(name)
        print(name, json.dumps(result[name], indent=1), flush=True)
    asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
