"""The table of trials behind the defaults."""

from collections.abc import Mapping, Sequence
from typing import Any

import tuning
from analysis.markdown import markdown


def table(algorithms: Sequence[str]) -> str:
    """Scores of every trial of these algorithms, which have like axes, by task; those that stayed are bold."""
    names = [" or ".join(dict.fromkeys(each)) for each in zip(*(tuning.AXES[algo] for algo in algorithms), strict=True)]
    rows: list[Sequence[str]] = [("", "start", *names)]
    for pair in tuning.pairs():
        trials = tuning.read_trials(pair) if pair.rpartition("/")[2] in algorithms else []
        if trials:
            rows.append((pair, *scores(trials), *[""] * (len(names) + 1 - len(trials))))
    return markdown(rows)


def scores(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each score, bold where it is higher than all before it, and whether its options were rejected afterwards."""
    values = [trial["score"] for trial in trials]
    best = [max(values[:index], default=float("-inf")) for index in range(len(values))]
    shown = [f"**{value:.1f}**" if value > before else f"{value:.1f}" for value, before in zip(values, best, strict=True)]
    return [f"{each} (rejected)" if "rejected" in trial else each for each, trial in zip(shown, trials, strict=True)]


def tables() -> list[str]:
    """Of those that learn from replay, and of those that learn from rollouts."""
    return [table(("maac", "mamd", "mamt", "maddpg")), table(("mappo", "lola"))]
