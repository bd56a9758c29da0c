"""Where the time of an update goes: jax's profiler, its operations by kind, and the longest of them.

python experiments/benchmark/profile_update.py [--update maac mamt] [--out experiments/results/benchmark_profile.json]
"""

import argparse
import gzip
import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax

from experiments.benchmark.core import UPDATES, experiment, random_data
from mamt_jax.training.experiment import build
from mamt_jax.training.run_folder import describe_machine

COUNT = 10
LONGEST = 8
RANDOM = re.compile("threefry|_uniform|_gumbel|random_bits|shuffle")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\S+) ([\w\-]+)\(")


def compile_updates(update: str) -> tuple[jax.stages.Compiled, Any]:
    """A compiled (state, how many) -> state after so many updates, and the state to begin with."""
    env, algorithm, (config,), _ = build(experiment(*UPDATES[update]))
    data = random_data(algorithm, env.spec)

    def step(number: jax.Array, state: Any) -> Any:
        return algorithm.update(config, state, data, jax.random.fold_in(jax.random.key(0), number))[0]

    advance = jax.jit(lambda state, count: jax.lax.fori_loop(0, count, step, state), donate_argnums=0)
    state = jax.jit(lambda: algorithm.init(config, jax.random.key(1)))()
    return advance.lower(state, COUNT).compile(), state


def operation_seconds(compiled: jax.stages.Compiled, state: Any) -> dict[str, float]:
    """Seconds that each operation takes in an update; where some run at once, their seconds add up to more than the clock's."""
    state = jax.block_until_ready(compiled(state, COUNT))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(state, COUNT))
        (trace,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(trace) as file:
            events = json.load(file)["traceEvents"]
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        name = event.get("args", {}).get("hlo_op")
        if name and event.get("ph") == "X" and not name.startswith(("while", "call", "conditional")):
            seconds[name] += event["dur"] / 1e6 / COUNT
    return seconds


def describe_operations(hlo: str) -> dict[str, tuple[str, str]]:
    """For every operation of a compiled program its kind, and its shape and place in the program that was traced."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in hlo.splitlines():
        if head := re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            lines = computations.setdefault(head.group(1), [])
        else:
            lines.append(line)
    described = {}
    for line in [line for lines in computations.values() for line in lines]:
        if found := INSTRUCTION.match(line):
            name, shape, opcode = found.groups()
            called = re.search(r"calls=%?([\w.\-]+)", line)
            inside = (
                [match.group(3) for each in computations.get(called.group(1), []) if (match := INSTRUCTION.match(each))]
                if called
                else []
            )
            place = re.search(r'op_name="([^"]*)"', line)
            where = place.group(1).split(";")[0] if place else ""
            described[name] = kind_of({opcode, *inside}, where), f"{shape.split('{')[0]} {where}".strip()
    return described


def kind_of(opcodes: set[str], where: str) -> str:
    """What sort of work an operation is."""
    if "dot" in opcodes:
        return "matrix products"
    if RANDOM.search(where):
        return "random numbers"
    if opcodes & {"transpose", "copy"}:
        return "changes of layout"
    return "reductions" if "reduce" in opcodes else "elementwise"


def profile(update: str) -> dict[str, Any]:
    """Shares of an update's operation seconds by kind, the longest operations, what XLA counts, and memory."""
    compiled, state = compile_updates(update)
    analysis, described = compiled.memory_analysis(), describe_operations(compiled.as_text() or "")
    seconds = operation_seconds(compiled, state)
    total, kinds = sum(seconds.values()), defaultdict[str, float](float)
    for name, taken in seconds.items():
        kinds[described.get(name, ("elsewhere", ""))[0]] += taken
    longest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:LONGEST]
    return {
        "operation_seconds": total,
        "share": {kind: taken / total for kind, taken in sorted(kinds.items(), key=lambda item: -item[1])},
        "longest": [
            {"seconds": seconds[name], "kind": (what := described.get(name, ("elsewhere", name)))[0], "what": what[1]}
            for name in longest
        ],
        "temporary_mb": analysis.temp_size_in_bytes / 1e6 if analysis else None,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", nargs="+", choices=tuple(UPDATES), default=["maac", "mamt"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "benchmark_profile.json")
    asked = parser.parse_args()
    result = {"machine": describe_machine(), "command": "python experiments/benchmark/profile_update.py"}
    result["updates"] = {update: profile(update) for update in asked.update}
    print(json.dumps(result["updates"], indent=2))
    asked.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
