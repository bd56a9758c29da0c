"""The tables of README and docs, from the data under experiments/results alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import claims, parity, theory, two_samples
from experiments.analysis.original import ORIGINAL, original_curve, smoothed_table
from experiments.analysis.results import (
    ALGORITHMS,
    ENVIRONMENTS,
    POLICIES,
    RESULTS,
    VARIANTS,
    Shown,
    committed_runs,
    curves,
    final,
    read_result,
    read_rows,
    shown_environments,
    trained,
)
from mamt_jax.analysis.markdown import markdown
from mamt_jax.analysis.returns import DILEMMA
from mamt_jax.analysis.runs import TITLES

STATISTICS = "multiwalker_statistics"
GPU = "benchmark_core_gpu"
"""The file that `python experiments/benchmark/core.py --out` writes on a GPU."""


def summary_table(references: dict[str, dict[str, Any]]) -> str:
    """Training returns of every algorithm in every environment, with their standard deviation over seeds."""
    names = shown_environments()
    rows: list[Sequence[str]] = [("", *(ENVIRONMENTS[name].title for name in names))]
    for algorithm in (each for each in ALGORITHMS if any(trained(RESULTS / name, [each]) for name in names)):
        cells = []
        for name in names:
            there = trained(RESULTS / name, [algorithm])
            returns = final(RESULTS / name / algorithm, "train_return") if there else np.array([])
            deviation = f" ± {returns.std(ddof=1):.2g}" if returns.size > 1 else ""
            cells.append(f"{returns.mean():.3g}{deviation} ({returns.size})" if there else "")
        rows.append((algorithm, *cells))
    for policy in POLICIES:
        cells = [f"{references[name][policy]['return']:.3g}" if policy in references[name] else "" for name in names]
        rows.append((policy, *cells))
    return markdown(rows)


def table(folder: Path, shown: Shown, references: dict[str, Any]) -> str:
    """Mean return over the last fifth of training, and each seed's; reference policies with their standard error."""
    rows: list[Sequence[str]] = [("", "training return", "greedy return", f"{shown.task[1]} (greedy)", "episodes", "seeds")]
    for name in trained(folder, ALGORITHMS + VARIANTS):
        cells = []
        for metric in ("train_return", "eval_return", f"task/{shown.task[0]}"):
            values = final(folder / name, metric)
            cells.append(f"{values.mean():.3g} ({', '.join(f'{value:.3g}' for value in values)})")
        episodes, values = curves(read_rows(folder / name), "train_return")
        rows.append((name, *cells, f"{episodes[-1]:,}", f"{len(values)}"))
    if (folder / ORIGINAL).exists():
        episodes, values = original_curve(folder / ORIGINAL)
        last = curves(read_rows(folder / ALGORITHMS[0]), "train_return")[0][-1]
        same = values[(episodes > 0.8 * last) & (episodes <= last)]
        rows.append(("original MAAC (PyTorch)", f"{same.mean():.3g}", "", "", f"{last:,}", "1"))
    for policy, result in references.items():
        task = result["metrics"][shown.task[0]]
        rows.append((policy, f"{result['return']:.3g} ± {result['return_std_error']:.2g}", "", f"{task:.2g}", "", ""))
    return markdown(rows)


def dilemma_table(references: dict[str, dict[str, Any]]) -> str:
    """Returns on Spread-3 where nobody, two or all of three agents depend on each other, with every seed's."""
    rows: list[Sequence[str]] = [("", *(TITLES[env] for env in DILEMMA))]
    for algorithm in (each for each in ALGORITHMS if any(trained(RESULTS / env, [each]) for env in DILEMMA)):
        cells = []
        for env in DILEMMA:
            returns = final(RESULTS / env / algorithm, "train_return") if trained(RESULTS / env, [algorithm]) else np.array([])
            each = ", ".join(f"{value:.3g}" for value in returns)
            cells.append(f"{returns.mean():.3g} ({each})" if returns.size else "")
        rows.append((algorithm, *cells))
    for policy in POLICIES:
        cells = [f"{references[env][policy]['return']:.3g}" for env in DILEMMA]
        rows.append((policy, *cells))
    return markdown(rows)


