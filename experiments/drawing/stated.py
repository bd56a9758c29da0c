"""Numbers that sentences of README and docs state, from the files of the tables: the words as they have to stand there."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.drawing.claimed import CLAIMS
from experiments.drawing.claims import TUNED, compare, coordination, sizes_at_the_end
from experiments.drawing.results import RESULTS, committed_runs, curves, final, read_result, read_rows
from experiments.drawing.returns import by_label, chance
from experiments.drawing.runs import Run, curve, last_fifth, read_folder

REPOSITORY = Path(__file__).parents[2]
ROVERS, WALKERS = TUNED / "rover_tower", TUNED / "multiwalker"


class Statement(NamedTuple):
    """Words that a page of the repository has to contain."""

    page: str
    words: str


def run_of(folder: Path) -> Run:
    """The one setting of a folder."""
    (run,) = read_folder(folder)
    return run


def ends_of(name: str) -> np.ndarray:
    """Trust regions at the end of runs on Rover-Tower, mean over agents, (R,)."""
    return sizes_at_the_end(run_of(ROVERS / name))


def closest_pair(folder: Path) -> float:
    """The largest C of a pair over the last fifth of training, mean over seeds."""
    return float(last_fifth(curve(run_of(folder), "coordination_mean")).max((-2, -1)).mean())


def of_readme() -> list[str]:
    """The headline."""
    found = compare(CLAIMS[0])
    more, less = (values.mean() for values in found.sides)
    improved = f"probability of improvement {found.chance.value:.2f}, {found.chance.low:.2f} to {found.chance.high:.2f}"
    return [f"({more:.3g} against {less:.3g} after {found.episodes[0]:,} episodes, {improved})"]


def of_claims() -> list[str]:
    """What moves MAMT's trust regions."""
    ends, shortcut, shrunk, linear = (
        ends_of(f"mamt{variant}") for variant in ("", "_coordination_values", "_divergence_policies", "_linear")
    )
    closest, closest_shortcut = (closest_pair(ROVERS / name) for name in ("mamt", "mamt_coordination_values"))
    more, less = (values.mean() for values in compare(CLAIMS[0]).sides)
    walkers = sizes_at_the_end(run_of(WALKERS / "mamt"))
    frozen, fixed = (final(ROVERS / name, "train_return").mean() for name in ("mamt_frozen", "mamd"))
    free, held = (final(folder, "kl_old") for folder in (WALKERS / "maac", WALKERS / "mamt"))
    return [
        f"start at 30 and end at {ends.min():.0f} to {ends.max():.0f}",
        f"trust regions shrink from 30 to {shrunk.mean():.0f}",
        f"take trust regions to {linear.min():.0f} to {linear.max():.0f} instead of {ends.min():.0f} to {ends.max():.0f}",
        f"settle at {shortcut.min():.0f} to {shortcut.max():.0f}",
        f"{closest_shortcut:.2f} for the closest instead of {closest:.2f}",
        f"by {more - less:.1f} of about {round(less, -1):.0f}",
        f"from 30 to {walkers.mean():.0f}, mean over agents and seeds ({walkers.min():.2g} to {walkers.max():.2g} by seed)",
        f"MAMT's policies are {free.mean() / held.mean():.0f} times closer",
        f"is MAMD by other draws, and the two are {frozen - fixed:.1f} apart",
        f"MADDPG that updates as often as MAAC gets to {final(ROVERS / 'maddpg', 'train_return').mean():.0f} in 4,008 episodes",
    ]


def of_results() -> list[str]:
    """The paper's settings."""
    rovers, walkers = RESULTS / "rover_tower", RESULTS / "multiwalker_original" / "mamt"
    episodes, free = curves(read_rows(rovers / "maac"), "kl_old")
    late = episodes > 1000
    ratios = [free.mean(0)[late] / curves(read_rows(rovers / name), "kl_old")[1].mean(0)[late] for name in ("mamd", "mamt")]
    returns = final(rovers / "mamt", "train_return")
    ends = run_of(walkers).metrics["epsilon"][:, -1]
    learnt = run_of(rovers / "mamt")
    return [
        *of_pursuit(),
        f"end between {returns.min():.1f} and {returns.max():.1f}",
        f"{np.min(ratios):.1f} to {np.max(ratios):.1f} times closer",
        f"from 10 to {sizes_at_the_end(learnt).max():.0f} at most, mean over agents",
        f"stay under {np.ceil(1000 * coordination(learnt).max()) / 1000:g}",
        f"between {ends.min():.1f} and {ends.max():.1f}",
    ]


def of_pursuit() -> list[str]:
    """Pursuers paid for what they do themselves."""
    apart, shared = (RESULTS / "pursuit" / name for name in ("mappo_local", "mappo_local_shared"))
    caught_apart, caught = (final(folder, "train_task/all_caught") for folder in (apart, shared))
    earned = final(shared, "train_return")
    scripted = read_result("reference_returns")["returns"]["pursuit"]["scripted"]["return"]
    return [
        f"in {caught.min():.0%} of the episodes of the last fifth of training, whichever the seed",
        f"earns {earned.mean():.0f} where the scripted policy earns {scripted:.0f}",
        f"pursuers catch all in {caught_apart.mean():.0%}",
    ]


def of_multiwalker() -> list[str]:
    """Random steps without extremes."""
    quantiles = {
        name: f"{side['overlap']['99.9%']:.2f} m, {side['speed']['99.9%']:.1f} m/s and {side['spin']['99.9%']:.1f} rad/s"
        for name, side in read_result("multiwalker_parity")["endurance"].items()
    }
    return [f"stay under {quantiles['ours']} here, {quantiles['original']} there"]


def of_theory() -> list[str]:
    """Theorem 1's ratio in Fig. 8's game."""
    game = read_result("theory")["figure_8"]
    ratios = [np.array(action["transition_kl"]) / game["policy_kl"] for action in game["actions"].values()]
    first, second = (f"from {ratio.min():.3f} to {ratio.max():.3f}" for ratio in ratios)
    return [f"{first} for the first action and {second} for the second"]


def of_figures() -> list[str]:
    """Ends against MAAC's, and where a softmax has to share out 1."""
    spreads = ["spread_n3", "spread3_sep", "spread3_mix", "spread3_ful"]
    most, walkers = (
        max(np.abs(coordination(run_of(RESULTS / env / "mamt")) - 0.5).max() for env in envs)
        for envs in (spreads, ["multiwalker", "multiwalker_original"])
    )
    labels = by_label(committed_runs())
    chances = [chance(labels[name], labels["maac"]) for name in ("mamd", "mamt")]
    mamd, mamt = (f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})" for found in chances)
    return [
        f"{mamd} for MAMD and {mamt} for MAMT",
        f"within {np.ceil(1000 * most) / 1000:g} of 1/2 in every Spread",
        f"In Multi-Walker it stays within {np.ceil(100 * walkers) / 100:g} of that",
    ]


def statements() -> list[Statement]:
    """All of them."""
    pages = {
        "README.md": of_readme,
        "docs/claims.md": of_claims,
        "docs/results.md": of_results,
        "docs/multiwalker.md": of_multiwalker,
        "docs/theory.md": of_theory,
        "docs/figures.md": of_figures,
    }
    return [Statement(page, words) for page, of_page in pages.items() for words in of_page()]


def missing() -> list[Statement]:
    """Those that their pages lack."""
    stated = statements()
    texts = {page: " ".join((REPOSITORY / page).read_text().split()) for page, _ in stated}
    return [each for each in stated if each.words not in texts[each.page]]
