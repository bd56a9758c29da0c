"""Settings by name. A preset gives options of `run.py`; what the command line says goes first.

Algorithms' own defaults are those of the paper's Table 1.
"""

from typing import Any

QUICK_EPISODES = 3_000
"""MAMT on Rover-Tower, one seed: two to five minutes on 2 CPU cores."""

BUDGETS: dict[str, dict[str, Any]] = {
    "tuned": {"episodes": QUICK_EPISODES, "evaluation_interval": 100},
    "paper": {"episodes": 50_000, "evaluation_interval": 500},
}
"""Lengths of training; the first one is the default."""

MEASURED_ON = ("rover_tower", "spread")
_ACTOR_CRITIC = {"hidden_size": 64, "batch_size": 256, "tau": 0.01}
TUNED: dict[str, dict[str, Any]] = {
    "maac": _ACTOR_CRITIC,
    **dict.fromkeys(("mamd", "mamd_op", "mamt"), _ACTOR_CRITIC | {"epsilon": 30.0}),
    "maddpg": {"hidden_size": 64, "batch_size": 256, "gamma": 0.95, "temperature": 0.3},
    "mappo": {
        "share_policy": True,
        "gamma": 0.95,
        "gae_lambda": 0.9,
        "policy_learning_rate": 2e-3,
        "critic_learning_rate": 2e-3,
    },
}
"""What measured best on Rover-Tower in 4,000 episodes (docs/claims.md), MA-PPO's in 20,000."""


def tuned(env: str, algo: str) -> dict[str, Any]:
    """Options that measured better than Table 1, where that was measured; else none."""
    return TUNED.get(algo, {}) if env in MEASURED_ON else {}


def preset_options(name: str, env: str, algo: str) -> dict[str, Any]:
    """The options of the preset `name` for `algo` on `env`."""
    return BUDGETS[name] | (tuned(env, algo) if name == "tuned" else {})