def precision_table() -> str:
    """Returns of MAAC on Rover-Tower by the precision of products, over the second half of the episodes that all have."""
    folders = {"jax's own": "maac", "bfloat16": "maac_bfloat16"}
    found = {name: curves(read_rows(RESULTS / "rover_tower" / folder), "train_return") for name, folder in folders.items()}
    last = min(episodes[-1] for episodes, _ in found.values())
    rows: list[Sequence[str]] = [("precision of products", f"training return, episodes {last // 2:,} to {last:,}")]
    for name, (episodes, values) in found.items():
        means = values[:, (episodes > last / 2) & (episodes <= last)].mean(1)
        rows.append((name, f"{means.mean():.3g} ({', '.join(f'{mean:.3g}' for mean in means)})"))
    return markdown(rows)


def beside_original_table() -> str:
    """MAAC at the paper's and at the default settings beside the original."""
    folders = {"Table 1's settings": "rover_tower/maac", "the defaults here": "tuned/rover_tower/maac_long"}
    ours = {name: curves(read_rows(RESULTS / folder), "train_return") for name, folder in folders.items()}
    return smoothed_table(RESULTS / "rover_tower" / ORIGINAL, ours)


def reference_table(references: dict[str, dict[str, Any]]) -> str:
    """Returns of the reference policies in every environment."""
    rows: list[Sequence[str]] = [("", *POLICIES)]
    for env, policies in references.items():
        found = [policies.get(name) for name in POLICIES]
        cells = [f"{each['return']:.2f} ± {each['return_std_error']:.2f}" if each else "" for each in found]
        rows.append((env, *cells))
    return markdown(rows)


def speed_table(benchmark: dict[str, Any], gpu: dict[str, Any] | None) -> str:
    """Medians of the core benchmark on a CPU, and seconds per update on a GPU where there is such a file."""
    titles = ("seconds per update", "on a GPU", "in MAAC updates", "GFLOP", "GFLOP/s", "training, env steps/s", "compile, s")
    rows: list[Sequence[str]] = [("", *titles)]
    updates = benchmark["update_seconds"]
    for name, row in updates.items():
        training = benchmark["training"].get(name)
        cells = [
            f"{row['median']:.3f} (min {row['min']:.3f})",
            f"{gpu['update_seconds'][name]['median']:.4f}" if gpu else "not yet measured",
            f"{row['median'] / updates['maac']['median']:.2g}",
            f"{row['gflop']:.2g}",
            f"{row['gflops_per_second']:.0f}",
            f"{training['env_steps_per_second']['median']:,.0f}" if training else "",
            f"{training['compile_seconds']:.0f}" if training else "",
        ]
        rows.append((name, *cells))
    return markdown(rows)


def profile_table(profile: dict[str, Any]) -> str:
    """Where the time of an update goes, in per cent of the time of all its operations."""
    updates = profile["updates"]
    kinds = list(next(iter(updates.values()))["share"])
    rows: list[Sequence[str]] = [("% of the time", *kinds)]
    for name, update in updates.items():
        cells = [f"{100 * update['share'][kind]:.2g}" for kind in kinds]
        rows.append((name, *cells))
    return markdown(rows)


def side_by_side_table(benchmark: dict[str, Any]) -> str:
    """Milliseconds that an update of one run takes among others, medians."""
    results = benchmark["side_by_side"]
    counts = list(next(iter(results.values())))
    rows: list[Sequence[str]] = [("runs side by side", *counts)]
    for name, by_count in results.items():
        cells = [
            f"{1000 * by_count[count]['median'] / int(count):.0f} ({by_count[count]['gflops_per_second']:.0f} GFLOP/s)"
            for count in counts
        ]
        rows.append((name, *cells))
    return markdown(rows)


