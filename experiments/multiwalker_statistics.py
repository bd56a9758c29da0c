"""Compares our Multi-Walker with the original: length, return and displacement of whole episodes, for several policies.

python experiments/multiwalker_statistics.py

It needs the extra `pettingzoo` and writes experiments/results/multiwalker_statistics.json and .png.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

import envs_jax
from analysis.multiwalker import QUANTITIES, SOLVERS, draw, episodes_table
from envs_jax.environment import Environment, HostEnvironment, Policy
from envs_jax.reference_policies import do_nothing_policy, random_policy
from envs_jax.registry import make_any
from envs_jax.rollout import play
from mamt_jax.analysis import style
from mamt_jax.training.policies import load_policy
from mamt_jax.training.run_folder import BEST, CONFIG, describe_machine

RESULTS = Path(__file__).parent / "results"


class Trained(NamedTuple):
    """A trained policy: the folder and the index of its run."""

    folder: Path
    run: int = 0


TRAINED = {
    "trained here": Trained(RESULTS / "multiwalker" / "mappo_events", 1),
    "trained there": Trained(RESULTS / "multiwalker_original" / "mappo_shared"),
}


def policies(env: Environment, trained: dict[str, Trained]) -> dict[str, Policy]:
    """The random, the do-nothing, and the greedy trained policies, without those whose folder is missing."""
    found: dict[str, Policy] = {"random": random_policy(env), "do_nothing": do_nothing_policy(env)}
    return found | {name: _most_likely(*each) for name, each in trained.items() if (each.folder / CONFIG).exists()}


def _most_likely(folder: Path, run: int) -> Policy:
    policy = load_policy(folder, run, which="best" if (folder / BEST).exists() else "latest")
    return lambda observation, key: policy(observation)


def quantities(env: Environment | HostEnvironment, act: Policy, episodes: int, seed: int) -> dict[str, np.ndarray]:
    """The `QUANTITIES` of whole episodes, (episodes,) each."""
    played = play(env, act, jax.random.key(seed), episodes)
    return {
        "length": np.asarray(played.episode_length, float),
        "return": played.episode_return.mean(-1),
        "displacement": played.metrics["displacement"],
    }


def summary(values: np.ndarray) -> dict[str, Any]:
    """Mean, its standard error, and all values."""
    rounded = [round(float(value), 3) for value in values]
    return {"mean": float(values.mean()), "std_error": float(values.std(ddof=1) / len(values) ** 0.5), "values": rounded}


def compare(ours: dict[str, dict[str, np.ndarray]], original: dict[str, np.ndarray]) -> dict[str, Any]:
    """Each quantity of the original and of both our solvers, with p values of two-sample Kolmogorov-Smirnov tests."""
    ks_2samp: Any = stats.ks_2samp
    result = {}
    for name in QUANTITIES:
        sides = {
            solver: summary(played[name]) | {"p": float(ks_2samp(played[name], original[name]).pvalue)}
            for solver, played in ours.items()
        }
        result[name] = {"original": summary(original[name]), "ours": sides}
    return result


def main() -> None:
    """Plays, compares, and writes the results and their figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--only", nargs="+", help="play only these policies and keep the rest of the file")
    parser.add_argument("--out", type=Path, default=RESULTS / "multiwalker_statistics.json")
    asked = parser.parse_args()
    envs = {solver: envs_jax.make("multiwalker", solver=solver, original_rules=True) for solver in SOLVERS}
    original = make_any("pettingzoo/multiwalker")
    assert isinstance(original, HostEnvironment)
    results = json.loads(asked.out.read_text())["policies"] if asked.only and asked.out.exists() else {}
    for name, act in policies(envs["fast"], TRAINED).items():
        if asked.only and name not in asked.only:
            continue
        ours = {solver: quantities(env, act, asked.episodes, 1) for solver, env in envs.items()}
        results[name] = compare(ours, quantities(original, act, asked.episodes, 2))
        print(episodes_table({name: results[name]}), flush=True)
    command = f"python experiments/multiwalker_statistics.py --episodes {asked.episodes}"
    content = {"command": command, "machine": describe_machine(), "policies": results}
    asked.out.write_text(json.dumps(content) + "\n")
    style.save(draw(results), asked.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
