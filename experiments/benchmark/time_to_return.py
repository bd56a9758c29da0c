"""Time to a return: the default training of every task and algorithm, seed by seed, each from an empty compilation cache.

python experiments/benchmark/time_to_return.py                    # every pair that is missing
python experiments/benchmark/time_to_return.py rover_tower/mamt   # this one again

Run alone on the machine. Seconds are those since the command began, imports and compiling included. A run ends when its greedy
return has come 95 % of the way from the random to the scripted policy's, or after `SECONDS`. Curves are kept in
experiments/results/benchmark_time_to_return.json; experiments/figures.py draws them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mamt_jax.training.references import read_references
from mamt_jax.training.run_folder import CONFIG, METRICS, describe_machine, read_config, read_rows

RESULT = Path(__file__).parents[1] / "results" / "benchmark_time_to_return.json"
TASKS: dict[str, list[str]] = {
    "rover_tower": ["--env", "rover_tower"],
    "spread": ["--env", "spread"],
    "spread_n3": ["--env", "spread", "--num-agents", "3"],
    "pursuit": ["--env", "pursuit"],
    "multiwalker": ["--env", "multiwalker"],
}
ALGORITHMS = ("mappo", "maddpg", "maac", "mamd", "mamt")
SECONDS = {"rover_tower": 240, "spread": 240, "spread_n3": 600, "pursuit": 600, "multiwalker": 600}
SEEDS = (0, 1, 2)
ENOUGH = 0.95
PAUSE = 0.2


def pairs() -> list[str]:
    """Every task and algorithm; LOLA is for two agents."""
    return [f"{task}/{algo}" for task in TASKS for algo in (*ALGORITHMS, *(["lola"] if task == "spread" else []))]


def is_reached(folder: Path) -> bool:
    """Whether a run has come as close to the scripted policy as it has to."""
    rows = read_rows(folder / METRICS)
    if not rows:
        return False
    random, scripted = (read_references(read_config(folder))[name].value for name in ("random", "scripted"))
    return max(row["eval_return"] for row in rows) >= random + ENOUGH * (scripted - random)


def train(task: str, algo: str, seed: int, work: Path, extra: list[str]) -> dict[str, list[float]]:
    """One run, in a process of its own: at each evaluation the seconds since it began, the environment steps, the return."""
    folder = work / "run"
    options = [*TASKS[task], "--algo", algo, "--seed", str(seed), *extra]
    places = ["--out", str(folder), "--compilation-cache", str(work / "cache")]
    began = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "mamt_jax", "train", *options, *places], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while process.poll() is None and time.time() - began < SECONDS[task] and not is_reached(folder):
        time.sleep(PAUSE)
    process.kill()
    _, error = process.communicate()
    rows = read_rows(folder / METRICS)
    if not rows:
        raise SystemExit(f"error: {task}/{algo} did not train: {error.decode()[-500:]}")
    before = (folder / CONFIG).stat().st_mtime - began  # what comes before the clock of metrics.jsonl begins
    return {
        "seconds": [round(before + row["wall_seconds"], 2) for row in rows],
        "env_steps": [row["env_steps"] for row in rows],
        "return": [round(row["eval_return"], 3) for row in rows],
    }


def measure(pair: str, extra: list[str]) -> dict[str, Any]:
    """All seeds of a pair."""
    task, algo = pair.split("/")
    curves = {}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as work:
            curves[str(seed)] = train(task, algo, seed, Path(work), extra)
        last = {name: values[-1] for name, values in curves[str(seed)].items()}
        print(pair, f"seed {seed}", last, flush=True)
    return curves


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="TASK/ALGO", help="(default: those that are missing)")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked, extra = parser.parse_known_args()
    if unknown := [pair for pair in asked.pairs if pair not in pairs()]:
        parser.error(f"there is no pair {unknown[0]}: give some of {', '.join(pairs())}.")
    result = json.loads(asked.out.read_text()) if asked.out.exists() else {"curves": {}}
    for pair in asked.pairs or [pair for pair in pairs() if pair not in result["curves"]]:
        result["curves"][pair] = measure(pair, extra)
        content = {"machine": describe_machine(), "seconds": SECONDS, "curves": result["curves"]}
        asked.out.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
