"""What is claimed: the paper's sentences, and ablations of ours, each as two folders of runs to compare."""

from typing import NamedTuple

DEVIATION = "deviation of trust regions between agents"
NAMES = {"train_return": "training return", "kl_old": "KL from the old policy", DEVIATION: DEVIATION}


class Claim(NamedTuple):
    """That runs of one folder have more of a metric than those of another.

    Attributes:
        text: what is claimed.
        metric: a name of `NAMES`.
        more: folder under experiments/results.
        less: another one.
        differs: whether the paper says that the two differ; else that they do not.
    """

    text: str
    metric: str
    more: str
    less: str
    differs: bool = True


CLAIMS = (
    Claim(
        "MAMT beats MAAC where agents are many (Rover-Tower)",
        "train_return",
        "tuned/rover_tower/mamt",
        "tuned/rover_tower/maac",
    ),
    Claim("MAMT beats MAMD there", "train_return", "tuned/rover_tower/mamt", "tuned/rover_tower/mamd"),
    Claim(
        "Learnt trust regions (MAMT) beat one fixed at their upper bound, 100 (MAMD)",
        "train_return",
        "tuned/rover_tower/mamt",
        "tuned/rover_tower/mamd_epsilon_100",
    ),
    Claim("MAMD beats MAAC there", "train_return", "tuned/rover_tower/mamd", "tuned/rover_tower/maac"),
    Claim(
        "MAMT and MAAC are equal where agents are few (Spread)", "train_return", "tuned/spread/mamt", "tuned/spread/maac", False
    ),
    Claim(
        "MAMD and MAAC are equal where agents are few (Spread)", "train_return", "tuned/spread/mamd", "tuned/spread/maac", False
    ),
    Claim("MAMT and MAMD are equal there", "train_return", "tuned/spread/mamt", "tuned/spread/mamd", False),
    Claim(
        "MA-PPO beats MAAC at equal episodes there (the paper: no stable gain)",
        "train_return",
        "tuned/rover_tower/mappo",
        "tuned/rover_tower/maac",
    ),
    Claim("MAAC's policies move more than MAMT's (Rover-Tower)", "kl_old", "tuned/rover_tower/maac", "tuned/rover_tower/mamt"),
    Claim("MAMD's policies move more than MAMT's there", "kl_old", "tuned/rover_tower/mamd", "tuned/rover_tower/mamt"),
    Claim("Trust regions differ more where agents are many", DEVIATION, "tuned/rover_tower/mamt", "tuned/spread/mamt"),
    Claim(
        "MAMD-OP beats MAMD where two of three depend (Spread-3-Mix)", "train_return", "spread3_mix/mamd_op", "spread3_mix/mamd"
    ),
    Claim(
        "MAMD-OP, there MAAC, beats MAMD where none does (Spread-3-Sep)", "train_return", "spread3_sep/maac", "spread3_sep/mamd"
    ),
)

ABLATIONS: tuple[Claim, ...] = (
    Claim(
        "MAMT: a threshold of 0.05, under 1 / (n - 1), beats 0.2",
        "train_return",
        "tuned/rover_tower/mamt_threshold_0.05",
        "tuned/rover_tower/mamt",
    ),
    Claim(
        "MAMT: the sum of the policies' own divergences as the cost beats the decomposition network",
        "train_return",
        "tuned/rover_tower/mamt_divergence_policies",
        "tuned/rover_tower/mamt",
    ),
    Claim(
        "MAMT: the value's gradient beats following the estimated divergence alone",
        "train_return",
        "tuned/rover_tower/mamt",
        "tuned/rover_tower/mamt_value_weight_0",
    ),
    Claim(
        "MAMT: C by its definition beats the shortcut by values",
        "train_return",
        "tuned/rover_tower/mamt",
        "tuned/rover_tower/mamt_coordination_values",
    ),
    Claim(
        "MAAC: the expected policy gradient beats the sampled one",
        "train_return",
        "tuned/rover_tower/maac_expected",
        "tuned/rover_tower/maac",
    ),
    Claim(
        "MAMD: a Tsallis order of 0.2 beats 1",
        "train_return",
        "tuned/rover_tower/mamd",
        "tuned/rover_tower/mamd_tsallis_1",
    ),
)
