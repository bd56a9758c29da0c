"""The tables of the README and the documentation, made from the committed results."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis import claims, dependence, multiwalker, theory, time_to_return, trials
from analysis.markdown import markdown
from analysis.results import (
    ALGORITHMS,
    ENVIRONMENTS,
    ORIGINAL,
    POLICIES,
    RESULTS,
    VARIANTS,
    Shown,
    final,
    length,
    mean_curve,
    original_batches,
    original_curve,
    read_result,
    read_returns,
    read_run,
    shown_environments,
    trained,
)
from mamt_jax.analysis.returns import DILEMMA
from mamt_jax.analysis.runs import TITLES, Curve

WINDOW = 500
DEFAULTS = ", defaults"
"""Suffix in the names of updates that have the default settings."""
ENDS = np.array([500, 1000, 2000, 3000, 4000, 6000, 8000, 10000, 12000, 14000])
"""Episodes at which MAAC is compared with the original code, by means over the `WINDOW` episodes before."""
GPU = "benchmark_updates_gpu"
"""The file that `python experiments/benchmark/updates.py --out` writes on a GPU."""


def mean_and_seeds(values: np.ndarray) -> str:
    """Formats the mean, and the value of each seed."""
    return f"{values.mean():.3g} ({', '.join(f'{value:.3g}' for value in values)})"


def mean_and_deviation(values: np.ndarray) -> str:
    """Formats the mean, the standard deviation over seeds if there are several, and the number of seeds."""
    deviation = f" ± {values.std(ddof=1):.2g}" if values.size > 1 else ""
    return f"{values.mean():.3g}{deviation} ({values.size})"


def returns_table(titles: Mapping[str, str], references: dict[str, dict[str, Any]], show: Callable[[np.ndarray], str]) -> str:
    """A table of training returns by algorithm and environment, formatted by `show`, and of reference returns."""
    runs = {env: {name: read_run(RESULTS / env / name) for name in trained(RESULTS / env)} for env in titles}
    rows: list[Sequence[str]] = [("", *titles.values())]
    for name in (each for each in ALGORITHMS if any(each in found for found in runs.values())):
        rows.append((name, *(show(final(found[name], "train_return")) if name in found else "" for found in runs.values())))
    for policy in POLICIES:
        earned = [references[env].get(policy) for env in titles]
        rows.append((policy, *(f"{each['return']:.3g}" if each else "" for each in earned)))
    return markdown(rows)


def environment_table(folder: Path, shown: Shown, references: dict[str, Any]) -> str:
    """A table of returns over the last fifth of training, mean and each seed, and of the reference policies' returns."""
    rows: list[Sequence[str]] = [("", "training return", "greedy return", f"{shown.task[1]} (greedy)", "episodes", "seeds")]
    for name in trained(folder, ALGORITHMS + VARIANTS):
        run = read_run(folder / name)
        metrics = ("train_return", "eval_return", f"task/{shown.task[0]}")
        cells = [mean_and_seeds(final(run, metric)) for metric in metrics]
        rows.append((name, *cells, f"{length(run):,}", f"{len(run.seeds)}"))
    if (folder / ORIGINAL).exists():
        original, last = original_curve(folder / ORIGINAL), length(read_run(folder / ALGORITHMS[0]))
        same = original.values[:, (original.episodes > 0.8 * last) & (original.episodes <= last)]
        rows.append(("original MAAC (PyTorch)", f"{same.mean():.3g}", "", "", f"{last:,}", "1"))
    for policy, result in references.items():
        task = result["metrics"][shown.task[0]]
        rows.append((policy, f"{result['return']:.3g} ± {result['return_std_error']:.2g}", "", f"{task:.2g}", "", ""))
    return markdown(rows)


def precision_table() -> str:
    """A table of MAAC's returns on Rover-Tower by precision of products, over the second half of the common episodes."""
    folders = {"jax's own": "maac", "bfloat16": "maac_bfloat16"}
    found = {name: mean_curve(read_run(RESULTS / "rover_tower" / folder), "train_return") for name, folder in folders.items()}
    last = round(min(each.episodes[-1] for each in found.values()))
    rows: list[Sequence[str]] = [("precision of products", f"training return, episodes {last // 2:,} to {last:,}")]
    for name, (episodes, values) in found.items():
        rows.append((name, mean_and_seeds(values[:, (episodes > last / 2) & (episodes <= last)].mean(1))))
    return markdown(rows)


def smoothed(found: Curve) -> np.ndarray:
    """Means of a curve (R, T) over the `WINDOW` episodes up to each of `ENDS`, (R, len(ENDS)); nan where it has no value."""
    within = (found.episodes > ENDS[:, None] - WINDOW) & (found.episodes <= ENDS[:, None])  # (ends, T)
    count = within.sum(1)
    return np.where(count > 0, found.values @ within.T / np.maximum(count, 1), np.nan)


def beside_original_table() -> str:
    """A table of MAAC's returns with two settings and of the original code's, with the lowest and the highest seed."""
    rows = [(f"MAAC, mean over {WINDOW} episodes", *(f"to {end:,}" for end in ENDS))]
    rows.append(
        ("the original", *(f"{value:.1f}" for value in smoothed(original_batches(RESULTS / "rover_tower" / ORIGINAL))[0]))
    )
    folders = {"Table 1's settings": "rover_tower/maac", "width 64, batch 256": "tuned/rover_tower/maac_long"}
    for name, folder in folders.items():
        found = mean_curve(read_run(RESULTS / folder), "train_return")
        cells = [
            f"{each.mean():.1f} ({each.min():.1f} to {each.max():.1f})" if np.isfinite(each).all() else ""
            for each in smoothed(found).T
        ]
        rows.append((f"{name}, {len(found.values)} seeds", *cells))
    return markdown(rows)


