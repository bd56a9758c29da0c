"""Returns of the reference policies of every environment: random, do nothing, scripted.

python experiments/reference_returns.py [--out mamt_jax/reference_returns.json]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax

import envs_jax
from envs_jax.environment import HostEnvironment
from envs_jax.host import play_host_references
from envs_jax.reference_policies import evaluate_policy, reference_policies
from envs_jax.registry import make_any
from mamt_jax.training.references import ORIGINALS, RETURNS, TASKS
from mamt_jax.training.run_folder import describe_machine

STEPS = 125_000  # an environment: 5,000 episodes of 25 steps, 250 of 500
HOST_ENVS, HOST_EPISODES = 12, 20


def host_returns(name: str) -> dict[str, dict[str, Any]]:
    """What `evaluate_policy` says of an environment in JAX, for one outside it."""
    env = make_any(name)
    assert isinstance(env, HostEnvironment)
    results = {}
    for policy_name, played in play_host_references(env, 0, HOST_ENVS, HOST_EPISODES).items():
        returns = played.episode_return.mean(-1).ravel()
        results[policy_name] = {
            "return": returns.mean(),
            "return_std_error": returns.std(ddof=1) / returns.size**0.5,
            "return_per_agent": played.episode_return.mean((0, 1)).tolist(),
            "metrics": {metric: float(value.mean()) for metric, value in played.metrics.items()},
        }
    return results


def main() -> None:
    """Play every policy in every environment, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RETURNS)
    every = [*TASKS, *ORIGINALS]
    parser.add_argument("--only", nargs="+", choices=every, metavar="TASK", help="play these, keep the rest")
    asked = parser.parse_args()
    out, wanted = asked.out, asked.only or every
    returns: dict[str, dict] = json.loads(out.read_text())["returns"] if asked.only and out.exists() else {}
    for name, (env_name, options) in TASKS.items():
        if name not in wanted:
            continue
        env = envs_jax.make(env_name, **options)
        episodes = STEPS // env.spec.episode_limit
        returns[name] = {
            policy_name: evaluate_policy(env, policy, jax.random.key(number), episodes)
            for number, (policy_name, policy) in enumerate(reference_policies(env).items())
        }
    returns |= {name: host_returns(env_name) for name, env_name in ORIGINALS.items() if name in wanted}
    for name, policies in returns.items():
        for policy_name, result in policies.items():
            print(f"{name:12} {policy_name:10} {result['return']:8.2f} +- {result['return_std_error']:.2f}")
    unit = "sum of one agent's rewards over an episode, mean over agents"
    content = {
        "unit": unit,
        "steps": STEPS,
        "host_episodes": HOST_ENVS * HOST_EPISODES,
        "machine": describe_machine(),
        "returns": returns,
    }
    out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
