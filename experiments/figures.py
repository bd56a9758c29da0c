"""The README's figures and tables, from the data under experiments/results alone.

python experiments/figures.py
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RESULTS = Path(__file__).parent / "results"
ALGORITHMS = ("maac", "mamd", "mamt", "mappo", "mappo_shared", "maddpg", "maddpg_shared", "lola", "lola_naive")
VARIANTS = ("maac_expected", "mamd_epsilon_1")  # in the table alone
POLICIES = ("random", "do_nothing", "scripted")
ORIGINAL = "maac_original.csv"
BIN = 240


class Shown(NamedTuple):
    """What the figure and the table of an environment show.

    Attributes:
        title: of its figure.
        task: the task metric in its table, and its name there.
        right: what the right panel shows, and its name there.
        references: policies whose returns are drawn.
    """

    title: str
    task: tuple[str, str]
    right: tuple[str, str]
    references: tuple[str, ...]


ENVIRONMENTS = {
    "rover_tower": Shown(
        "Rover-Tower",
        ("rovers_on_goal", "rovers on goal"),
        ("kl_old", "KL to the old policy, nats, mean over agents"),
        ("random", "scripted"),
    ),
    "spread": Shown(
        "Spread, 2 agents",
        ("landmarks_covered", "landmarks covered"),
        ("train_task/landmarks_covered", "share of landmarks covered, mean over steps"),
        ("random", "do_nothing"),
    ),
    "spread_n3": Shown(
        "Spread, 3 agents",
        ("landmarks_covered", "landmarks covered"),
        ("train_task/landmarks_covered", "share of landmarks covered, mean over steps"),
        ("random", "do_nothing"),
    ),
    "matrix_game": Shown(
        "Iterated prisoner's dilemma",
        ("first_action", "cooperation"),
        ("train_task/first_action", "share of players that cooperate"),
        ("random", "scripted"),
    ),
    "pursuit": Shown(
        "Pursuit",
        ("evaders_left", "evaders left"),
        ("train_task/evaders_left", "share of evaders left, mean over steps"),
        ("random", "do_nothing"),
    ),
    "multiwalker_original": Shown(
        "Multi-Walker, the original",
        ("displacement", "displacement, m"),
        ("train_task/displacement", "displacement of the package, m"),
        ("random", "do_nothing"),
    ),
    "multiwalker": Shown(
        "Multi-Walker",
        ("displacement", "displacement, m"),
        ("train_task/displacement", "displacement of the package, m"),
        ("random", "do_nothing"),
    ),
}


def trained(folder: Path, names: Sequence[str] = ALGORITHMS) -> list[str]:
    """Those of `names` whose runs are there."""
    return [name for name in names if (folder / name / "metrics.jsonl").exists()]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curves(rows: list[dict[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Episodes (T,), mean of the runs, and `metric` of every run (R, T) where all have it; metrics of agents are averaged."""
    runs = {row["run"] for row in rows}
    points: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["updates"] and row[metric] is not None:
            points.setdefault(row["updates"], []).append(row)
    kept = [sorted(point, key=lambda row: row["run"]) for point in points.values() if len(point) == len(runs)]
    values = np.array([[np.mean(np.array(row[metric], float)) for row in point] for point in kept])
    return np.array([round(np.mean([row["episodes"] for row in point])) for point in kept]), values.T


