"""Tables of the trials behind the defaults, and of related runs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tuning
from analysis.markdown import markdown
from analysis.results import RESULTS, final, read_result, read_run


def table(algorithms: Sequence[str]) -> str:
    """A table of trial scores by task, for algorithms with matching axes. Scores higher than all earlier ones are bold."""
    names = [" or ".join(dict.fromkeys(each)) for each in zip(*(tuning.AXES[algo] for algo in algorithms), strict=True)]
    found = {pair: tuning.read_trials(pair) for pair in tuning.pairs() if pair.rpartition("/")[2] in algorithms}
    names += ["further"] * (max(map(len, found.values())) - len(names) - 1)
    rows: list[Sequence[str]] = [("", "start", *names)]
    for pair, trials in found.items():
        if trials:
            rows.append((pair, *scores(trials), *[""] * (len(names) + 1 - len(trials))))
    return markdown(rows)


def scores(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Formats scores: bold if higher than all before, and marked if the options were rejected afterwards."""
    values = [trial["score"] for trial in trials]
    best = [max(values[:index], default=float("-inf")) for index in range(len(values))]
    shown = [f"**{value:.1f}**" if value > before else f"{value:.1f}" for value, before in zip(values, best, strict=True)]
    return [f"{each} (rejected)" if "rejected" in trial else each for each, trial in zip(shown, trials, strict=True)]


def seconds_table() -> str:
    """A table of the CPU seconds of a trial by task."""
    rows: list[Sequence[str]] = [("task", "algorithms", "CPU seconds")]
    for task in tuning.TASKS:
        found: dict[int, list[str]] = {}
        for pair in (pair for pair in tuning.pairs() if pair.startswith(f"{task}/") and tuning.read_trials(pair)):
            found.setdefault(read_result(f"trials/{pair}")["cpu_seconds"], []).append(pair.rpartition("/")[2])
        rows += [(task, ", ".join(algorithms), str(seconds)) for seconds, algorithms in found.items()]
    return markdown(rows)


def ends_table(title: str, folders: Mapping[str, Path]) -> str:
    """A table of greedy returns over the last fifth of training and of minutes of training, with one row per folder."""
    rows: list[Sequence[str]] = [(title, "greedy return, last fifth of training", "minutes")]
    for name, folder in folders.items():
        run = read_run(folder)
        earned, minutes = final(run, "eval_return"), run.metrics["wall_seconds"].max() / 60
        rows.append((name, f"{earned.mean():.1f} ± {earned.std(ddof=1):.1f} ({earned.size} seeds)", f"{minutes:.1f}"))
    return markdown(rows)


def rows_table() -> str:
    """A table of MAMT's returns if trust regions learn from fewer rows of a batch."""
    return ends_table("rows", {str(rows): RESULTS / "rows" / "rover_tower" / f"mamt_rows_{rows}" for rows in (32, 128)})


def differences_table() -> str:
    """A table of MAAC's returns with details of its authors' code."""
    names = {
        "here": "maac",
        "one-hot actions normalised": "maac_normalised_actions",
        "encoders' gradients by 1 / n": "maac_scaled_encoders",
    }
    return ends_table("critics", {title: RESULTS / "differences" / "rover_tower" / name for title, name in names.items()})


def three_agents_table() -> str:
    """A table of MAAC's returns on Spread with 3 agents, each with one setting of other tasks."""
    names = {
        "default": "maac",
        "a quarter of the environments and steps": "maac_num_envs_120",
        "gamma 0.95": "maac_gamma_0.95",
        "reward scale 100": "maac_reward_scale_100",
        "one-hot actions normalised": "maac_normalised_actions",
    }
    return ends_table("options", {title: RESULTS / "differences" / "spread_n3" / name for title, name in names.items()})


def critic_table() -> str:
    """A table of the error of MAAC's critics on the values of the random policy on Spread."""
    rows: list[Sequence[str]] = [("variance of", "values", "advantages", "targets over next actions", "what is missed")]
    for name, found in read_result("critic_error")["variances"].items():
        rows.append((name, *(f"{found[part]:.3g}" for part in ("value", "advantage", "next_actions", "error"))))
    return markdown(rows)


TABLES: dict[str, Callable[..., str]] = {
    "trials": lambda *algorithms: table(algorithms),
    "trial_seconds": seconds_table,
    "rows": rows_table,
    "critic_error": critic_table,
    "differences": differences_table,
    "three_agents": three_agents_table,
}
"""Functions that make the tables, by name."""