def reference_table(references: dict[str, dict[str, Any]]) -> str:
    """A table of the returns of the reference policies in every environment."""
    rows: list[Sequence[str]] = [("", *POLICIES)]
    for env, policies in references.items():
        found = [policies.get(name) for name in POLICIES]
        cells = [f"{each['return']:.2f} ± {each['return_std_error']:.2f}" if each else "" for each in found]
        rows.append((env, *cells))
    return markdown(rows)


def speed_table(benchmark: dict[str, Any], gpu: dict[str, Any] | None) -> str:
    """A table of the medians of updates.py on a CPU, and of seconds per update on a GPU if they were measured."""
    titles = ("seconds per update", "on a GPU", "in MAAC updates", "GFLOP", "GFLOP/s", "training, env steps/s", "compile, s")
    rows: list[Sequence[str]] = [("", *titles)]
    updates = benchmark["update_seconds"]
    for name, row in updates.items():
        training = benchmark["training"].get(name)
        unit = f"maac{DEFAULTS}" if name.endswith(DEFAULTS) else "maac"
        cells = [
            f"{row['median']:.3f} (min {row['min']:.3f})",
            f"{gpu['update_seconds'][name]['median']:.4f}" if gpu and name in gpu["update_seconds"] else "not yet measured",
            f"{row['median'] / updates[unit]['median']:.2g}",
            f"{row['gflop']:.2g}",
            f"{row['gflops_per_second']:.0f}",
            f"{training['env_steps_per_second']['median']:,.0f}" if training else "",
            f"{training['compile_seconds']:.0f}" if training else "",
        ]
        rows.append((name, *cells))
    return markdown(rows)


def side_by_side_table(benchmark: dict[str, Any]) -> str:
    """A table of milliseconds per update of one run, by the number of runs side by side, medians."""
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


def shared_run_table(benchmark: dict[str, Any]) -> str:
    """A table of milliseconds per iteration of one run by the number of devices that share it: median and extremes."""
    results = benchmark["shared_run"]
    counts = list(next(iter(results.values())))
    rows: list[Sequence[str]] = [("devices", *counts, "ratio of medians")]
    for algo, found in results.items():
        one, *_, shared = (row["median"] for row in found.values())
        cells = [
            "{:.0f} ({:.0f} to {:.0f})".format(*(1000 * row[name] for name in ("median", "min", "max")))
            for row in found.values()
        ]
        rows.append((algo, *cells, f"{shared / one:.2f}"))
    return markdown(rows)


def start_table(benchmark: dict[str, Any]) -> str:
    """A table of seconds from the command to the first evaluation after an update, and of peak memory."""
    rows: list[Sequence[str]] = [("", "seconds to the first evaluation", "memory at most, GB")]
    for name, row in benchmark["first_evaluation"].items():
        rows.append((name, f"{row['seconds']:.0f}", f"{row['peak_memory_gb']:.2g}"))
    return markdown(rows)


def environment_speed_table(benchmark: dict[str, Any]) -> str:
    """A table of thousands of environment steps per second with random actions, medians."""
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


def ippo_table(benchmark: dict[str, Any]) -> str:
    """A table that compares MA-PPO with JaxMARL's IPPO."""
    trained = benchmark["rows"]
    goals = list(next(iter(trained.values()))["seconds_to"])
    titles = [f"seconds to {goal}" for goal in goals]
    rows: list[Sequence[str]] = [("", "env steps/s", "final return", *titles, "compile, s")]
    for name, row in trained.items():
        seconds = ["never" if row["seconds_to"][goal] is None else f"{row['seconds_to'][goal]:.0f}" for goal in goals]
        cells = [f"{row['env_steps_per_second']:,.0f}", f"{row['final_return']:.1f}", *seconds, f"{row['compile_seconds']:.0f}"]
        rows.append((name, *cells))
    return markdown(rows)


def _returns(titles: Mapping[str, str], show: Callable[[np.ndarray], str]) -> str:
    return returns_table(titles, read_returns(), show)


def _shown() -> dict[str, str]:
    return {name: ENVIRONMENTS[name].title for name in shown_environments()}


def _updates(show: Callable[[dict[str, Any]], str]) -> str:
    return show(read_result("benchmark_updates"))


def _gpu() -> dict[str, Any] | None:
    return read_result(GPU) if (RESULTS / f"{GPU}.json").exists() else None


TABLES: dict[str, Callable[..., str]] = {
    "returns": lambda: _returns(_shown(), mean_and_deviation),
    "runs": lambda env: environment_table(RESULTS / env, ENVIRONMENTS[env], read_returns()[env]),
    "beside_original": beside_original_table,
    "dilemma": lambda: _returns({env: TITLES[env] for env in DILEMMA}, mean_and_seeds),
    "precision": precision_table,
    "reference_policies": lambda: reference_table(read_returns()),
    "update_speed": lambda: _updates(lambda found: speed_table(found, _gpu())),
    "side_by_side": lambda: _updates(side_by_side_table),
    "shared_run": lambda: _updates(shared_run_table),
    "first_evaluation": lambda: _updates(start_table),
    "environment_speed": lambda: environment_speed_table(read_result("benchmark_environments")),
    "jaxmarl_ippo": lambda: ippo_table(read_result("benchmark_jaxmarl_ippo")),
    **time_to_return.TABLES,
    **trials.TABLES,
    **multiwalker.TABLES,
    **theory.TABLES,
    **dependence.TABLES,
    **claims.TABLES,
}
"""Functions that make the tables, by name. Some take words, such as an environment; pages write `{{ name words }}`."""
