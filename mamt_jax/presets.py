"""Settings by name. A preset gives options of `mamt train`; what the command line says goes first.

Algorithms' own defaults are those of the paper's Table 1. `TUNED` holds what experiments/tuning.py found best, by task.
"""

from typing import Any, NamedTuple

PRESETS = {
    "tuned": "what measured best for the task, where that was measured; else Table 1 and 3,000 episodes",
    "paper": "the paper's Table 1 and 50,000 episodes",
}
"""What each is; the first one is the default."""


class Preset(NamedTuple):
    """Settings of a task and an algorithm.

    Attributes:
        options: of `mamt train`.
        minutes: that training takes with them, from an empty compilation cache on 2 CPU cores; None where nobody measured.
    """

    options: dict[str, Any]
    minutes: float | None = None


PAPER = Preset({"episodes": 50_000, "evaluation_interval": 500})
UNTUNED = Preset({"episodes": 3_000, "evaluation_interval": 100})
"""A first look where nothing was measured."""

REPLAY = {
    "num_envs": 120,
    "update_interval": 1000,
    "num_updates": 4,
    "hidden_size": 64,
    "batch_size": 256,
    "gamma": 0.95,
    "tau": 0.02,
    "policy_learning_rate": 2e-3,
    "critic_learning_rate": 3e-3,
}
"""Where the trials of algorithms that learn from replay began."""
_MAAC = REPLAY | {"policy_gradient": "expected"}
_MAMD = _MAAC | {"epsilon": 30.0}
_MADDPG = REPLAY | {"temperature": 0.3}
_MAPPO = {
    "share_policy": True,
    "gamma": 0.95,
    "gae_lambda": 0.9,
    "policy_learning_rate": 2e-3,
    "critic_learning_rate": 2e-3,
}

_ROVERS = {
    "tau": 0.05,
    "policy_learning_rate": 4e-3,
    "critic_learning_rate": 6e-3,
    "episodes": 36_000,
    "evaluation_interval": 1_200,
}
_ROVERS_MAPPO = {
    "num_envs": 128,
    "update_interval": 3200,
    "share_policy": True,
    "gamma": 0.95,
    "gae_lambda": 0.95,
    "policy_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "value_clip_eps": 10.0,
}
_COVER = {"episodes": 60_000, "evaluation_interval": 2_400}
_ROLLOUTS = {"episodes": 20_000, "evaluation_interval": 1_000}
_PURSUIT = {"hidden_size": 64, "batch_size": 256, "tau": 0.01, "update_interval": 400, "buffer_size": 300_000}
_WALKERS = {
    "hidden_size": 64,
    "batch_size": 256,
    "tau": 0.01,
    "policy_gradient": "expected",
    "num_action_samples": 4,
    "update_interval": 48,
    "num_updates": 1,
    "buffer_size": 300_000,
}
_PURSUIT_MAPPO = _MAPPO | {"num_envs": 64, "update_interval": 3200, "shared_reward": False, "evaluation_policy": "sampled"}
_CATCHING = {"episodes": 4_000, "evaluation_interval": 400, "evaluation_episodes": 20}
_WALKERS_MAPPO = {
    "num_envs": 512,
    "update_interval": 32_768,
    "num_epochs": 3,
    "num_minibatches": 8,
    "share_policy": True,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "policy_learning_rate": 7e-4,
    "critic_learning_rate": 1e-3,
    "reward_normalisation": "scale",
}
_WALKING = {"episodes": 12_000, "evaluation_interval": 1_000, "evaluation_episodes": 24}

_SPREAD = {
    "maac": Preset(_MAAC | _COVER),
    "mamd": Preset(_MAMD | _COVER),
    "mamt": Preset(_MAMD | _COVER | {"trust_region_batch_size": 32}),
    "maddpg": Preset(_MADDPG | _COVER),
    "mappo": Preset(_MAPPO | _ROLLOUTS),
}
TUNED: dict[str, dict[str, Preset]] = {
    "rover_tower": {
        "maac": Preset(_MAAC | _ROVERS, 0.9),
        "mamd": Preset(_MAMD | _ROVERS, 0.9),
        "mamt": Preset(_MAAC | _ROVERS | {"epsilon": 100.0, "trust_region_batch_size": 32}, 1.6),
        "maddpg": Preset(_MADDPG | _ROVERS | {"share_policy": True}, 0.7),
        "mappo": Preset(_ROVERS_MAPPO | _ROLLOUTS, 0.5),
    },
    **dict.fromkeys(("spread", "spread_n3"), _SPREAD),
    "pursuit": {
        "maac": Preset(_PURSUIT | UNTUNED.options),
        "mamd": Preset(_PURSUIT | {"epsilon": 30.0} | UNTUNED.options),
        "mamt": Preset(_PURSUIT | {"epsilon": 30.0} | UNTUNED.options),
        "maddpg": Preset(_PURSUIT | {"gamma": 0.95, "temperature": 0.3} | UNTUNED.options),
        "mappo": Preset(_PURSUIT_MAPPO | _CATCHING),
    },
    "multiwalker": {
        "maac": Preset(_WALKERS | UNTUNED.options),
        "mamd": Preset(_WALKERS | {"epsilon": 30.0} | UNTUNED.options),
        "mamt": Preset(_WALKERS | {"epsilon": 30.0} | UNTUNED.options),
        "mappo": Preset(_WALKERS_MAPPO | _WALKING),
    },
}
"""By task and algorithm."""
ALIKE = {"pursuit_local": "pursuit"}
"""Tasks that have another's defaults."""


def find_preset(name: str, task: str, algo: str) -> Preset:
    """The preset `name` for an algorithm on a task, which has the name that results have for it.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset={name!r} is not valid: give one of {', '.join(PRESETS)}.")
    return PAPER if name == "paper" else TUNED.get(ALIKE.get(task, task), {}).get(algo, UNTUNED)
