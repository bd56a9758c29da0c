"""Measures time to a return: default training of every task and algorithm, each seed from an empty compilation cache.

python experiments/benchmark/time_to_return.py                    # all pairs and seeds that are missing
python experiments/benchmark/time_to_return.py rover_tower/mamt   # this pair again

Run it alone on the machine. Seconds are counted from the start of the command and include imports and compilation. Curves are
kept in experiments/results/benchmark_time_to_return.json, runs under runs/time_to_return. experiments/figures.py draws the
curves.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mamt_jax.training.run_folder import CONFIG, METRICS, describe_machine, read_rows

RESULT = Path(__file__).parents[1] / "results" / "benchmark_time_to_return.json"
TASKS: dict[str, list[str]] = {
    "rover_tower": ["--env", "rover_tower"],
    "spread": ["--env", "spread"],
    "spread_n3": ["--env", "spread", "--num-agents", "3"],
    "spread3_mix": ["--env", "spread3_mix"],
    "pursuit": ["--env", "pursuit"],
    "multiwalker": ["--env", "multiwalker"],
}
ALGORITHMS = ("mappo", "maddpg", "maac", "mamd", "mamt")
SEEDS = (0, 1, 2)


def pairs() -> list[str]:
    """All pairs of a task and an algorithm. LOLA has a single task, since it needs two agents."""
    return [f"{task}/{algo}" for task in TASKS for algo in (*ALGORITHMS, *(["lola"] if task == "spread" else []))]


def train(task: str, algo: str, seed: int, folder: Path) -> dict[str, Any]:
    """Trains one run in a new process; returns seconds since its start, environment steps and return of each evaluation."""
    shutil.rmtree(folder, ignore_errors=True)
    options = [*TASKS[task], "--algo", algo, "--seed", str(seed), "--out", str(folder)]
    with tempfile.TemporaryDirectory() as cache:
        began = time.time()
        command = [sys.executable, "-m", "mamt_jax", "train", *options, "--compilation-cache", cache]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        whole = time.time() - began
    rows, before = read_rows(folder / METRICS), (folder / CONFIG).stat().st_mtime - began  # before the clock of the rows starts
    return {
        "seconds": [round(before + row["wall_seconds"], 2) for row in rows],
        "env_steps": [row["env_steps"] for row in rows],
        "return": [round(row["eval_return"], 3) for row in rows],
        "whole_seconds": round(whole, 1),
    }


def measure(pair: str, seed: int, work: Path, out: Path) -> None:
    """Trains one seed of a pair and writes its curve."""
    task, algo = pair.split("/")
    curve = train(task, algo, seed, work / pair / str(seed))
    print(pair, f"seed {seed}", f"highest return {max(curve['return'])}", f"total {curve['whole_seconds']} s", flush=True)
    measured = read_measured(out)  # another process on another core may have written meanwhile
    measured["curves"].setdefault(pair, {})[str(seed)] = curve
    measured["machines"][pair] = describe_machine()
    out.write_text(json.dumps(measured) + "\n")


def read_measured(path: Path) -> dict[str, Any]:
    """Reads the measurements so far: curves and machines, by pair."""
    return json.loads(path.read_text()) if path.exists() else {"machines": {}, "curves": {}}


def missing(curves: dict[str, Any]) -> list[tuple[str, int]]:
    """The pairs and seeds that are not measured yet."""
    return [(pair, seed) for pair in pairs() for seed in SEEDS if str(seed) not in curves.get(pair, {})]


def main() -> None:
    """Measures the pairs that are asked for, prints and writes the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="TASK/ALGO", help="pairs to measure (default: those that are missing)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="N", help="seeds of these pairs (default: all)")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", type=Path, default=Path("runs/time_to_return"), metavar="DIR")
    asked = parser.parse_args()
    if unknown := [pair for pair in asked.pairs if pair not in pairs()]:
        parser.error(f"there is no pair {unknown[0]}: give one or more of {', '.join(pairs())}.")
    given = [(pair, seed) for pair in asked.pairs for seed in asked.seeds]
    for pair, seed in given or missing(read_measured(asked.out)["curves"]):
        measure(pair, seed, asked.work, asked.out)


if __name__ == "__main__":
    main()
