"""Returns of the reference policies of every environment: random, do nothing, scripted.

python experiments/reference_returns.py [--out experiments/results/reference_returns.json]
"""

import argparse
import json
from pathlib import Path

import jax

import envs_jax
from envs_jax.reference_policies import evaluate_policy, reference_policies
from mamt_jax.training.writers import describe_machine

STEPS = 125_000  # an environment: 5,000 episodes of 25 steps, 250 of 500


def main() -> None:
    """Play every policy in every environment, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reference_returns.json")
    out = parser.parse_args().out
    returns: dict[str, dict] = {}
    for name in envs_jax.environment_names():
        env = envs_jax.make(name)
        episodes = STEPS // env.spec.episode_limit
        for number, (policy_name, policy) in enumerate(reference_policies(env).items()):
            result = evaluate_policy(env, policy, jax.random.key(number), episodes)
            returns.setdefault(name, {})[policy_name] = result
            print(f"{name:12} {policy_name:10} {result['return']:8.2f} +- {result['return_std_error']:.2f}")
    unit = "sum of one agent's rewards over an episode, mean over agents"
    content = {"unit": unit, "steps": STEPS, "machine": describe_machine(), "returns": returns}
    out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
