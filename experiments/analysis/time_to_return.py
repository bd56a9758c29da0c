"""Time to a return: the table and the figure of `experiments/benchmark/time_to_return.py`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.markdown import markdown
from analysis.results import ENVIRONMENTS, ORIGINAL, RESULTS, original_curve, read_result, read_returns
from mamt_jax.analysis import style
from mamt_jax.analysis.statistics import Interval, over_seeds
from mamt_jax.training.references import Reference

RESULT, NUM_SEEDS = "benchmark_time_to_return", 3
FRACTIONS = (0.25, 0.5, 0.75, 0.9)
"""Fractions of the way from the random policy's return to the scripted policy's."""
ORIGINAL_STEPS_PER_SECOND = 354_300 / (66 * 60)
"""Environment steps per second of the original MAAC on a similar machine, training included."""
TITLES = {task: shown.title for task, shown in ENVIRONMENTS.items()} | {"spread3_mix": "Spread-3-Mix"}
Seeds = Mapping[str, Mapping[str, Sequence[float]]]


def read_benchmark() -> dict[str, Any]:
    """The pairs of the benchmark that are measured with all `NUM_SEEDS` seeds."""
    benchmark = read_result(RESULT)
    complete = {pair: seeds for pair, seeds in benchmark["curves"].items() if len(seeds) == NUM_SEEDS}
    return benchmark | {"curves": complete}


def goals(task: str) -> list[float]:
    """The returns of a task at each of `FRACTIONS`."""
    random, scripted = (read_returns()[task][name]["return"] for name in ("random", "scripted"))
    return [random + fraction * (scripted - random) for fraction in FRACTIONS]


def reached(seeds: Seeds, what: str, goal: float) -> list[float]:
    """The "seconds" or "env_steps" of each seed's first evaluation with a return of at least `goal`; inf if there is none."""
    found = []
    for curve in seeds.values():
        hits = np.flatnonzero(np.asarray(curve["return"]) >= goal)
        found.append(float(curve[what][hits[0]]) if len(hits) else np.inf)
    return found


def in_words(values: Sequence[float], unit: float = 1.0) -> str:
    """Formats mean and deviation over seeds, or the number of seeds that reached the goal if not all did."""
    finite = [value / unit for value in values if np.isfinite(value)]
    if len(finite) < len(values):
        return "never" if not finite else f"{len(finite)} of {len(values)} seeds"
    return f"{np.mean(finite):.3g} ± {np.std(finite, ddof=1):.2g}"


def table(benchmark: Mapping[str, Any], what: str, unit: float, name: str) -> str:
    """A table of the "seconds" or "env_steps" to each goal, in `unit`, and of the highest return, mean over seeds."""
    titles = [f"{100 * fraction:.0f} %" for fraction in FRACTIONS]
    rows: list[Sequence[str]] = [(f"{name} to", "", *titles, "highest return", "cores")]
    tasks = [*dict.fromkeys(pair.split("/")[0] for pair in benchmark["curves"])]
    for pair, seeds in sorted(benchmark["curves"].items(), key=lambda each: tasks.index(each[0].split("/")[0])):
        task, algo = pair.split("/")
        cells = [in_words(reached(seeds, what, goal), unit) for goal in goals(task)]
        highest = np.mean([max(curve["return"]) for curve in seeds.values()])
        rows.append((TITLES[task], algo, *cells, f"{highest:.3g}", str(benchmark["machines"][pair]["cpu_cores"])))
    return markdown(rows)


def final_table(benchmark: Mapping[str, Any]) -> str:
    """A table of greedy returns over the last fifth of default training, by algorithm and task, and of minutes of training."""
    tasks, algorithms = ([*dict.fromkeys(pair.split("/")[part] for pair in benchmark["curves"])] for part in (0, 1))
    references = read_returns()
    bounds = {task: [f"{references[task][name]['return']:.3g}" for name in ("random", "scripted")] for task in tasks}
    rows: list[Sequence[str]] = [("", *(f"{TITLES[task]} ({' to '.join(bounds[task])})" for task in tasks))]
    for algo in algorithms:
        found = [benchmark["curves"].get(f"{task}/{algo}") for task in tasks]
        rows.append((f"`{algo}`", *("" if seeds is None else at_the_end(seeds) for seeds in found)))
    return markdown(rows)


def at_the_end(seeds: Seeds) -> str:
    """Formats mean and deviation over seeds of the return in the last fifth of training, and the minutes of training."""
    returns = [np.mean(curve["return"][-max(1, len(curve["return"]) // 5) :]) for curve in seeds.values()]
    minutes = np.mean([curve["seconds"][-1] for curve in seeds.values()]) / 60
    deviation = float(f"{np.std(returns, ddof=1):.1g}")  # one digit, without an exponent
    return f"{np.mean(returns):.3g} ± {deviation:g}, {minutes:.1f} min"


def mean_curve(seeds: Seeds) -> tuple[np.ndarray, Interval]:
    """Mean seconds, and returns with their interval over seeds, up to the length of the shortest seed."""
    count = min(len(curve["seconds"]) for curve in seeds.values())
    seconds, returns = (np.array([curve[name][:count] for curve in seeds.values()]) for name in ("seconds", "return"))
    return seconds.mean(0), over_seeds(returns)


def draw(benchmark: Mapping[str, Any]) -> Figure:
    """Draws greedy return over seconds since the command began, with one panel per task."""
    by_task: dict[str, dict[str, Seeds]] = {}
    for pair, seeds in benchmark["curves"].items():
        task, algo = pair.split("/")
        by_task.setdefault(task, {})[algo] = seeds
    figure, axes = style.panels(len(by_task), height=2.7)
    references = read_returns()
    for each, (task, algorithms) in zip(axes, by_task.items(), strict=True):
        looks = style.looks(list(algorithms))
        for algo, seeds in algorithms.items():
            style.draw_line(each, *mean_curve(seeds), looks[algo], algo)
        if (RESULTS / task / ORIGINAL).exists():
            original = original_curve(RESULTS / task / ORIGINAL)
            seconds = original.episodes * 25 / ORIGINAL_STEPS_PER_SECOND
            each.plot(seconds, original.values[0], color="0.4", linewidth=1, label="original MAAC (PyTorch)")
        if task == "spread_n3":
            ippo = read_result("benchmark_jaxmarl_ippo")["rows"]["JaxMARL's IPPO"]
            seconds = np.array(ippo["curve"]["seconds"]) + ippo["compile_seconds"]
            each.plot(seconds, ippo["curve"]["return"], color="0.4", linewidth=1, linestyle="-.", label="IPPO (JaxMARL)")
        found = {name: Reference(references[task][name]["return"]) for name in ("random", "scripted")}
        style.draw_references(each, found)
        each.set(xscale="log", xlabel="seconds since the command began")
        style.title(each, TITLES[task])
        style.short_numbers(each.xaxis)
        each.grid(alpha=0.25, linewidth=0.6)
    for each in axes:
        each.set_ylabel("greedy return")
    style.legend(figure, axes)
    return figure


TABLES: dict[str, Callable[[], str]] = {
    "seconds_to_return": lambda: table(read_benchmark(), "seconds", 1.0, "seconds"),
    "default_training": lambda: final_table(read_benchmark()),
    "steps_to_return": lambda: table(read_benchmark(), "env_steps", 1000.0, "thousands of steps"),
}
"""Functions that make the tables, by name."""