def start_table(benchmark: dict[str, Any]) -> str:
    """From the command to the first evaluation of what has learnt."""
    rows: list[Sequence[str]] = [("", "seconds to the first evaluation", "memory at most, GB")]
    for name, row in benchmark["first_evaluation"].items():
        rows.append((name, f"{row['seconds']:.0f}", f"{row['peak_memory_gb']:.2g}"))
    return markdown(rows)


def environment_speed_table(benchmark: dict[str, Any]) -> str:
    """Thousands of environment steps per second with random actions, medians."""
    found = {name: benchmark[name] for name in ("spread", "rover_tower", "pursuit", "multiwalker") if name in benchmark}
    rates = {name: row["env_steps_per_second"] for name, row in found.items()}
    rates = {"spread": rates["spread"], "JaxMARL's Spread": found["spread"]["jaxmarl"]} | rates
    batches = list(rates["spread"])
    rows: list[Sequence[str]] = [("batch", *batches, "original, 1 process", "original, 12")]
    for name, by_batch in rates.items():
        medians = [by_batch[batch]["median"] / 1000 if batch in by_batch else None for batch in batches]
        cells = ["" if median is None else f"{median:,.0f}" if median >= 100 else f"{median:.3g}" for median in medians]
        cells += [f"{rate / 1000:.2g}" for rate in found.get(name, {}).get("original", {}).values()] or ["", ""]
        rows.append((name, *cells))
    return markdown(rows)


def processes_table(benchmark: dict[str, Any]) -> str:
    """Environment steps per second of 12 environments of PettingZoo in processes, medians."""
    results = benchmark["env_steps_per_second"]
    ways = list(next(iter(results.values())))
    rows: list[Sequence[str]] = [("processes", *ways)]
    for name, by_way in results.items():
        rates = [f"{by_way[way]['median']:.0f}" for way in ways]
        rows.append((name, *rates))
    return markdown(rows)


def ippo_table(benchmark: dict[str, Any]) -> str:
    """Training beside JaxMARL's IPPO."""
    trained = benchmark["rows"]
    goals = list(next(iter(trained.values()))["seconds_to"])
    titles = [f"seconds to {goal}" for goal in goals]
    rows: list[Sequence[str]] = [("", "env steps/s", "final return", *titles, "compile, s")]
    for name, row in trained.items():
        seconds = ["never" if row["seconds_to"][goal] is None else f"{row['seconds_to'][goal]:.0f}" for goal in goals]
        cells = [f"{row['env_steps_per_second']:,.0f}", f"{row['final_return']:.1f}", *seconds, f"{row['compile_seconds']:.0f}"]
        rows.append((name, *cells))
    return markdown(rows)


def tables() -> list[str]:
    """Every table of README and docs."""
    references, core = read_result("reference_returns")["returns"], read_result("benchmark_core")
    learners = [table(RESULTS / name, ENVIRONMENTS[name], references[name]) for name in shown_environments()]
    speeds = [
        speed_table(core, read_result(GPU) if (RESULTS / f"{GPU}.json").exists() else None),
        profile_table(read_result("benchmark_profile")),
        side_by_side_table(core),
        start_table(core),
        environment_speed_table(read_result("benchmark_environments")),
        ippo_table(read_result("benchmark_ippo")),
        processes_table(read_result("benchmark_processes")),
        two_samples.table(read_result(STATISTICS)["policies"]),
        *parity.tables(read_result("multiwalker_parity")),
    ]
    environments = [summary_table(references), *learners, beside_original_table(), dilemma_table(references)]
    return [
        *environments,
        precision_table(),
        reference_table(references),
        *speeds,
        *theory.tables(read_result("theory"), committed_runs()),
        *claims.tables(),
    ]