def original_curve(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The original MAAC's training returns, mean over `BIN` episodes."""
    with path.open() as lines:
        rows = [row for row in csv.DictReader(line for line in lines if not line.startswith("#"))]
    returns = np.array([float(row["mean_episode_return"]) for row in rows])
    width = BIN // int(rows[0]["episodes"])
    binned = returns[: len(returns) // width * width].reshape(-1, width).mean(1)
    return BIN * (np.arange(len(binned)) + 1), binned


def draw(folder: Path, shown: Shown, references: dict[str, Any], out: Path) -> None:
    """Training returns beside the reference policies' and the original's, and one more metric."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    returns, right = figure.subplots(1, 2)
    lengths = []
    for name in trained(folder):
        rows, color = read_rows(folder / name), f"C{ALGORITHMS.index(name)}"
        for axes, metric in ((returns, "train_return"), (right, shown.right[0])):
            episodes, values = curves(rows, metric)
            axes.plot(episodes, values.T, color=color, linewidth=0.7, alpha=0.5)
            axes.plot(episodes, values.mean(0), color=color, linewidth=2, label=f"{name}, mean of {len(values)} seeds")
            lengths.append(episodes[-1])
    if (folder / ORIGINAL).exists():
        episodes, values = original_curve(folder / ORIGINAL)
        same = episodes <= max(lengths)
        returns.plot(episodes[same], values[same], color="k", linewidth=1.5, label="original MAAC (PyTorch), 1 seed")
    for line, policy in zip((":", "--"), shown.references, strict=True):
        value = references[policy]["return"]
        returns.axhline(value, color="0.5", linestyle=line, linewidth=1, label=f"{policy} ({value:.0f})")
    returns.set(xlabel="episodes", ylabel="training return per agent and episode", title=shown.title)
    right.set(xlabel="episodes", ylabel=shown.right[1], yscale="log" if shown.right[0] == "kl_old" else "linear")
    for axes in (returns, right):
        axes.set_xscale("log" if max(lengths) > 4 * min(lengths) else "linear")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
        axes.legend(edgecolor="none", framealpha=0.7, fontsize=8)
    figure.savefig(out, dpi=130)


def final(folder: Path, metric: str) -> np.ndarray:
    """Mean of `metric` over the last fifth of training, for each run."""
    episodes, values = curves(read_rows(folder), metric)
    return values[:, episodes > 0.8 * episodes[-1]].mean(1)


def summary_table(references: dict[str, dict[str, Any]]) -> str:
    """Training returns of every algorithm in every environment, with their standard deviation over seeds."""
    names = shown_environments()
    lines = [f"| | {' | '.join(ENVIRONMENTS[name].title for name in names)} |", "| --- " * (len(names) + 1) + "|"]
    for algorithm in ALGORITHMS:
        cells = []
        for name in names:
            there = trained(RESULTS / name, [algorithm])
            returns = final(RESULTS / name / algorithm, "train_return") if there else np.array([])
            cells.append(f"{returns.mean():.3g} ± {returns.std(ddof=1):.2g} ({returns.size})" if there else "")
        lines.append(f"| {algorithm} | {' | '.join(cells)} |")
    for policy in POLICIES:
        cells = [f"{references[name][policy]['return']:.3g}" if policy in references[name] else "" for name in names]
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(folder: Path, shown: Shown, references: dict[str, Any]) -> str:
    """Mean return over the last fifth of training, and each seed's; reference policies with their standard error."""
    lines = [
        f"| | training return | greedy return | {shown.task[1]} (greedy) | episodes | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in trained(folder, ALGORITHMS + VARIANTS):
        cells = []
        for metric in ("train_return", "eval_return", f"task/{shown.task[0]}"):
            values = final(folder / name, metric)
            cells.append(f"{values.mean():.3g} ({', '.join(f'{value:.3g}' for value in values)})")
        episodes, values = curves(read_rows(folder / name), "train_return")
        lines.append(f"| {name} | {' | '.join(cells)} | {episodes[-1]:,} | {len(values)} |")
    if (folder / ORIGINAL).exists():
        episodes, values = original_curve(folder / ORIGINAL)
        last = curves(read_rows(folder / ALGORITHMS[0]), "train_return")[0][-1]
        same = values[(episodes > 0.8 * last) & (episodes <= last)]
        lines.append(f"| original MAAC (PyTorch) | {same.mean():.3g} | | | {last:,} | 1 |")
    for policy, result in references.items():
        task = result["metrics"][shown.task[0]]
        lines.append(f"| {policy} | {result['return']:.3g} ± {result['return_std_error']:.2g} | | {task:.2g} | | |")
    return "\n".join(lines)


def precision_table() -> str:
    """Returns of MAAC on Rover-Tower by the precision of products, over the second half of the episodes that all have."""
    folders = {"jax's own": "maac", "bfloat16": "maac_bfloat16"}
    found = {name: curves(read_rows(RESULTS / "rover_tower" / folder), "train_return") for name, folder in folders.items()}
    last = min(episodes[-1] for episodes, _ in found.values())
    lines = [f"| precision of products | training return, episodes {last // 2:,} to {last:,} |", "| --- | --- |"]
    for name, (episodes, values) in found.items():
        means = values[:, (episodes > last / 2) & (episodes <= last)].mean(1)
        lines.append(f"| {name} | {means.mean():.3g} ({', '.join(f'{mean:.3g}' for mean in means)}) |")
    return "\n".join(lines)


def reference_table(references: dict[str, dict[str, Any]]) -> str:
    """Returns of the reference policies in every environment."""
    lines = [f"| | {' | '.join(POLICIES)} |", "| --- | --- | --- | --- |"]
    for env, policies in references.items():
        found = [policies.get(name) for name in POLICIES]
        cells = [f"{each['return']:.2f} ± {each['return_std_error']:.2f}" if each else "" for each in found]
        lines.append(f"| {env} | {' | '.join(cells)} |")
    return "\n".join(lines)


def speed_table(benchmark: dict[str, Any]) -> str:
    """Medians of the core benchmark."""
    titles = ("seconds per update", "in MAAC updates", "GFLOP", "GFLOP/s", "training, env steps/s", "compile, s")
    lines = [f"| | {' | '.join(titles)} |", "| --- " * (len(titles) + 1) + "|"]
    rows = benchmark["update_seconds"]
    for name, row in rows.items():
        training = benchmark["training"].get(name)
        cells = [
            f"{row['median']:.3f} (min {row['min']:.3f})",
            f"{row['median'] / rows['maac']['median']:.2g}",
            f"{row['gflop']:.2g}",
            f"{row['gflops_per_second']:.0f}",
            f"{training['env_steps_per_second']['median']:,.0f}" if training else "",
            f"{training['compile_seconds']:.0f}" if training else "",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def side_by_side_table(benchmark: dict[str, Any]) -> str:
    """Milliseconds that an update of one run takes among others, medians."""
    results = benchmark["side_by_side"]
    counts = list(next(iter(results.values())))
    lines = [f"| runs side by side | {' | '.join(counts)} |", "| --- " * (len(counts) + 1) + "|"]
    for name, by_count in results.items():
        cells = [
            f"{1000 * by_count[count]['median'] / int(count):.0f} ({by_count[count]['gflops_per_second']:.0f} GFLOP/s)"
            for count in counts
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def start_table(benchmark: dict[str, Any]) -> str:
    """From the command to the first evaluation of what has learnt."""
    lines = ["| | seconds to the first evaluation | memory at most, GB |", "| --- | --- | --- |"]
    for name, row in benchmark["first_evaluation"].items():
        lines.append(f"| {name} | {row['seconds']:.0f} | {row['peak_memory_gb']:.2g} |")
    return "\n".join(lines)


def environment_speed_table(benchmark: dict[str, Any]) -> str:
    """Thousands of environment steps per second with random actions, medians."""
    rows = {name: benchmark[name] for name in ("spread", "rover_tower", "pursuit", "multiwalker") if name in benchmark}
    rates = {name: row["env_steps_per_second"] for name, row in rows.items()}
    rates = {"spread": rates["spread"], "JaxMARL's Spread": rows["spread"]["jaxmarl"]} | rates
    batches = list(rates["spread"])
    lines = [f"| batch | {' | '.join(batches)} | original, 1 process | original, 12 |", "| --- " * (len(batches) + 3) + "|"]
    for name, by_batch in rates.items():
        medians = [by_batch[batch]["median"] / 1000 for batch in batches]
        cells = [f"{median:,.0f}" if median >= 100 else f"{median:.3g}" for median in medians]
        cells += [f"{rate / 1000:.2g}" for rate in rows.get(name, {}).get("original", {}).values()] or ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def processes_table(benchmark: dict[str, Any]) -> str:
    """Environment steps per second of 12 environments of PettingZoo in processes, medians."""
    results = benchmark["env_steps_per_second"]
    ways = list(next(iter(results.values())))
    lines = [f"| processes | {' | '.join(ways)} |", "| --- " * (len(ways) + 1) + "|"]
    for name, by_way in results.items():
        rates = [f"{by_way[way]['median']:.0f}" for way in ways]
        lines.append(f"| {name} | {' | '.join(rates)} |")
    return "\n".join(lines)


def ippo_table(benchmark: dict[str, Any]) -> str:
    """Training beside JaxMARL's IPPO."""
    rows = benchmark["rows"]
    goals = list(next(iter(rows.values()))["seconds_to"])
    titles = [f"seconds to {goal}" for goal in goals]
    lines = [f"| | env steps/s | final return | {' | '.join(titles)} | compile, s |", "| --- " * (len(goals) + 4) + "|"]
    for name, row in rows.items():
        seconds = ["never" if row["seconds_to"][goal] is None else f"{row['seconds_to'][goal]:.0f}" for goal in goals]
        cells = [f"{row['env_steps_per_second']:,.0f}", f"{row['final_return']:.1f}", *seconds, f"{row['compile_seconds']:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def read_result(name: str) -> dict[str, Any]:
    """A file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def tables() -> list[str]:
    """The README's tables."""
    references = read_result("reference_returns")["returns"]
    learners = [table(RESULTS / name, ENVIRONMENTS[name], references[name]) for name in shown_environments()]
    speeds = [
        *(draw(read_result("benchmark_core")) for draw in (speed_table, side_by_side_table, start_table)),
        environment_speed_table(read_result("benchmark_environments")),
        ippo_table(read_result("benchmark_ippo")),
        processes_table(read_result("benchmark_processes")),
    ]
    return [summary_table(references), *learners, precision_table(), reference_table(references), *speeds]


def shown_environments() -> list[str]:
    """Those with runs, and with reference policies to compare them with."""
    references = read_result("reference_returns")["returns"]
    return [name for name in ENVIRONMENTS if name in references and trained(RESULTS / name)]


def main() -> None:
    """Draw everything and print the tables."""
    references = read_result("reference_returns")["returns"]
    for name in shown_environments():
        draw(RESULTS / name, ENVIRONMENTS[name], references[name], RESULTS / f"{name}.png")
    print("\n\n".join(tables()))


if __name__ == "__main__":
    main()
