"""The paper's claims one by one: how likely a run of one side beats one of the other, with an interval and a verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.analysis.claimed import (
    ABLATIONS,
    CLAIMS,
    COORDINATION_CHANGE,
    DEVIATION,
    EPSILON_CHANGE,
    NAMES,
    PAPER,
    Claim,
    Stage,
)
from experiments.analysis.results import RESULTS, curves, final, read_rows
from mamt_jax.analysis.markdown import markdown
from mamt_jax.analysis.runs import TITLES, Run, curve, last_fifth, read_folder
from mamt_jax.analysis.statistics import Interval, bootstrap, interquartile_mean, probability_of_improvement
from mamt_jax.training.run_folder import CONFIG

TUNED, TUNING = RESULTS / "tuned", RESULTS / "tuning"


def of_runs(folder: Path, metric: str, stage: Stage = "last") -> np.ndarray:
    """One number a run, (R,), over a fifth of training; changes over all of it."""
    if metric not in (DEVIATION, EPSILON_CHANGE, COORDINATION_CHANGE):
        return final(folder, metric) if stage == "last" else first_fifth(folder, metric)
    (run,) = read_folder(folder)
    if metric == COORDINATION_CHANGE:
        return change(coordination(run))
    epsilon = curve(run, "epsilon")
    if metric == EPSILON_CHANGE:
        return change(epsilon.values)
    last = last_fifth(epsilon)  # (R, n)
    return last.std(1) / last.mean(1)


def first_fifth(folder: Path, metric: str) -> np.ndarray:
    """Mean of `metric` over the first fifth of training, for each run."""
    _, values = curves(read_rows(folder), metric)
    return np.array_split(values, 5, axis=1)[0].mean(1)


def coordination(run: Run) -> np.ndarray:
    """C of every two agents at every evaluation, (R, T, n (n - 1))."""
    return curve(run, "coordination_mean").values[:, :, ~np.eye(len(run.agents), dtype=bool)]


def sizes_at_the_end(run: Run) -> np.ndarray:
    """Trust regions after the last update, mean over agents, (R,)."""
    return run.metrics["epsilon"][:, -1].mean(-1)


def change(values: np.ndarray) -> np.ndarray:
    """Deviation over time of each of K values (R, T, K), mean over them, relative to their mean, (R,); 0 where all are 0."""
    mean = values.mean((1, 2))
    return values.std(1).mean(1) / np.where(mean == 0, 1.0, mean)


def episodes_of(folder: Path) -> int:
    """How long its runs are."""
    return int(curves(read_rows(folder), "train_return")[0][-1])


def verdict(low: float, high: float, differs: bool) -> str:
    """What an interval of the probability that one beats the other says."""
    if low <= 0.5 <= high:
        return "cannot tell" if differs else "not told apart"
    if not differs:
        return "does not hold"
    return "holds" if low > 0.5 else "the contrary holds"


class Comparison(NamedTuple):
    """What was measured of a claim.

    Attributes:
        sides: a number of every run, of those that should have more and of those that should have less.
        chance: that a run of the first beats one of the second.
        episodes: of each side.
    """

    sides: tuple[np.ndarray, np.ndarray]
    chance: Interval
    episodes: tuple[int, int]


def compare(claim: Claim) -> Comparison:
    """Measures both sides of a claim."""
    folders = [RESULTS / claim.more, RESULTS / claim.less]
    more, less = (of_runs(folder, claim.metric, stage) for folder, stage in zip(folders, claim.stages, strict=True))
    first, second = map(episodes_of, folders)
    return Comparison((more, less), bootstrap(probability_of_improvement, [more, less]), (first, second))


def claims_table(claims: Sequence[Claim] = CLAIMS) -> str:
    """Every claim with what was measured."""
    rows: list[Sequence[str]] = [("claim", "measured", "first", "second", "P(first > second)", "seeds", "episodes", "verdict")]
    for claim in claims:
        found = compare(claim)
        cells = (
            claim.text,
            NAMES[claim.metric],
            *(f"{values.mean():.3g} ± {values.std(ddof=1):.2g}" for values in found.sides),
            f"{found.chance.value:.2f} ({found.chance.low:.2f} to {found.chance.high:.2f})",
            ", ".join(f"{len(values)}" for values in found.sides),
            ", ".join(dict.fromkeys(f"{episodes:,}" for episodes in found.episodes)),
            verdict(float(found.chance.low), float(found.chance.high), claim.differs),
        )
        rows.append(cells)
    return markdown(rows)


def tuned_table(env: str) -> str:
    """Returns of every algorithm at its tuned setting in an environment."""
    scores = ("training return, IQM (95 %)", "greedy return, IQM (95 %)", "lowest, highest seed")
    rows: list[Sequence[str]] = [(TITLES[env], *scores, "seeds", "episodes", "hours")]
    for folder in sorted(path.parent for path in (TUNED / env).glob(f"*/{CONFIG}")):
        train, greedy = final(folder, "train_return"), final(folder, "eval_return")
        cells = (
            folder.name,
            *map(interquartile, (train, greedy)),
            f"{train.min():.3g}, {train.max():.3g}",
            f"{len(train)}",
            f"{episodes_of(folder):,}",
            f"{max(row['wall_seconds'] for row in read_rows(folder)) / 3600:.2f}",
        )
        rows.append(cells)
    return markdown(rows)


def interquartile(values: np.ndarray) -> str:
    """The interquartile mean of runs with its interval."""
    found = bootstrap(interquartile_mean, [values])
    return f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"


def tuning_table(env: str) -> str:
    """Greedy returns at the end of every trial, mean over its seeds."""
    rows: list[Sequence[str]] = [("algorithm", "trial", "greedy return of each seed", "mean")]
    for folder in sorted(path.parent for path in (TUNING / env).glob(f"*/{CONFIG}")):
        for run in read_folder(folder):
            last = run.metrics["eval_return"][:, -1]
            setting = run.label.removeprefix(run.algo).strip() or folder.name.removeprefix(f"{run.algo}_")
            rows.append((run.algo, setting, ", ".join(f"{value:.1f}" for value in last), f"{last.mean():.1f}"))
    return markdown(rows)


def signals_table(folder: Path) -> str:
    """What moves MAMT's trust regions, over fifths of training, mean over seeds."""
    (run,) = read_folder(folder)
    signals = {
        "trust region, mean over agents": run.metrics["epsilon"].mean(-1),
        "D_ns": run.metrics["non_stationarity"],
        "its estimate, summed over agents": run.metrics["estimated_divergence"].sum(-1),
        "KL from the old policies, summed over agents": run.metrics["kl_old"].sum(-1),
        "largest C of a pair": run.metrics["coordination_mean"].max((-2, -1)),
        "size of the value's gradient to a trust region": np.abs(run.metrics["value_gradient"]).mean(-1),
    }
    parts = np.array_split(np.arange(len(run.episodes)), 5)
    titles = (f"MAMT on {run.task.title}, episodes", *(f"to {run.episodes[part[-1]]:,.0f}" for part in parts))
    rows = [(name, *(f"{np.nanmean(values[:, part]):.3g}" for part in parts)) for name, values in signals.items()]
    return markdown([titles, *rows])


def forces_table() -> str:
    """What pulls at the logarithm of trust regions, means over training, agents and seeds, where both forces are recorded."""
    rows: list[Sequence[str]] = [("MAMT", "cost's gradient", "value's gradient", "trust regions at the end")]
    for folder in sorted(path.parent for path in TUNED.glob(f"*/mamt*/{CONFIG}")):
        (run,) = read_folder(folder)
        if "cost_gradient" in run.metrics:
            cost, value = (f"{np.nanmean(run.metrics[name]):.2g}" for name in ("cost_gradient", "value_gradient"))
            ends = sizes_at_the_end(run)
            rows.append((f"{run.task.title}, {folder.name}", cost, value, f"{ends.min():.3g} to {ends.max():.3g}"))
    return markdown(rows)


def tables() -> list[str]:
    """All of them."""
    environments = [path.name for path in sorted(TUNED.iterdir())]
    return [
        claims_table(),
        claims_table(PAPER),
        claims_table(ABLATIONS),
        forces_table(),
        *(signals_table(TUNED / env / "mamt") for env in environments),
        *map(tuned_table, environments),
        *(tuning_table(path.name) for path in sorted(TUNING.iterdir())),
    ]
