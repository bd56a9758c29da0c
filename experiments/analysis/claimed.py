"""What is claimed: the paper's sentences, and ablations of ours, each as two folders of runs to compare."""

from typing import Literal, NamedTuple

from mamt_jax.analysis.returns import RETURN

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
    """That runs of one folder have more of a metric than those of another.

    Attributes:
        text: what is claimed.
        metric: a name of `NAMES`.
        more: folder under experiments/results.
        less: another one.
        differs: whether the paper says that the two differ; else that they do not.
        stages: the fifths of training that are compared.
    """

    text: str
    metric: str
    more: str
    less: str
    differs: bool = True
    stages: tuple[Stage, Stage] = ("last", "last")


_PAIRS = (("mamt", "maac"), ("mamt", "mamd"), ("mamd", "maac"))


def every_two(folder: str, where: str, differs: bool = True, suffix: str = "") -> tuple[Claim, ...]:
    """Returns of MAMT, MAMD and MAAC in `folder`, two by two; `suffix` ends the names of their runs."""
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
    *every_two(PURSUIT, "where pursuers are paid for what they do themselves (Pursuit)", suffix="_local"),
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
        "D_ns is higher with trust regions that stay at 30 than with MAMT's (Rover-Tower)",
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
"""With Table 1's settings, three seeds."""

FIXED = {size: "mamd" if size == 30 else f"mamd_epsilon_{size}" for size in (1, 3, 10, 30, 100, 300)}
"""Folders of MAMD by the size of its trust regions; 30 is the tuned one."""

ABLATIONS: tuple[Claim, ...] = (
    *(
        Claim(f"Learnt trust regions (MAMT) beat fixed ones of {size} (MAMD)", RETURN, f"{ROVERS}/mamt", f"{ROVERS}/{folder}")
        for size, folder in FIXED.items()
    ),
    Claim("MAMT: learning trust regions beats leaving them at 30", RETURN, f"{ROVERS}/mamt", f"{ROVERS}/mamt_frozen"),
    Claim("That, which is MAMD by other draws, equals MAMD", RETURN, f"{ROVERS}/mamt_frozen", f"{ROVERS}/mamd", False),
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
    Claim("That on Spread", RETURN, f"{SPREAD}/mamt_divergence_policies", f"{SPREAD}/mamt"),
    Claim(
        "MAMT: the value's gradient beats following the estimated divergence alone",
        RETURN,
        f"{ROVERS}/mamt",
        f"{ROVERS}/mamt_value_weight_0",
    ),
    Claim("That on Spread", RETURN, f"{SPREAD}/mamt", f"{SPREAD}/mamt_value_weight_0"),
    Claim(
        "MAMT: C by its definition beats the shortcut by values",
        RETURN,
        f"{ROVERS}/mamt",
        f"{ROVERS}/mamt_coordination_values",
    ),
    Claim("MAAC: the expected policy gradient beats the sampled one", RETURN, f"{ROVERS}/maac_expected", f"{ROVERS}/maac"),
    Claim("That on Spread", RETURN, f"{SPREAD}/maac_expected", f"{SPREAD}/maac"),
    Claim("MAMD: a Tsallis order of 0.2 beats 1", RETURN, f"{ROVERS}/mamd", f"{ROVERS}/mamd_tsallis_1"),
    Claim("That on Spread", RETURN, f"{SPREAD}/mamd", f"{SPREAD}/mamd_tsallis_1"),
    Claim("LOLA: a lookahead of 0.003 beats none (Spread)", RETURN, f"{SPREAD}/lola", f"{SPREAD}/lola_naive"),
    Claim(
        "MAAC: a reward of each pursuer's own beats their mean (Pursuit)", RETURN, f"{PURSUIT}/maac_local", f"{PURSUIT}/maac"
    ),
    Claim("That with MAMT", RETURN, f"{PURSUIT}/mamt_local", f"{PURSUIT}/mamt"),
)
