"""Measures the returns of the reference policies in every environment: random, do nothing, scripted.

python experiments/reference_returns.py [--out mamt_jax/reference_returns.json]
"""

import argparse
import json
from pathlib import Path

import jax

from envs_jax.environment import HostEnvironment
from envs_jax.reference_policies import reference_policies
from envs_jax.registry import make_any
from envs_jax.rollout import evaluate_policies
from mamt_jax.training.references import ORIGINALS, RETURNS, TASKS
from mamt_jax.training.run_folder import describe_machine

STEPS = 125_000  # per environment: 5,000 episodes of 25 steps, or 250 of 500
HOST_EPISODES = 240


def main() -> None:
    """Plays every policy in every environment, prints the returns and writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RETURNS)
    every = [*TASKS, *ORIGINALS]
    parser.add_argument(
        "--only", nargs="+", choices=every, metavar="TASK", help="play only these tasks and keep the other results"
    )
    asked = parser.parse_args()
    out, wanted = asked.out, asked.only or every
    returns: dict[str, dict] = json.loads(out.read_text())["returns"] if asked.only and out.exists() else {}
    for name, (env_name, options) in (TASKS | {name: (env_name, {}) for name, env_name in ORIGINALS.items()}).items():
        if name in wanted:
            env = make_any(env_name, **options)
            episodes = HOST_EPISODES if isinstance(env, HostEnvironment) else STEPS // env.spec.episode_limit
            returns[name] = evaluate_policies(env, reference_policies(env), jax.random.key(0), episodes)
    for name, policies in returns.items():
        for policy_name, result in policies.items():
            print(f"{name:12} {policy_name:10} {result['return']:8.2f} +- {result['return_std_error']:.2f}")
    unit = "sum of one agent's rewards over an episode, mean over agents"
    content = {
        "unit": unit,
        "steps": STEPS,
        "host_episodes": HOST_EPISODES,
        "machine": describe_machine(),
        "returns": returns,
    }
    out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
