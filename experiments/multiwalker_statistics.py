"""Multi-Walker here beside the original: lengths, returns and displacements of whole episodes, and policies in both.

python experiments/multiwalker_statistics.py

Needs the extra `pettingzoo`. Writes experiments/results/multiwalker_statistics.json and .png.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

import envs_jax
from analysis.multiwalker import QUANTITIES, SOLVERS, draw, episodes_table
from envs_jax.environment import Environment, HostEnvironment
from envs_jax.host import play_episodes
from envs_jax.reference_policies import do_nothing_policy, random_policy
from envs_jax.registry import make_any
from envs_jax.wrappers import episode_statistics
from mamt_jax.analysis import style
from mamt_jax.training.policies import load_policy
from mamt_jax.training.run_folder import BEST, CONFIG, describe_machine

RESULTS = Path(__file__).parent / "results"


class Trained(NamedTuple):
    """Whose policy: a folder, and which of its runs."""

    folder: Path
    run: int = 0


TRAINED = {
    "trained here": Trained(RESULTS / "multiwalker" / "mappo_events", 1),
    "trained there": Trained(RESULTS / "multiwalker_original" / "mappo_shared"),
}
AS_THE_ORIGINAL: dict[str, Any] = {"contact_events": True, "same_push": True}
"""What policies see and what happens to them at the start."""
Act = Callable[[jax.Array, jax.Array], jax.Array]
"""(key, observation (n, d)) -> action (n, 4)."""


def policies(env: Environment, trained: dict[str, Trained]) -> dict[str, Act]:
    """Random, do-nothing, and the most likely actions of the policies `trained`."""
    random, idle = random_policy(env.spec), do_nothing_policy(env.spec)
    found: dict[str, Act] = {
        "random": lambda key, observation: random(key, None),
        "do_nothing": lambda key, observation: idle(key, None),
    }
    return found | {name: _most_likely(*each) for name, each in trained.items() if (each.folder / CONFIG).exists()}


def _most_likely(folder: Path, run: int) -> Act:
    policy = load_policy(folder, run, which="best" if (folder / BEST).exists() else "latest")
    return lambda key, observation: policy(observation)


def play_ours(env: Environment, act: Act, episodes: int, seed: int) -> dict[str, np.ndarray]:
    """Each quantity of whole episodes, (episodes,)."""
    counted = episode_statistics(env)

    def episode(key: jax.Array) -> Any:
        reset_key, steps_key = jax.random.split(key)
        state, timestep = counted.reset(reset_key)

        def step(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
            state, observation = carry
            act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, number))
            stepped, timestep = counted.step(env_key, state, act(act_key, observation))
            kept = jax.tree.map(lambda old, new: jax.numpy.where(state.statistics.done, old, new), state, stepped)
            return (kept, timestep.observation), None

        carry, _ = jax.lax.scan(step, (state, timestep.observation), jax.numpy.arange(env.spec.episode_limit))
        return carry[0].statistics

    played = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), episodes))
    return {
        "length": np.asarray(played.episode_length, float),
        "return": np.asarray(played.episode_return.mean(-1)),
        "displacement": np.asarray(played.metrics["displacement"]),
    }


def play_original(env: HostEnvironment, act: Act, episodes: int, seed: int) -> dict[str, np.ndarray]:
    """The same in the original, an environment and a seed for each episode."""
    program = jax.jit(lambda key, seen: jax.vmap(act)(jax.random.split(key, len(seen)), seen))
    batch = env.open(episodes)
    try:
        played = play_episodes(
            batch,
            lambda shown, number: np.asarray(program(jax.random.fold_in(jax.random.key(seed), number), shown.observation)),
            np.random.SeedSequence(seed).generate_state(episodes),
            1,
        )
    finally:
        batch.close()
    returns = played.episode_return.mean(-1).ravel()
    return {"length": played.length.ravel(), "return": returns, "displacement": played.metrics["displacement"].ravel()}


def summary(values: np.ndarray) -> dict[str, Any]:
    """Mean, its standard error, and all values."""
    rounded = [round(float(value), 3) for value in values]
    return {"mean": float(values.mean()), "std_error": float(values.std(ddof=1) / len(values) ** 0.5), "values": rounded}


def compare(ours: dict[str, dict[str, np.ndarray]], original: dict[str, np.ndarray]) -> dict[str, Any]:
    """Every quantity by both solvers and of the original, and the p values of two-sample Kolmogorov-Smirnov tests."""
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
    """Play, compare, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--only", nargs="+", help="play only these policies and keep the rest of the file")
    parser.add_argument("--out", type=Path, default=RESULTS / "multiwalker_statistics.json")
    asked = parser.parse_args()
    envs = {solver: envs_jax.make("multiwalker", solver=solver, **AS_THE_ORIGINAL) for solver in SOLVERS}
    original = make_any("pettingzoo/multiwalker")
    assert isinstance(original, HostEnvironment)
    results = json.loads(asked.out.read_text())["policies"] if asked.only and asked.out.exists() else {}
    for name, act in policies(envs["fast"], TRAINED).items():
        if asked.only and name not in asked.only:
            continue
        ours = {solver: play_ours(env, act, asked.episodes, 1) for solver, env in envs.items()}
        results[name] = compare(ours, play_original(original, act, asked.episodes, 2))
        print(episodes_table({name: results[name]}), flush=True)
    command = f"python experiments/multiwalker_statistics.py --episodes {asked.episodes}"
    content = {"command": command, "machine": describe_machine(), "policies": results}
    asked.out.write_text(json.dumps(content) + "\n")
    style.save(draw(results), asked.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
