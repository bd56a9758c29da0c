"""Compares our MA-PPO with JaxMARL's own IPPO (feed-forward, its MPE defaults) on the same environment.

python experiments/benchmark/jaxmarl_ippo.py PATH/ippo_ff_mpe.py [--steps 10000000]

The file is `baselines/IPPO/ippo_ff_mpe.py` of JaxMARL's repository. JaxMARL's package does not contain it. It needs distrax.
Run the benchmark alone on the machine. Returns are per agent, averaged over agents; JaxMARL logs three times that. Seconds are
counted from the end of compilation, and compilation time is reported separately.
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax import registry as environments
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.training.config import TrainingConfig, make_schedule
from mamt_jax.training.run_folder import describe_machine
from mamt_jax.training.vectorized import make_runs, run_keys, stack_configs

ENVIRONMENT, NUM_AGENTS, EPISODE = "MPE_simple_spread_v3", 3, 26
# From baselines/IPPO/config/ippo_ff_mpe.yaml, except the number of steps.
NUM_ENVS, NUM_STEPS = 16, 128
THEIRS: dict[str, Any] = {"LR": 2.5e-4, "NUM_ENVS": NUM_ENVS, "NUM_STEPS": NUM_STEPS, "UPDATE_EPOCHS": 4, "NUM_MINIBATCHES": 4}
THEIRS |= {"GAMMA": 0.99, "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2, "ENT_COEF": 0.01, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.5}
THEIRS |= {"ACTIVATION": "tanh", "ANNEAL_LR": True, "ENV_NAME": ENVIRONMENT, "ENV_KWARGS": {}}
TRAINING: dict[str, Any] = {"num_envs": 256, "update_interval": 6400}
OURS: dict[str, Any] = {"share_policy": True, "gamma": 0.95, "gae_lambda": 0.9}
OURS |= {"policy_learning_rate": 2e-3, "critic_learning_rate": 2e-3}
SMOOTH, GOAL, SEED = 1000, -10.0, 30


class Curve(NamedTuple):
    """A training run. Each point has the seconds, the environment steps, and the mean return since the previous point."""

    compile_seconds: float
    seconds: np.ndarray
    env_steps: np.ndarray
    episode_return: np.ndarray


def load_theirs(path: Path) -> ModuleType:
    """Loads JaxMARL's script as a module, without its logging service and its command line."""
    for name, content in {
        "wandb": {},
        "hydra": {"main": lambda **_: lambda main: main},
        "omegaconf": {"OmegaConf": None},
    }.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
    spec = importlib.util.spec_from_file_location("ippo_ff_mpe", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"error: {path} does not exist: give the path of JaxMARL's baselines/IPPO/ippo_ff_mpe.py.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train_theirs(path: Path, steps: int) -> Curve:
    """Trains JaxMARL's IPPO, with one point per update."""
    module, log = load_theirs(path), []
    vars(module)["wandb"] = SimpleNamespace(
        log=lambda metric: log.append((time.perf_counter(), float(metric["returned_episode_returns"])))
    )
    config = THEIRS | {"TOTAL_TIMESTEPS": steps}
    begun = time.perf_counter()
    program = jax.jit(module.make_train(config)).lower(jax.random.PRNGKey(SEED)).compile()
    compiled = time.perf_counter()
    jax.block_until_ready(program(jax.random.PRNGKey(SEED)))
    jax.effects_barrier()
    when, returns = np.array(log).T
    env_steps = (1 + np.arange(len(log))) * NUM_ENVS * NUM_STEPS
    return Curve(compiled - begun, when - compiled, env_steps, returns / NUM_AGENTS)


def train_ours(name: str, steps: int, **options: Any) -> Curve:
    """Trains MA-PPO with its defaults except `TRAINING` and `OURS`, with one point per about `SMOOTH` episodes."""
    env = environments.make(name, **options)
    algorithm = algorithms.make("mappo", env.spec)
    training = TrainingConfig(**{**algorithm.training, **TRAINING, "episodes": -(-steps // EPISODE), "seed": SEED})
    schedule = make_schedule(training, EPISODE, algorithm.data)
    runs = make_runs(env, algorithm, training, schedule, 1)
    configs = stack_configs([algorithm.config(**OURS)])
    begun = time.perf_counter()
    states = runs.init(configs, run_keys([SEED]))
    states = jax.block_until_ready(runs.reset_sums(runs.advance(configs, states, jnp.int32(0), jnp.int32(0))))
    compiled = time.perf_counter()
    points = []
    count = max(1, SMOOTH * EPISODE // schedule.transitions)
    for first in range(0, schedule.total_iterations - count + 1, count):
        states = runs.advance(configs, states, jnp.int32(first), jnp.int32(count))
        episodes = jax.device_get(states.sums.episodes)
        points.append((time.perf_counter() - compiled, schedule.env_steps(first + count)))
        points[-1] += (float(episodes.episode_return.mean() / max(1, episodes.episodes[0])),)
        states = runs.reset_sums(states)
    return Curve(compiled - begun, *np.array(points).T)


def summarise(curve: Curve, goals: dict[str, float]) -> dict[str, Any]:
    """Speed, final return, and the seconds until the return first reaches each goal; None if it never does.

    Returns are means over about `SMOOTH` episodes.
    """
    per_point = (curve.env_steps[1] - curve.env_steps[0]) / EPISODE
    window = max(1, round(SMOOTH / per_point))
    smooth = np.convolve(curve.episode_return, np.ones(window) / window, "valid")
    seconds = curve.seconds[window - 1 :]
    reached = {name: np.flatnonzero(smooth >= goal) for name, goal in goals.items()}
    thinned = slice(window - 1, None, max(1, len(curve.seconds) // 100))
    return {
        "compile_seconds": curve.compile_seconds,
        "env_steps_per_second": curve.env_steps[-1] / curve.seconds[-1],
        "env_steps": int(curve.env_steps[-1]),
        "final_return": smooth[-1],
        "seconds_to": {name: float(seconds[hit[0]]) if len(hit) else None for name, hit in reached.items()},
        "curve": {
            "seconds": curve.seconds[thinned].tolist(),
            "env_steps": curve.env_steps[thinned].tolist(),
            "return": smooth[:: thinned.step].tolist(),
        },
    }


def main() -> None:
    """Trains both, prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ippo", type=Path, help="JaxMARL's ippo_ff_mpe.py")
    parser.add_argument("--steps", type=int, default=10_000_000, help="environment steps of each training (default 10000000)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "benchmark_jaxmarl_ippo.json")
    arguments = parser.parse_args()
    theirs = train_theirs(arguments.ippo, arguments.steps)
    ours = train_ours(f"jaxmarl/{ENVIRONMENT}", arguments.steps)
    own = train_ours("spread", arguments.steps, num_agents=NUM_AGENTS, episode_limit=EPISODE)
    last = summarise(theirs, {})["final_return"]
    goals = {"JaxMARL's final return": last, f"{GOAL:g}": GOAL}
    rows = {"JaxMARL's IPPO": theirs, "mappo": ours, "mappo on our Spread": own}
    command = f"python experiments/benchmark/jaxmarl_ippo.py ippo_ff_mpe.py --steps {arguments.steps}"
    result: dict[str, Any] = {"machine": describe_machine(), "command": command}
    result |= {"environment": ENVIRONMENT, "seed": SEED, "theirs": THEIRS, "ours": TRAINING | OURS}
    result["rows"] = {name: summarise(curve, goals) for name, curve in rows.items()}
    for name, row in result["rows"].items():
        print(name, {key: value for key, value in row.items() if key != "curve"})
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
