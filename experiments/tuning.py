"""Finds the defaults of `mamt train`. All algorithms of a task get the same number of trials and the same CPU time.

python experiments/tuning.py --list                       # every pair: its trials and the best options so far
python experiments/tuning.py                              # makes the trials that are missing, one after another
python experiments/tuning.py rover_tower/maac spread/lola # those of these pairs

The first trial of a pair has the options of `START` and `FIRST`. Each further trial changes the best options so far along one
axis of `AXES`, in order. A change is kept if the score is higher. A trial is one run on one CPU core. It is killed after
`SECONDS` of CPU time. Its score is the mean return of its evaluations, which rewards fast learning. Trials are kept under
experiments/results/trials. The field `rejected` of a trial says why its options are not the defaults.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mamt_jax.presets import REPLAY
from mamt_jax.training.run_folder import METRICS, describe_machine, read_rows

TRIALS = Path(__file__).parent / "results" / "trials"
SEED = 100
"""Seed of all trials. Results use other seeds."""

KILLED = (-signal.SIGKILL, -signal.SIGXCPU)
"""Exit codes of a run whose CPU time is used up."""

Options = Mapping[str, Any]

TASKS: dict[str, Options] = {
    "rover_tower": {"env": "rover_tower"},
    "spread": {"env": "spread"},
    "spread_n3": {"env": "spread", "num_agents": 3},
    "spread3_mix": {"env": "spread3_mix"},
    "pursuit": {"env": "pursuit", "evaluation_episodes": 20},
    "multiwalker": {"env": "multiwalker", "evaluation_episodes": 24},
}
SECONDS = {"rover_tower": 120, "spread": 60, "spread_n3": 90, "spread3_mix": 60, "pursuit": 150, "multiwalker": 400}
"""CPU seconds of a trial, compilation included."""
STEPS_BETWEEN_EVALUATIONS = {"replay": 60_000, "rollout": 250_000}
EPISODE_STEPS = {"pursuit": 500, "multiwalker": 500}

_MAAC = REPLAY | {"policy_gradient": "expected"}
_ROLLOUT = {"num_envs": 128, "update_interval": 3200, "gamma": 0.95, "gae_lambda": 0.9}
START: dict[str, Options] = {
    "maac": _MAAC,
    "mamd": _MAAC | {"epsilon": 30.0},
    "mamt": _MAAC | {"epsilon": 30.0, "trust_region_batch_size": 32},
    "maddpg": REPLAY | {"temperature": 0.3},
    "mappo": _ROLLOUT | {"share_policy": True, "policy_learning_rate": 2e-3, "critic_learning_rate": 2e-3},
    "lola": _ROLLOUT | {"lookahead": 0.003, "policy_learning_rate": 1e-3, "critic_learning_rate": 1e-3},
}
_WALKERS = {
    "num_envs": 12,
    "update_interval": 48,
    "num_updates": 1,
    "gamma": 0.99,
    "tau": 0.01,
    "policy_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
}
_THREE = {"num_envs": 480, "update_interval": 4000, "gamma": 0.9}
FIRST: dict[str, Options] = {
    "pursuit": {"shared_reward": False, "share_policy": True, "evaluation_policy": "sampled"},
    "multiwalker": {"reward_normalisation": "scale"},
    **dict.fromkeys(("spread_n3/mamd", "spread_n3/mamt", "spread3_mix/mamd", "spread3_mix/mamt", "spread3_mix/maddpg"), _THREE),
    **dict.fromkeys(("spread_n3/maac", "spread3_mix/maac"), _THREE | {"reward_scale": 10.0}),
    "spread_n3/maddpg": {"gamma": 0.9},
    "spread3_mix/mappo": {"share_policy": False},
    "pursuit/mappo": {"num_envs": 64},
    **dict.fromkeys(("pursuit/maac", "pursuit/mamd", "pursuit/mamt"), {"share_critic": True}),
    **dict.fromkeys(("multiwalker/maac", "multiwalker/mamd", "multiwalker/mamt"), _WALKERS | {"num_action_samples": 4}),
    "multiwalker/maddpg": _WALKERS,
    "multiwalker/mappo": {
        "num_envs": 512,
        "update_interval": 32_768,
        "gamma": 0.99,
        "policy_learning_rate": 7e-4,
        "critic_learning_rate": 1e-3,
        "num_epochs": 3,
        "num_minibatches": 8,
    },
}
"""First options of tasks and pairs for which better ones were known. They override `START`."""

Axis = Callable[[Options], Options]
"""(first options of a pair) -> the options that the axis changes."""


def scaled(factor: float, *names: str) -> Axis:
    """Multiplies options by a factor."""
    return lambda options: {name: type(options[name])(options[name] * factor) for name in names}


def fixed(**values: Any) -> Axis:
    """Sets options to fixed values."""
    return lambda options: values


def either(name: str, one: Any, two: Any) -> Axis:
    """Sets an option to `one`, or to `two` if the first options already have `one`."""
    return lambda options: {name: two if options.get(name) == one else one}


def switched(*names: str) -> Axis:
    """Negates boolean options, which are False if the first options do not have them."""
    return lambda options: {name: not options.get(name, False) for name in names}


_RATES = ("policy_learning_rate", "critic_learning_rate")
_SPEED = {"both rates x 2": scaled(2.0, *_RATES), "both rates / 2": scaled(0.5, *_RATES)}
_REPLAY_AXES = _SPEED | {
    "tau x 2.5": scaled(2.5, "tau"),
    "updates x 2": scaled(2, "num_updates"),
    "gamma 0.99 or 0.95": either("gamma", 0.99, 0.95),
}
_SHARED = {"shared or separate networks": switched("share_policy", "share_critic")}
_ROLLOUT_AXES = _SPEED | {
    "environments x 4": scaled(4, "num_envs", "update_interval"),
    "lambda 0.95": fixed(gae_lambda=0.95),
    "gamma 0.99 or 0.95": either("gamma", 0.99, 0.95),
    "entropy 0.003": fixed(entropy_coefficient=0.003),
}
AXES: dict[str, dict[str, Axis]] = {
    "maac": _REPLAY_AXES | _SHARED | {"reward scale 300": fixed(reward_scale=300.0)},
    "mamd": _REPLAY_AXES | _SHARED | {"epsilon 100": fixed(epsilon=100.0)},
    "mamt": _REPLAY_AXES | _SHARED | {"epsilon 100": fixed(epsilon=100.0)},
    "maddpg": _REPLAY_AXES | {"shared or separate networks": switched("share_policy"), "temperature 1": fixed(temperature=1.0)},
    "mappo": _ROLLOUT_AXES | {"value clip 10": fixed(value_clip_eps=10.0)},
    "lola": _ROLLOUT_AXES | {"lookahead 0.01": fixed(lookahead=0.01)},
}


def pairs() -> list[str]:
    """All pairs of a task and an algorithm. LOLA has a single task, since it needs two agents."""
    return [f"{task}/{algo}" for task in TASKS for algo in START if algo != "lola" or task == "spread"]


def read_trials(pair: str) -> list[dict[str, Any]]:
    """The trials of a pair so far."""
    path = TRIALS / f"{pair}.json"
    return json.loads(path.read_text())["trials"] if path.exists() else []


def first_options(pair: str) -> Options:
    """The options of a pair's first trial."""
    task, _, algo = pair.rpartition("/")
    return {**START[algo], **FIRST.get(task, {}), **FIRST.get(pair, {})}


