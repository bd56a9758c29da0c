"""Measures the effect of a change on speed: times two revisions in turns on one machine, and adds a row to the results.

python experiments/benchmark/before_after.py BEFORE AFTER --what "what was changed" [--update maac] [--round] [--turns 30]
python experiments/benchmark/before_after.py BEFORE AFTER --what "what was changed" --env multiwalker

Each revision is started several times, now first and now second, because two processes of one revision may differ by some
percent. A row also has the seconds of the first call of each start, compiling included.
"""

import argparse
import importlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
UPDATES_A_TURN, NUM_ENVS = 5, 512


def serve(advance: Callable[[int], None]) -> None:
    """Prints the seconds of a first call, then for each number on a line of standard input the seconds per one of that many."""
    for count in itertools.chain([1], map(int, sys.stdin)):
        began = time.perf_counter()
        advance(count)
        print((time.perf_counter() - began) / count, flush=True)


def first_module(*names: str) -> ModuleType:
    """Imports the first of these modules that the revision has, since some were renamed."""
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    return importlib.import_module(names[-1])


def benchmark() -> ModuleType:
    """The revision's benchmark of updates."""
    return first_module("experiments.benchmark.updates", "experiments.benchmark.core")


def experiment(update: str) -> Any:
    """An experiment with one run of an update in updates.py, in batches of 256."""
    import envs_jax
    from mamt_jax.algorithms import registry
    from mamt_jax.training.config import TrainingConfig
    from mamt_jax.training.experiment import Experiment

    env, algo, options = benchmark().UPDATES[update]
    training = TrainingConfig(**{"batch_size": 256, **registry.make(algo, envs_jax.make(env).spec).training})
    return Experiment(env, algo, {}, options, ({"seed": 0},), training)


def updates(update: str) -> Callable[[int], None]:
    """Returns a function that makes `count` updates on one batch and waits for them."""
    import jax

    from mamt_jax.training.experiment import build

    env, algorithm, (config,), _ = build(experiment(update))
    data = benchmark().random_data(algorithm, env.spec)

    def step(number: jax.Array, state: Any) -> Any:
        return algorithm.update(config, state, data, jax.random.fold_in(jax.random.key(0), number))[0]

    # Training has an axis of runs, which changes array layouts.
    steps = jax.vmap(step, in_axes=(None, 0))
    program = jax.jit(lambda states, count: jax.lax.fori_loop(0, count, steps, states), donate_argnums=0)
    state = [jax.jit(jax.vmap(lambda key: algorithm.init(config, key)))(jax.random.split(jax.random.key(1), 1))]

    def advance(count: int) -> None:
        state[0] = jax.block_until_ready(program(state[0], count))

    return advance


def training_rounds(update: str) -> Callable[[int], None]:
    """Returns a function that trains for `count` rounds, each a rollout into memory and its updates, and waits for them."""
    import jax

    from envs_jax.environment import Environment
    from mamt_jax.training.experiment import build

    vectorized = first_module("mamt_jax.training.vectorized", "mamt_jax.training.runs")
    what = experiment(update)
    env, algorithm, own, schedule = build(what)
    assert isinstance(env, Environment)
    runs, configs = vectorized.make_runs(env, algorithm, what.training, schedule, 1), vectorized.stack_configs(own)
    state, done = [runs.init(configs, vectorized.run_keys([0]))], [0]

    def advance(count: int) -> None:
        state[0] = jax.block_until_ready(runs.advance(configs, state[0], done[0], count))
        done[0] += count

    before_0_2 = "warmup_rounds" in schedule._fields
    advance(getattr(schedule, "warmup_rounds" if before_0_2 else "warmup_iterations"))
    return advance


