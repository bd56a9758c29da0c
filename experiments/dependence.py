"""Compares the dependence that MAMT measured in training with the true dependence between agents.

python experiments/dependence.py RUN... [--out experiments/results/dependence.json]

A RUN is a folder of `mamt train --algo mamt --variant dependence` in an environment that knows which agents depend on each
other. Its latest policies play episodes with sampled actions. In every state the pairs of agents with a positive coefficient
are compared with the true pairs, by precision, recall and false positive rate. The result also has the course of training:
sizes of trust regions, coefficients, returns and divergences.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Environment
from envs_jax.wrappers import auto_reset
from mamt_jax.algorithms import actor_critic
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.dependence_trust_regions import dependence, measure
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
SCORES = ("precision", "recall", "false_positive_rate")
HISTORY = ("updates", "epsilon", "joint_divergence")


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
    """Precision, recall and false positive rate of each agent's pairs; None where there are no pairs of the kind."""
    edges, others = found > 0, ~np.eye(len(found), dtype=bool)[..., None]

    def ratios(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
        sums = zip(part.sum((1, 2)), whole.sum((1, 2)), strict=True)
        return [round(float(a / b), 3) if b else None for a, b in sums]

    return {
        "precision": ratios(edges & truth, edges),
        "recall": ratios(edges & truth, truth),
        "false_positive_rate": ratios(edges & ~truth, others & ~truth),
    }


def history(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The course of training, without the evaluation before the first update."""
    learnt = [row for row in rows if row["updates"]]
    names = {name: name for name in HISTORY} | {"eval_return": "return", "coordination_mean": "coordination"}
    return {shown: [np.round(row[name], 3).tolist() for row in learnt] for name, shown in names.items()}


def of_folder(folder: Path) -> list[dict[str, Any]]:
    """One entry for each run of a folder."""
    experiment = read_experiment(folder)
    built = build(experiment)
    env, variant = built.env, getattr(built.configs[0], "variant", None)
    if variant is not dependence:
        raise SystemExit(f"error: {folder} is not a run of `--algo mamt --variant dependence`.")
    if not isinstance(env, Environment) or env.dependence is None:
        raise SystemExit(f"error: {folder} was trained on {experiment.env_name}, which does not know who depends on whom.")
    learners, rows = load_learners(folder, built), read_rows(folder / METRICS)
    entries, play = [], jax.jit(functools.partial(compare, env, built))
    for run, config in enumerate(built.configs):
        learner = jax.tree.map(lambda leaf, run=run: leaf[run], learners)
        measured = play(config, learner, jax.random.key(0))
        own = [row for row in rows if row["run"] == run]
        about = {
            "env": env.spec.name,
            "seed": own[0]["seed"],
            "agents": env.spec.agent_names,
            "target": config.target_divergence,
        }
        entries.append(about | scores(*map(np.asarray, measured)) | {"history": history(own)})
    return entries


def main() -> None:
    """Measures all runs, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    entries = [entry for folder in asked.runs for entry in of_folder(folder)]
    for entry in entries:
        print(entry["env"], entry["seed"], {name: entry[name] for name in SCORES}, flush=True)
    lines = ",\n  ".join(map(json.dumps, entries))
    machine = json.dumps(describe_machine())
    asked.out.write_text(f'{{"machine": {machine},\n "runs": [\n  {lines}\n]}}\n')


if __name__ == "__main__":
    main()
