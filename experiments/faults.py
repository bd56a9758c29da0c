"""Breaks training on purpose, again and again, and counts what came of it: the figures of docs/faults.md.

Each trial is a training of four runs in a process of its own, which lasts some seconds. Faults of the file system are tried
on a tmpfs, which takes root; without it they are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parents[1])
sys.path.insert(0, ROOT)
os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import numpy as np  # noqa: E402

from experiments.breaking import FAULTS, MOUNTING, Outcome  # noqa: E402
from experiments.watched_runs import ARGUMENTS, Bench, logs, make_bench  # noqa: E402
from mamt_jax.training.writers import describe_machine, write_json  # noqa: E402

RESULT = Path(__file__).parent / "results" / "faults.json"
HEADER = ["fault", "trials", "told in a sentence", "gone on with", "same end, bit for bit", "intervals lost: mean, most"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5, help="trials of each fault (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places of faults (default 0)")
    parser.add_argument(
        "--faults",
        nargs="+",
        choices=tuple(FAULTS),
        default=list(FAULTS),
        metavar="NAME",
        help="which; others stay as they are in --out",
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file of the result")
    parser.add_argument("--table", action="store_true", help="only print the table of what is in --out")
    given = parser.parse_args(arguments)
    if not given.table:
        with tempfile.TemporaryDirectory() as where:
            faults = campaign(Path(where), given.faults, given.trials, given.seed)
        if given.out.exists():
            faults = json.loads(given.out.read_text())["faults"] | faults
        faults = {name: faults[name] for name in FAULTS if name in faults}
        result = {"command": ARGUMENTS, "seed": given.seed, "faults": faults, **describe_machine()}
        write_json(given.out, result)
    print(table(json.loads(given.out.read_text())))
    return 0


def campaign(where: Path, names: Sequence[str], trials: int, seed: int) -> dict[str, dict[str, Any]]:
    """So many trials of each fault, in `where`."""
    bench = make_bench(where)
    print(f"{bench.intervals} intervals of {bench.seconds:.2f} s", flush=True)
    can_mount = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    possible = [name for name in names if can_mount or FAULTS[name] not in MOUNTING]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # threads that wait for processes
        counted = pool.map(lambda name: try_often(bench, name, trials, seed), possible)
        return dict(zip(possible, counted, strict=True))


def try_often(bench: Bench, name: str, trials: int, seed: int) -> dict[str, Any]:
    """Trials of one fault, counted; each draws from `seed` and its own number."""
    outcomes, tracebacks = [], 0
    for number in range(trials):
        where = bench.cache.parent / f"{list(FAULTS).index(name)}-{number}"
        where.mkdir()
        outcomes.append(FAULTS[name](bench, np.random.default_rng([seed, number, *name.encode()]), where))
        tracebacks += "Traceback" in logs(where)
        print(f"{name} {number}: {outcomes[-1]}", flush=True)
        if any(each is False for each in outcomes[-1]):
            print(logs(where), flush=True)
    return count(outcomes) | {"tracebacks": tracebacks}


def count(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How often each thing came about, of how many times it could have."""

    def of(field: str) -> list[int]:
        found = [getattr(each, field) for each in outcomes if getattr(each, field) is not None]
        return [sum(found), len(found)]

    lost = [each.lost for each in outcomes if each.lost is not None]
    return {
        "trials": len(outcomes),
        **{field: of(field) for field in ("said", "resumed", "same")},
        "lost": [round(float(np.mean(lost)), 2), max(lost)] if lost else None,
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""

    def share(pair: Sequence[int]) -> str:
        return f"{pair[0]} of {pair[1]}" if pair[1] else "-"

    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    for name, counts in result["faults"].items():
        lost = f"{counts['lost'][0]:g}, {counts['lost'][1]}" if counts["lost"] else "-"
        cells = [name, str(counts["trials"]), *(share(counts[field]) for field in ("said", "resumed", "same")), lost]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