def steps(name: str) -> Callable[[int], None]:
    """Returns a function that takes `count` steps of environments with random actions, and waits for them."""
    import jax

    import envs_jax
    from envs_jax.reference_policies import sample_action

    env = envs_jax.auto_reset(envs_jax.make(name))
    mask = jax.numpy.broadcast_to(env.spec.action_mask, (NUM_ENVS, *env.spec.action_mask.shape))

    def step(_: jax.Array, carry: Any) -> Any:
        state, key = carry
        next_key, act_key, step_key = jax.random.split(key, 3)
        action = sample_action(env.spec, act_key, mask)
        return jax.vmap(env.step)(jax.random.split(step_key, NUM_ENVS), state, action)[0], next_key

    program = jax.jit(lambda carry, count: jax.lax.fori_loop(0, count, step, carry), donate_argnums=0)
    state = [(jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), NUM_ENVS))[0], jax.random.key(1))]

    def advance(count: int) -> None:
        state[0] = jax.block_until_ready(program(state[0], count))

    return advance


def open_server(revision: str, folder: Path, arguments: list[str]) -> tuple[subprocess.Popen[str], float]:
    """Starts a process that serves timings of the code of `revision`; returns it and the seconds of its first call."""
    if not folder.exists():
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", revision], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
    command = [sys.executable, __file__, "--serve", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(folder)}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder)
    assert server.stdout is not None
    return server, float(server.stdout.readline())


def close(server: subprocess.Popen[str]) -> None:
    """Ends a process."""
    server.kill()
    server.wait()


def take_turns(servers: list[subprocess.Popen[str]], turns: int) -> list[list[float]]:
    """Seconds per update, round or step of each server in each turn."""
    seconds: list[list[float]] = [[] for _ in servers]
    for turn in range(turns + 1):
        for server, taken in zip(servers, seconds, strict=True):
            assert server.stdin is not None and server.stdout is not None
            print(UPDATES_A_TURN, file=server.stdin, flush=True)
            answer = float(server.stdout.readline())
            if turn:  # the first one is warm-up
                taken.append(answer)
    return seconds


def commit(revision: str) -> str:
    """The short hash of a revision."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", revision]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Measures both revisions, prints the result and adds a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revisions", nargs="*", metavar="REVISION", help="the revisions before and after the change")
    parser.add_argument("--what", help="description of the change")
    parser.add_argument("--update", default="maac", help="update of updates.py to time (default maac)")
    parser.add_argument(
        "--round", action="store_true", help="time whole rounds of training with this update, in batches of 256"
    )
    parser.add_argument("--env", help=f"time steps of {NUM_ENVS} copies of this environment instead")
    parser.add_argument("--turns", type=int, default=30, help="number of times that each start is timed (default 30)")
    parser.add_argument("--starts", type=int, default=4, help="number of times that each revision is started (default 4)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "benchmark_changes.json")
    asked = parser.parse_args()
    if asked.serve:
        return serve(steps(asked.env) if asked.env else (training_rounds if asked.round else updates)(asked.update))
    if len(asked.revisions) != 2 or not asked.what:
        parser.error("give the revisions before and after the change, and a description with --what.")

    from updates import spread

    from mamt_jax.training.run_folder import describe_machine

    names = [commit(revision) for revision in asked.revisions]
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--env", asked.env] if asked.env else ["--update", asked.update, *(["--round"] if asked.round else [])]
        first_calls: list[list[float]] = [[] for _ in names]
        seconds: list[list[float]] = [[] for _ in names]
        for start in range(asked.starts):
            order = (0, 1) if start % 2 == 0 else (1, 0)
            opened = [open_server(names[which], Path(folder, names[which]), arguments) for which in order]
            turns = take_turns([server for server, _ in opened], asked.turns)
            for which, (server, first_call), times in zip(order, opened, turns, strict=True):
                first_calls[which].append(first_call)
                seconds[which] += times
                close(server)
    before, after = (
        {"revision": name, "first_calls": starts} | spread(taken)
        for name, starts, taken in zip(names, first_calls, seconds, strict=True)
    )
    measured = {"env": asked.env} if asked.env else {"round_with" if asked.round else "update": asked.update}
    ratio = statistics.median(new / old for old, new in zip(*seconds, strict=True))
    row = {"what": asked.what, **measured, "before": before, "after": after, "median_ratio_of_turns": ratio}
    row["machine"] = describe_machine()
    print(json.dumps(row, indent=2))
    rows = json.loads(asked.out.read_text()) if asked.out.exists() else []
    asked.out.write_text(json.dumps([*rows, row], indent=2) + "\n")


if __name__ == "__main__":
    main()
