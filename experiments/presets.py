"""Settings by name. A preset gives options of `run.py`; what the command line says goes first."""

from typing import Any

from experiments.options import OptionError

QUICK_EPISODES = 3_000
"""MAMT on Rover-Tower, one seed: within about 12 minutes on 2 CPU cores, half of that on faster ones."""

QUICK = {"episodes": QUICK_EPISODES, "evaluation_interval": 100}
PRESETS: dict[str, dict[str, Any]] = {
    "quick": QUICK,
    "tuned": QUICK,
    "paper": {"episodes": 50_000, "evaluation_interval": 500},
}

_ACTOR_CRITIC = {"hidden_size": 64, "batch_size": 256, "tau": 0.01}
TUNED: dict[str, dict[str, Any]] = {
    "maac": _ACTOR_CRITIC,
    **dict.fromkeys(("mamd", "mamd_op", "mamt"), _ACTOR_CRITIC | {"epsilon": 30.0}),
    "mappo": {
        "share_policy": True,
        "gamma": 0.95,
        "gae_lambda": 0.9,
        "policy_learning_rate": 2e-3,
        "critic_learning_rate": 2e-3,
    },
}
"""What measured best on Rover-Tower in 4,000 episodes (docs/claims.md), MA-PPO's in 20,000."""


def preset_options(name: str, algo: str) -> dict[str, Any]:
    """The options of the preset `name` for `algo`.

    Raises:
        OptionError: if that algorithm was not tuned.
    """
    if name != "tuned":
        return PRESETS[name]
    if algo not in TUNED:
        raise OptionError(f"--preset tuned is not valid with --algo {algo}: it is there for {', '.join(TUNED)}.")
    return PRESETS[name] | TUNED[algo]
