"""Settings by name. A preset gives options of `mamt train`; what the command line says goes first.

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

_MAAC = {"hidden_size": 64, "batch_size": 256, "tau": 0.01}
_ATTENTION: dict[str, dict[str, Any]] = {"maac": _MAAC} | dict.fromkeys(("mamd", "mamd_op", "mamt"), _MAAC | {"epsilon": 30.0})
_MADDPG = {"hidden_size": 64, "batch_size": 256, "gamma": 0.95, "temperature": 0.3}
_MAPPO = {
    "share_policy": True,
    "gamma": 0.95,
    "gae_lambda": 0.9,
    "policy_learning_rate": 2e-3,
    "critic_learning_rate": 2e-3,
}
_PURSUIT = {"update_interval": 400, "buffer_size": 300_000}
_WALKERS = {
    "policy_gradient": "expected",
    "num_action_samples": 4,
    "update_interval": 48,
    "num_updates": 1,
    "buffer_size": 300_000,
}
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("rover_tower", "spread"), _ATTENTION | {"maddpg": _MADDPG, "mappo": _MAPPO}),
    "pursuit": {algo: options | _PURSUIT for algo, options in (_ATTENTION | {"maddpg": _MADDPG}).items()},
    "multiwalker": {algo: options | _WALKERS for algo, options in _ATTENTION.items()},
}
"""By environment and algorithm, what measured better than Table 1 (docs/claims.md), MA-PPO's in 20,000 episodes."""


def tuned(env: str, algo: str) -> dict[str, Any]:
    """Options that measured better than Table 1, where that was measured; else none."""
    return TUNED.get(env, {}).get(algo, {})


def preset_options(name: str, env: str, algo: str) -> dict[str, Any]:
    """The options of the preset `name` for `algo` on `env`; raises ValueError if there is none of that name."""
    if name not in BUDGETS:
        raise ValueError(f"preset={name!r} is not valid: give one of {', '.join(BUDGETS)}.")
    return BUDGETS[name] | (tuned(env, algo) if name == "tuned" else {})
