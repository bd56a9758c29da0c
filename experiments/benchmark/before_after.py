"""Measures the effect of a change on speed: times two revisions in turns on one machine, and adds a row to the results.

python experiments/benchmark/before_after.py BEFORE AFTER --what "what was changed" [--update maac] [--round] [--turns 30]
"""

import argparse
import importlib
import io
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
UPDATES_A_TURN = 5


def serve(update: str, rounds: bool) -> None:
    """For each number on a line of standard input, makes that many updates or rounds and prints the seconds per one."""
    advance = training_rounds(update) if rounds else updates(update)
    advance(1)
    for line in sys.stdin:
        began = time.perf_counter()
        advance(int(line))
        print((time.perf_counter() - began) / int(line), flush=True)


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


def open_server(revision: str, folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Starts a process that serves timings of the code of `revision`."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", revision], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    command = [sys.executable, __file__, "--serve", *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder)


def take_turns(servers: list[subprocess.Popen[str]], turns: int) -> list[list[float]]:
    """Seconds per update or round of each server in each turn."""
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
    parser.add_argument("--turns", type=int, default=30, help="number of times that each revision is timed (default 30)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "benchmark_changes.json")
    asked = parser.parse_args()
    if asked.serve:
        return serve(asked.update, asked.round)
    if len(asked.revisions) != 2 or not asked.what:
        parser.error("give the revisions before and after the change, and a description with --what.")

    from updates import spread

    from mamt_jax.training.run_folder import describe_machine

    names = [commit(revision) for revision in asked.revisions]
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--update", asked.update, *(["--round"] if asked.round else [])]
        servers = [open_server(name, Path(folder, name), arguments) for name in names]
        seconds = take_turns(servers, asked.turns)
        for server in servers:
            server.kill()
            server.wait()
    before, after = ({"revision": name} | spread(taken) for name, taken in zip(names, seconds, strict=True))
    measured = {"round_with" if asked.round else "update": asked.update}
    ratio = statistics.median(new / old for old, new in zip(*seconds, strict=True))
    row = {"what": asked.what, **measured, "before": before, "after": after, "median_ratio_of_turns": ratio}
    row["machine"] = describe_machine()
    print(json.dumps(row, indent=2))
    rows = json.loads(asked.out.read_text()) if asked.out.exists() else []
    asked.out.write_text(json.dumps([*rows, row], indent=2) + "\n")


if __name__ == "__main__":
    main()
