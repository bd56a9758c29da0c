"""Presets: named settings of `mamt train`. Options on the command line override them.

The defaults of the algorithms are those of the paper's Table 1. `TUNED` holds the best settings for each task,
which experiments/tuning.py found.
"""

from typing import Any, NamedTuple

PRESETS = {
    "tuned": "the best measured settings for the task, or Table 1 with 3,000 episodes for tasks without tuned settings",
    "paper": "Table 1 of the paper, with 50,000 episodes",
}
"""Descriptions of the presets. The first preset is the default."""


class Preset(NamedTuple):
    """Settings of an algorithm on a task.

    Attributes:
        options: options of `mamt train`.
        minutes: maximum training time on 2 CPU cores, from an empty compilation cache. None means not measured.
    """

    options: dict[str, Any]
    minutes: float | None = None


PAPER = Preset({"episodes": 50_000, "evaluation_interval": 500})
UNTUNED = Preset({"episodes": 3_000, "evaluation_interval": 100})
"""Settings for tasks without tuned settings."""

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
"""Settings of the first tuning trials of off-policy algorithms."""
_MAAC = REPLAY | {"policy_gradient": "expected"}
_MAMD = _MAAC | {"epsilon": 30.0}
_MAMT = _MAMD | {"trust_region_batch_size": 32}
_MADDPG = REPLAY | {"temperature": 0.3}
_ROLLOUT = {"num_envs": 128, "update_interval": 3200, "gamma": 0.95, "gae_lambda": 0.9}
_FAST = {"policy_learning_rate": 4e-3, "critic_learning_rate": 6e-3}
_SLOW = {"policy_learning_rate": 1e-3, "critic_learning_rate": 1.5e-3}
_SHARED = {"share_policy": True, "share_critic": True}


def _length(episodes: int, evaluations: int, evaluation_episodes: int = 100) -> dict[str, Any]:
    """Returns the options for the length of training and the evaluations."""
    return {
        "episodes": episodes,
        "evaluation_interval": episodes // evaluations,
        "evaluation_episodes": evaluation_episodes,
    }


_ROVERS = _FAST | {"tau": 0.05} | _length(36_000, 30)
_ROVERS_MAPPO = _ROLLOUT | {
    "share_policy": True,
    "gae_lambda": 0.95,
    "policy_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "value_clip_eps": 10.0,
}

_COVER = _FAST | _length(60_000, 25)
_COVER_MAPPO = _ROLLOUT | {"policy_learning_rate": 4e-3, "critic_learning_rate": 4e-3}
_ENTROPY = {"entropy_coefficient": 0.003}
_THREE = {"num_envs": 480, "update_interval": 4000, "gamma": 0.9}
_COVER_THREE = _length(800_000, 40)
_COVER_MIX = _length(400_000, 25)

