"""Compares the dependence that MAMT measured in training with the true dependence between agents.

python experiments/dependence.py RUN... [--out experiments/results/dependence.json]

A RUN is a folder of `mamt train --algo mamt --variant dependence` in an environment that knows which agents depend on each
other. Its latest policies play episodes with sampled actions. In every state the pairs of agents with a positive coefficient
are compared with the true pairs, by precision and recall. The sizes of trust regions are those of the last evaluation.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Environment
from envs_jax.wrappers import auto_reset
from mamt_jax.algorithms import actor_critic
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.dependence_trust_regions import measure
from mamt_jax.algorithms.mamt import MAMTState
from mamt_jax.running_statistics import normalise
from mamt_jax.training.checkpoint import load_checkpoint, newest_usable
from mamt_jax.training.experiment import Built, build
from mamt_jax.training.merge import read_experiment
from mamt_jax.training.run_folder import CHECKPOINTS, METRICS, describe_machine, read_rows
from mamt_jax.training.vectorized import run_keys, stack_configs
from mamt_jax.types import Config

RESULT = Path(__file__).parent / "results" / "dependence.json"
ENVS = 64


class Learner(NamedTuple):
    """The part of a checkpoint that holds the learner state; the field has the name that it has in the file."""

    learner_state: Any


def load_learners(folder: Path, built: Built) -> MAMTState:
    """Learner states of all runs of a folder, with a leading axis of runs."""
    configs, keys = stack_configs(built.configs), run_keys([0] * len(built.configs))
    like = Learner(jax.eval_shape(jax.vmap(built.algorithm.init), configs, keys))
    _, (learners, _), _ = newest_usable(folder / CHECKPOINTS, lambda path: load_checkpoint(path, like))
    return jax.tree.map(jnp.asarray, learners.learner_state)


def compare(env: Environment, built: Built, config: Config, learner: MAMTState, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Measured coefficients and true dependence (n, n, B) in the states of `ENVS` episodes."""
    assert env.dependence is not None
    playing, depends = auto_reset(env), jax.vmap(env.dependence)
    reset_key, steps_key, measure_key = jax.random.split(key, 3)

    def step(carry: Any, key: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        state, observation = carry
        act_key, env_key = jax.random.split(key)
        action = built.algorithm.act(config, learner, observation, act_key)
        after, timestep = jax.vmap(playing.step)(jax.random.split(env_key, ENVS), state, action)
        return (after, timestep.observation), (observation, depends(state))

    state, timestep = jax.vmap(playing.reset)(jax.random.split(reset_key, ENVS))
    keys = jax.random.split(steps_key, env.spec.episode_limit)
    observation, truth = jax.lax.scan(step, (state, timestep.observation), keys)[1]
    rows = normalise(learner.base.observation_statistics, observation.reshape(-1, *observation.shape[2:])).swapaxes(0, 1)
    nothing: Any = None
    batch = Batch(rows, nothing, nothing, nothing, nothing)
    parts = actor_critic.actor_critic(env.spec, config)
    found = measure(env.spec, config, parts, learner.base, batch, measure_key)
    return found.coordination, jnp.moveaxis(truth.reshape(-1, *truth.shape[2:]), 0, -1)


def scores(found: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Precision and recall of each agent's pairs; None where there is nothing to find or nothing was found."""
    edges = found > 0
    right, found_pairs, true_pairs = ((each.sum((1, 2))) for each in (edges & truth, edges, truth))

    def ratios(below: np.ndarray) -> list[float | None]:
        return [round(float(a / b), 3) if b else None for a, b in zip(right, below, strict=True)]

    mean = {"found": found.mean(-1).round(3).tolist(), "true": truth.mean(-1).round(3).tolist()}
    return {"precision": ratios(found_pairs), "recall": ratios(true_pairs), "coefficients": mean}


def of_folder(folder: Path) -> list[dict[str, Any]]:
    """One entry for each run of a folder."""
    experiment = read_experiment(folder)
    built = build(experiment)
    if not isinstance(built.env, Environment) or built.env.dependence is None:
        raise SystemExit(f"error: {experiment.env_name} does not know which agents depend on each other.")
    learners, last = load_learners(folder, built), read_rows(folder / METRICS)[-len(built.configs) :]
    entries = []
    for run, (config, row) in enumerate(zip(built.configs, last, strict=True)):
        learner = jax.tree.map(lambda leaf, run=run: leaf[run], learners)
        found, truth = jax.jit(lambda learner, config=config: compare(built.env, built, config, learner, jax.random.key(0)))(
            learner
        )
        about = {
            "env": built.env.spec.name,
            "seed": row["seed"],
            "updates": row["updates"],
            "return": round(row["eval_return"], 2),
        }
        sizes = {name: row[name] for name in ("epsilon", "joint_divergence")}
        entries.append(about | sizes | scores(np.asarray(found), np.asarray(truth)))
    return entries


def main() -> None:
    """Measures all runs, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    entries = [entry for folder in asked.runs for entry in of_folder(folder)]
    for entry in entries:
        print(json.dumps(entry))
    asked.out.write_text(json.dumps({"machine": describe_machine(), "runs": entries}, indent=1) + "\n")


if __name__ == "__main__":
    main()