def best_options(trials: list[dict[str, Any]]) -> Options:
    """The options of the highest score that was not rejected afterwards; of equal scores the earliest."""
    return max((trial for trial in trials if "rejected" not in trial), key=lambda trial: trial["score"])["options"]


def next_options(pair: str) -> Options | None:
    """The options of a pair's next trial; None if all trials are done."""
    algo, trials = pair.rpartition("/")[2], read_trials(pair)
    first = first_options(pair)
    if not trials:
        return first
    if len(trials) > len(AXES[algo]):
        return None
    best, axis = best_options(trials), list(AXES[algo].values())[len(trials) - 1]
    return {**best, **axis(first)}


def words(options: Options) -> Iterator[str]:
    """Converts options to the words of a command line."""
    for name, value in options.items():
        yield from (f"--{name.replace('_', '-')}", str(value))


def run_trial(pair: str, options: Options, work: Path) -> dict[str, Any]:
    """Trains one run until its CPU time is used up; returns the trial."""
    task, _, algo = pair.rpartition("/")
    folder = work / f"{task}-{algo}-{len(read_trials(pair))}"
    shutil.rmtree(folder, ignore_errors=True)  # left by a trial that was stopped
    steps = STEPS_BETWEEN_EVALUATIONS["rollout" if algo in ("mappo", "lola") else "replay"]
    common = {"algo": algo, "preset": "paper", "seed": SEED, "episodes": 10**6, "out": folder}
    common |= {"evaluation_interval": steps // EPISODE_STEPS.get(task, 25)}

    command = [sys.executable, "-m", "mamt_jax", "train", *words({**TASKS[task], **common, **options})]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (SECONDS[task], SECONDS[task]))
    if process.returncode not in KILLED:
        raise SystemExit(f"error: {shlex.join(command)} ended with exit code {process.returncode}.")
    return summarise(options, read_rows(folder / METRICS))


def summarise(options: Options, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of a trial in its results file."""
    returns = [row["eval_return"] for row in rows]
    last = rows[-1] if rows else {"updates": 0, "env_steps": 0}
    return {
        "options": dict(options),
        "score": round(sum(returns) / len(returns), 3) if returns else float("-inf"),
        "updates": last["updates"],
        "env_steps": last["env_steps"],
        "eval_return": [round(value, 2) for value in returns],
    }


def make_trials(pair: str, work: Path) -> None:
    """Runs the missing trials of a pair."""
    while (options := next_options(pair)) is not None:
        trial = run_trial(pair, options, work)
        path = TRIALS / f"{pair}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"cpu_seconds": SECONDS[pair.rpartition("/")[0]], "seed": SEED, "machine": describe_machine()}
        path.write_text(json.dumps(content | {"trials": [*read_trials(pair), trial]}, indent=1) + "\n")
        print(pair, trial["score"], {name: value for name, value in trial["options"].items()}, flush=True)


def main() -> None:
    """Lists trials or runs those that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="TASK/ALGO", help="pairs to tune (default: all)")
    parser.add_argument("--list", action="store_true", help="print the trials instead of running them")
    parser.add_argument("--core", type=int, help="the CPU core to run on")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/tuning"), metavar="DIR", help="folder of the runs (default runs/tuning)"
    )
    asked = parser.parse_args()
    if unknown := [pair for pair in asked.pairs if pair not in pairs()]:
        parser.error(f"there is no pair {unknown[0]}: give one or more of {', '.join(pairs())}.")
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})
    for pair in asked.pairs or pairs():
        if asked.list:
            trials = read_trials(pair)
            scores = ", ".join(f"{trial['score']:g}" for trial in trials)
            print(f"{pair}: {scores or 'no trials'}{f'; best {dict(best_options(trials))}' if trials else ''}")
        else:
            make_trials(pair, asked.work)


if __name__ == "__main__":
    main()