_CHASE = {"shared_reward": False, "evaluation_policy": "sampled"}
_PURSUIT_MAPPO = (
    _ROLLOUT | {"num_envs": 64, "share_policy": True, "policy_learning_rate": 2e-3, "critic_learning_rate": 2e-3} | _CHASE
)
_WALK_STEPS = {"num_envs": 12, "update_interval": 48, "gamma": 0.99, "reward_normalisation": "scale"}
_WALK = _WALK_STEPS | {"tau": 0.025, "policy_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "num_action_samples": 4}
_WALK_FAST = {"num_updates": 1, "policy_learning_rate": 2e-3, "critic_learning_rate": 2e-3}
_WALKERS_MAPPO = {
    "num_envs": 512,
    "update_interval": 32_768,
    "num_epochs": 3,
    "num_minibatches": 8,
    "share_policy": True,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "policy_learning_rate": 1.4e-3,
    "critic_learning_rate": 2e-3,
    "reward_normalisation": "scale",
}

TUNED: dict[str, dict[str, Preset]] = {
    "rover_tower": {
        "maac": Preset(_MAAC | _ROVERS, 0.9),
        "mamd": Preset(_MAMD | _ROVERS, 0.9),
        "mamt": Preset(_MAMT | _ROVERS | {"epsilon": 100.0}, 1.6),
        "maddpg": Preset(_MADDPG | _ROVERS | {"share_policy": True}, 0.7),
        "mappo": Preset(_ROVERS_MAPPO | _length(20_000, 20), 0.5),
    },
    "spread": {
        "maac": Preset(_MAAC | _COVER | _SHARED | {"reward_scale": 300.0}, 0.9),
        "mamd": Preset(_MAMD | _COVER | _SHARED | {"epsilon": 100.0}, 0.9),
        "mamt": Preset(_MAMT | _COVER, 1.3),
        "maddpg": Preset(_MADDPG | _COVER | {"tau": 0.05, "share_policy": True, "temperature": 1.0}, 0.6),
        "mappo": Preset(_COVER_MAPPO | {"share_policy": True, "gae_lambda": 0.95, **_ENTROPY} | _length(80_000, 20), 0.8),
        "lola": Preset(
            _ROLLOUT
            | {"gae_lambda": 0.95, "lookahead": 0.003, "policy_learning_rate": 2e-3, "critic_learning_rate": 2e-3}
            | _length(60_000, 20),
            0.8,
        ),
    },
    "spread_n3": {
        "maac": Preset(_MAAC | _SLOW | _THREE | {"reward_scale": 10.0} | _COVER_THREE, 4.2),
        "mamd": Preset(_MAMD | _FAST | _THREE | _SHARED | {"tau": 0.05} | _COVER_THREE, 4.4),
        "mamt": Preset(_MAMT | _FAST | _THREE | {"tau": 0.05, "epsilon": 100.0} | _COVER_THREE, 5.7),
        "maddpg": Preset(
            _MADDPG | _SLOW | {"gamma": 0.9, "share_policy": True, "temperature": 1.0} | _length(240_000, 40), 2.3
        ),
        "mappo": Preset(
            _COVER_MAPPO | {"share_policy": True, **_ENTROPY, "lr_decay_updates": 6_250} | _length(800_000, 20, 500), 7.5
        ),
    },
    "spread3_mix": {
        "maac": Preset(_MAAC | _THREE | {"tau": 0.05, "reward_scale": 10.0} | _COVER_MIX, 2.3),
        "mamd": Preset(_MAMD | _FAST | _THREE | {"tau": 0.05, "epsilon": 100.0} | _COVER_MIX, 2.3),
        "mamt": Preset(_MAMT | _FAST | _THREE | {"tau": 0.05, "epsilon": 100.0} | _COVER_MIX, 3.1),
        "maddpg": Preset(_MADDPG | _FAST | _THREE | {"tau": 0.05, "temperature": 1.0} | _COVER_MIX, 1.6),
        "mappo": Preset(_COVER_MAPPO | {"share_policy": False, "gae_lambda": 0.95} | _length(100_000, 20), 1.9),
    },
    "pursuit": {
        "maac": Preset(_MAAC | _SLOW | _SHARED | _CHASE | {"gamma": 0.99} | _length(6_000, 30, 20), 8.4),
        "mamd": Preset(_MAMD | _SLOW | _SHARED | _CHASE | {"tau": 0.05} | _length(6_000, 30, 20), 7.5),
        "mamt": Preset(_MAMT | _SLOW | _SHARED | _CHASE | {"gamma": 0.99, "tau": 0.05} | _length(6_000, 30, 20), 12.0),
        "maddpg": Preset(_MADDPG | _FAST | _CHASE | {"share_policy": True} | _length(6_000, 30, 20), 10.5),
        "mappo": Preset(_PURSUIT_MAPPO | _length(4_000, 10, 20), 10.0),
    },
    "multiwalker": {
        "maac": Preset(_MAAC | _WALK | _SHARED | {"num_updates": 2, "reward_scale": 300.0} | _length(2_000, 20, 24), 24),
        "mamd": Preset(_MAMD | _WALK | _SHARED | {"num_updates": 1, "epsilon": 100.0} | _length(2_000, 20, 24), 17.5),
        "mamt": Preset(_MAMT | _WALK | _WALK_FAST | _length(2_000, 20, 24), 19.5),
        "maddpg": Preset(_MADDPG | _WALK_STEPS | _WALK_FAST | {"tau": 0.01} | _length(2_000, 20, 24), 14),
        "mappo": Preset(_WALKERS_MAPPO | {"lr_decay_updates": 550} | _length(36_000, 36, 24), 58),
    },
}
"""Tuned presets, by task and algorithm."""
ALIKE = {
    **{"pursuit_local": "pursuit", "spread3_sep": "spread3_mix", "spread3_ful": "spread_n3"},
    **{"mamd_op": "mamd", "ippo": "mappo", "happo": "mappo", "hatrpo": "mappo"},
}
"""Tasks and algorithms that use the presets of another task or algorithm."""
MISSING = {"happo": ("share_policy",), "hatrpo": ("share_policy", "policy_learning_rate", "entropy_coefficient")}
"""Options in the presets of another algorithm that an algorithm does not have, or needs otherwise."""


def find_preset(name: str, task: str, algo: str) -> Preset:
    """Return a preset for an algorithm on a task.

    Args:
        name: name of the preset.
        task: name of the task, as in the results.
        algo: name of the algorithm.

    Raises:
        ValueError: if no preset has this name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset={name!r} is not valid: give one of {', '.join(PRESETS)}.")
    if name == "paper":
        return PAPER
    preset = TUNED.get(ALIKE.get(task, task), {}).get(ALIKE.get(algo, algo), UNTUNED)
    options = {option: value for option, value in preset.options.items() if option not in MISSING.get(algo, ())}
    return preset._replace(options=options, minutes=None if algo in ALIKE else preset.minutes)
