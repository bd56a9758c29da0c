"""Tables of the paper's claims and of our ablations, with the probability of improvement and a verdict for each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from analysis.markdown import markdown
from analysis.results import RESULTS, final, length, mean_curve, read_run
from mamt_jax.analysis.returns import RETURN
from mamt_jax.analysis.runs import TITLES, Run, curve, last_fifth, read_folder
from mamt_jax.analysis.statistics import Interval, bootstrap, interquartile_mean, probability_of_improvement
from mamt_jax.training.run_folder import CONFIG

TUNED, TUNING = RESULTS / "tuned", RESULTS / "tuning"
DEVIATION = "deviation of trust regions between agents"
EPSILON_CHANGE = "change of trust regions during training"
COORDINATION_CHANGE = "change of C during training"
NAMES = {
    RETURN: "training return",
    "kl_old": "KL from the old policy",
    "non_stationarity": "D_ns",
    **{name: name for name in (DEVIATION, EPSILON_CHANGE, COORDINATION_CHANGE)},
}
Stage = Literal["first", "last"]


class Claim(NamedTuple):
    """A claim that one folder's runs have a higher metric than another's, or that the two are equal.

    Attributes:
        text: the claim in words.
        metric: a key of `NAMES`.
        more: folder of the first side, under experiments/results.
        less: folder of the second side, likewise under experiments/results.
        differs: whether the claim says that the two sides differ. Otherwise it says that they are equal.
        stages: the fifth of training that is compared, for each side.
    """

    text: str
    metric: str
    more: str
    less: str
    differs: bool = True
    stages: tuple[Stage, Stage] = ("last", "last")


_PAIRS = (("mamt", "maac"), ("mamt", "mamd"), ("mamd", "maac"))


def every_two(folder: str, where: str, differs: bool = True, suffix: str = "") -> tuple[Claim, ...]:
    """Pairwise claims about the returns of MAMT, MAMD and MAAC in `folder`, whose runs have names with this `suffix`."""
    claims = "{} beats {} {}" if differs else "{} and {} are equal {}"
    return tuple(
        Claim(
            claims.format(more.upper(), less.upper(), "there" if number else where),
            RETURN,
            f"{folder}/{more}{suffix}",
            f"{folder}/{less}{suffix}",
            differs,
        )
        for number, (more, less) in enumerate(_PAIRS)
    )


ROVERS, SPREAD, PURSUIT, WALKERS = (f"tuned/{env}" for env in ("rover_tower", "spread", "pursuit", "multiwalker"))

CLAIMS = (
    *every_two(ROVERS, "where agents are many (Rover-Tower)"),
    *every_two(PURSUIT, "where agents are many (Pursuit)"),
    *every_two(PURSUIT, "with individual rewards (Pursuit)", suffix="_local"),
    *every_two(SPREAD, "where agents are few (Spread)", differs=False),
    *every_two(WALKERS, "where agents are few (Multi-Walker)", differs=False),
    Claim("MA-PPO beats MAAC (Rover-Tower; the paper: no stable gain)", RETURN, f"{ROVERS}/mappo", f"{ROVERS}/maac"),
    Claim("MA-PPO beats MAAC (Spread)", RETURN, f"{SPREAD}/mappo", f"{SPREAD}/maac"),
    Claim("MA-PPO beats MAAC (Pursuit)", RETURN, f"{PURSUIT}/mappo", f"{PURSUIT}/maac"),
    Claim("MAMT beats MADDPG (Rover-Tower)", RETURN, f"{ROVERS}/mamt", f"{ROVERS}/maddpg"),
    Claim("MAMT beats MADDPG (Spread)", RETURN, f"{SPREAD}/mamt", f"{SPREAD}/maddpg"),
    Claim("MAMT beats MADDPG (Pursuit)", RETURN, f"{PURSUIT}/mamt", f"{PURSUIT}/maddpg"),
    Claim("MAAC's policies move more than MAMT's (Rover-Tower)", "kl_old", f"{ROVERS}/maac", f"{ROVERS}/mamt"),
    Claim("MAMD's policies move more than MAMT's there", "kl_old", f"{ROVERS}/mamd", f"{ROVERS}/mamt"),
    Claim("MAAC's policies move more than MAMT's (Pursuit)", "kl_old", f"{PURSUIT}/maac", f"{PURSUIT}/mamt"),
    Claim(
        "D_ns falls while MAMT learns (Rover-Tower; first and last fifth)",
        "non_stationarity",
        f"{ROVERS}/mamt",
        f"{ROVERS}/mamt",
        stages=("first", "last"),
    ),
    Claim(
        "D_ns falls while MAMT learns (Pursuit; first and last fifth)",
        "non_stationarity",
        f"{PURSUIT}/mamt",
        f"{PURSUIT}/mamt",
        stages=("first", "last"),
    ),
    Claim(
        "D_ns is higher with trust regions fixed at 30 than with MAMT's (Rover-Tower)",
        "non_stationarity",
        f"{ROVERS}/mamt_frozen",
        f"{ROVERS}/mamt",
    ),
    Claim(
        "Trust regions differ more where agents are many (Rover-Tower, Spread)", DEVIATION, f"{ROVERS}/mamt", f"{SPREAD}/mamt"
    ),
    Claim("Trust regions change more there", EPSILON_CHANGE, f"{ROVERS}/mamt", f"{SPREAD}/mamt"),
    Claim("C changes more there", COORDINATION_CHANGE, f"{ROVERS}/mamt", f"{SPREAD}/mamt"),
    Claim(
        "Trust regions change more where agents are many (Pursuit, Multi-Walker)",
        EPSILON_CHANGE,
        f"{PURSUIT}/mamt",
        f"{WALKERS}/mamt",
    ),
    Claim("C changes more there", COORDINATION_CHANGE, f"{PURSUIT}/mamt", f"{WALKERS}/mamt"),
    Claim("MAMD-OP beats MAMD where two of three depend (Spread-3-Mix)", RETURN, "spread3_mix/mamd_op", "spread3_mix/mamd"),
    Claim("MAMD-OP, there MAAC, beats MAMD where none does (Spread-3-Sep)", RETURN, "spread3_sep/maac", "spread3_sep/mamd"),
)

PAPER = (
    *every_two("rover_tower", "(Rover-Tower)"),
    *every_two("pursuit", "(Pursuit)"),
    *every_two("spread", "(Spread)", differs=False),
    *every_two("multiwalker", "(Multi-Walker)", differs=False),
)
"""Claims for the runs with the settings of Table 1 and three seeds."""

FIXED = {size: "mamd" if size == 30 else f"mamd_epsilon_{size}" for size in (1, 3, 10, 30, 100, 300)}
"""Folders of MAMD by the fixed size of its trust regions. The tuned size is 30."""

ABLATIONS: tuple[Claim, ...] = (
    *(
        Claim(f"Learnt trust regions (MAMT) beat fixed ones of {size} (MAMD)", RETURN, f"{ROVERS}/mamt", f"{ROVERS}/{folder}")
        for size, folder in FIXED.items()
    ),
    Claim("MAMT: learning trust regions beats leaving them at 30", RETURN, f"{ROVERS}/mamt", f"{ROVERS}/mamt_frozen"),
    Claim("The latter, MAMD with other random numbers, equals MAMD", RETURN, f"{ROVERS}/mamt_frozen", f"{ROVERS}/mamd", False),
    Claim("MAMT: steps of epsilon's logarithm beat steps of epsilon", RETURN, f"{ROVERS}/mamt", f"{ROVERS}/mamt_linear"),
    Claim(
        "MAMT: a threshold of 0.05, under 1 / (n - 1), beats 0.2",
        RETURN,
        f"{ROVERS}/mamt_threshold_0.05",
        f"{ROVERS}/mamt",
    ),
    Claim(
        "MAMT: the sum of the policies' own divergences as the cost beats the decomposition network",
        RETURN,
        f"{ROVERS}/mamt_divergence_policies",
        f"{ROVERS}/mamt",
    ),
    Claim("The same on Spread", RETURN, f"{SPREAD}/mamt_divergence_policies", f"{SPREAD}/mamt"),
    Claim(
        "MAMT: the value's gradient beats following the estimated divergence alone",
        RETURN,
        f"{ROVERS}/mamt",
        f"{ROVERS}/mamt_value_weight_0",
    ),
    Claim("The same on Spread", RETURN, f"{SPREAD}/mamt", f"{SPREAD}/mamt_value_weight_0"),
    Claim(
        "MAMT: C by its definition beats the shortcut by values",
        RETURN,
        f"{ROVERS}/mamt",
        f"{ROVERS}/mamt_coordination_values",
    ),
    Claim("MAAC: the expected policy gradient beats the sampled one", RETURN, f"{ROVERS}/maac_expected", f"{ROVERS}/maac"),
    Claim("The same on Spread", RETURN, f"{SPREAD}/maac_expected", f"{SPREAD}/maac"),
    Claim("MAMD: a Tsallis order of 0.2 beats 1", RETURN, f"{ROVERS}/mamd", f"{ROVERS}/mamd_tsallis_1"),
    Claim("The same on Spread", RETURN, f"{SPREAD}/mamd", f"{SPREAD}/mamd_tsallis_1"),
    Claim("LOLA: a lookahead of 0.003 beats none (Spread)", RETURN, f"{SPREAD}/lola", f"{SPREAD}/lola_naive"),
    Claim("MAAC: individual rewards beat the shared reward (Pursuit)", RETURN, f"{PURSUIT}/maac_local", f"{PURSUIT}/maac"),
    Claim("The same with MAMT", RETURN, f"{PURSUIT}/mamt_local", f"{PURSUIT}/mamt"),
)


def of_runs(folder: Path, metric: str, stage: Stage = "last") -> np.ndarray:
    """One number per run, (R,), over a fifth of training. Changes are over all of it."""
    run = read_run(folder)
    if metric not in (DEVIATION, EPSILON_CHANGE, COORDINATION_CHANGE):
        return final(run, metric) if stage == "last" else first_fifth(run, metric)
    if metric == COORDINATION_CHANGE:
        return change(coordination(run))
    epsilon = curve(run, "epsilon")
    if metric == EPSILON_CHANGE:
        return change(epsilon.values)
    last = last_fifth(epsilon)  # (R, n)
    return last.std(1) / last.mean(1)


def first_fifth(run: Run, metric: str) -> np.ndarray:
    """Mean of `metric` over the first fifth of training, for each seed."""
    return np.array_split(mean_curve(run, metric).values, 5, axis=1)[0].mean(1)


def coordination(run: Run) -> np.ndarray:
    """C of every ordered pair of agents at every evaluation, (R, T, n (n - 1))."""
    return curve(run, "coordination_mean").values[:, :, ~np.eye(len(run.agents), dtype=bool)]


def sizes_at_the_end(run: Run) -> np.ndarray:
    """Sizes of trust regions after the last update, mean over agents, (R,)."""
    return run.metrics["epsilon"][:, -1].mean(-1)


def change(values: np.ndarray) -> np.ndarray:
    """Relative change of K values (R, T, K) over time, (R,): their standard deviation over time divided by their mean.

    Both are means over K. The change is 0 if all values are 0.
    """
    mean = values.mean((1, 2))
    return values.std(1).mean(1) / np.where(mean == 0, 1.0, mean)


def verdict(low: float, high: float, differs: bool) -> str:
    """The verdict that the 95 % interval of a probability of improvement allows on a claim."""
    if low <= 0.5 <= high:
        return "not significant" if differs else "no significant difference"
    if not differs:
        return "does not hold"
    return "holds" if low > 0.5 else "the contrary holds"


class Comparison(NamedTuple):
    """The measurement of a claim.

    Attributes:
        sides: one number per run, for the side that should have more and for the other.
        chance: probability that a run of the first side exceeds one of the second.
        episodes: training length of each side.
    """

    sides: tuple[np.ndarray, np.ndarray]
    chance: Interval
    episodes: tuple[int, int]


def compare(claim: Claim) -> Comparison:
    """Measures both sides of a claim."""
    folders = [RESULTS / claim.more, RESULTS / claim.less]
    more, less = (of_runs(folder, claim.metric, stage) for folder, stage in zip(folders, claim.stages, strict=True))
    first, second = (length(read_run(folder)) for folder in folders)
    return Comparison((more, less), bootstrap(probability_of_improvement, [more, less]), (first, second))


def claims_table(claims: Sequence[Claim] = CLAIMS) -> str:
    """A table of claims with their verdicts and measurements."""
    rows: list[Sequence[str]] = [("claim", "verdict", "measured", "first", "second", "P(first > second)", "seeds", "episodes")]
    for claim in claims:
        found = compare(claim)
        cells = (
            claim.text,
            verdict(float(found.chance.low), float(found.chance.high), claim.differs),
            NAMES[claim.metric],
            *(f"{values.mean():.3g} ± {values.std(ddof=1):.2g}" for values in found.sides),
            f"{found.chance.value:.2f} ({found.chance.low:.2f} to {found.chance.high:.2f})",
            ", ".join(f"{len(values)}" for values in found.sides),
            ", ".join(dict.fromkeys(f"{episodes:,}" for episodes in found.episodes)),
        )
        rows.append(cells)
    return markdown(rows)


def tuned_table(env: str) -> str:
    """A table of the returns of every algorithm with its tuned setting in an environment."""
    scores = ("training return, IQM (95 %)", "greedy return, IQM (95 %)", "lowest, highest seed")
    rows: list[Sequence[str]] = [(TITLES[env], *scores, "seeds", "episodes", "hours")]
    for folder in sorted(path.parent for path in (TUNED / env).glob(f"*/{CONFIG}")):
        run = read_run(folder)
        train, greedy = final(run, "train_return"), final(run, "eval_return")
        cells = (
            folder.name,
            *map(interquartile, (train, greedy)),
            f"{train.min():.3g}, {train.max():.3g}",
            f"{len(train)}",
            f"{length(run):,}",
            f"{run.metrics['wall_seconds'].max() / 3600:.2f}",
        )
        rows.append(cells)
    return markdown(rows)


def interquartile(values: np.ndarray) -> str:
    """Formats the interquartile mean of runs with its interval."""
    found = bootstrap(interquartile_mean, [values])
    return f"{found.value:.3g} ({found.low:.3g} to {found.high:.3g})"


def tuning_table(env: str) -> str:
    """A table of final greedy returns of every trial, for each seed and as their mean."""
    rows: list[Sequence[str]] = [("algorithm", "trial", "greedy return of each seed", "mean")]
    for folder in sorted(path.parent for path in (TUNING / env).glob(f"*/{CONFIG}")):
        for run in read_folder(folder):
            last = run.metrics["eval_return"][:, -1]
            setting = run.label.removeprefix(run.algo).strip() or folder.name.removeprefix(f"{run.algo}_")
            rows.append((run.algo, setting, ", ".join(f"{value:.1f}" for value in last), f"{last.mean():.1f}"))
    return markdown(rows)


def signals_table(folder: Path) -> str:
    """A table of the quantities that drive MAMT's trust regions, for each fifth of training, mean over seeds."""
    run = read_run(folder)
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
    """A table of both gradients of the trust regions' logarithm, means over training, agents and seeds.

    Runs without a record of them are left out.
    """
    rows: list[Sequence[str]] = [("MAMT", "cost's gradient", "value's gradient", "trust regions at the end")]
    for folder in sorted(path.parent for path in TUNED.glob(f"*/mamt*/{CONFIG}")):
        run = read_run(folder)
        if "cost_gradient" in run.metrics:
            cost, value = (f"{np.nanmean(run.metrics[name]):.2g}" for name in ("cost_gradient", "value_gradient"))
            ends = sizes_at_the_end(run)
            rows.append((f"{run.task.title}, {folder.name}", cost, value, f"{ends.min():.3g} to {ends.max():.3g}"))
    return markdown(rows)


TABLES: dict[str, Callable[..., str]] = {
    "claims": claims_table,
    "claims_paper": lambda: claims_table(PAPER),
    "claims_ablations": lambda: claims_table(ABLATIONS),
    "forces": forces_table,
    "signals": lambda env: signals_table(TUNED / env / "mamt"),
    "tuned": tuned_table,
    "tuning": tuning_table,
}
"""Functions that make the tables, by name."""
