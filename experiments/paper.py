"""Holds the command of every committed run, and trains the runs that are missing under experiments/results.

python experiments/paper.py --list             # every run, its command and, where it is committed, its hours
python experiments/paper.py                    # trains what is missing; after Ctrl-C the same command goes on
python experiments/paper.py tuned/spread/maac  # trains this one again, and replaces its results
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from mamt_jax.algorithms.registry import algorithm_names
from mamt_jax.training.run_folder import BEST, CONFIG, METRICS, read_rows

RESULTS = Path(__file__).parent / "results"
POLICIES = ("multiwalker/mappo", "multiwalker/mappo_events", "multiwalker_original/mappo_shared", "pursuit/mappo_local_shared")
"""Runs whose best policies are also kept."""
ATTENTION = ("maac", "mamd", "mamt")

_SHORT = "--seeds 3 --episodes 4008 --evaluation-interval 240"
_SPREAD = "--seeds 3 --episodes 8000"
_SPREAD_3 = "--seeds 3 --batch-size 256 --episodes 2000 --hidden-size 64 --evaluation-interval 100"
_SPREAD_3_MIX = "--seeds 4 --batch-size 256 --episodes 3000 --evaluation-interval 150"
_MADDPG = "--seeds 3 --hidden-size 64 --gamma 0.95 --temperature 0.5 --num-envs 128 --update-interval 800 --batch-size 512"
_MAPPO = "--gamma 0.95 --gae-lambda 0.9 --policy-learning-rate 2e-3 --critic-learning-rate 2e-3"
_LOLA = "--hidden-size 16 --gamma 0.96 --episodes 40000 --evaluation-interval 2560"
_LONG = "--evaluation-interval 4000 --evaluation-episodes 1000 --episodes 80000"
_LONGER = "--evaluation-interval 20000 --evaluation-episodes 1000"
_PURSUIT = "--evaluation-interval 200 --evaluation-episodes 20"
_PURSUIT_REPLAY = f"--seeds 3 --episodes 588 --batch-size 256 --update-interval 400 --buffer-size 300000 {_PURSUIT}"
_WALKERS = "--batch-size 256 --buffer-size 300000 --episodes 1000 --evaluation-interval 50 --evaluation-episodes 24"
_WALKERS_MAPPO = (
    "--share-policy True --update-interval 32768 --gamma 0.99 --policy-learning-rate 7e-4 --critic-learning-rate 1e-3 "
    "--entropy-coefficient 0.003 --num-epochs 3 --num-minibatches 8 --reward-normalisation scale"
)
_WALKERS_LONG = f"{_WALKERS_MAPPO} --num-envs 512 --episodes 60000 --evaluation-interval 3000 --evaluation-episodes 32"
_EXPECTED = "--policy-gradient expected --num-action-samples 4"
_ORIGINAL = f"{_EXPECTED} --batch-size 256 --update-interval 20 --num-updates 1 --buffer-size 300000"
_ORIGINAL_LENGTH = "--episodes 400 --evaluation-interval 40"
_TUNED = "--hidden-size 64 --batch-size 256 --tau 0.01"
_TUNED_MADDPG = "--hidden-size 64 --batch-size 256 --gamma 0.95 --temperature 0.3"
_TUNED_MAPPO = f"--hidden-size 64 {_MAPPO} --num-envs 32 --update-interval 800"
_ROVERS = "--evaluation-episodes 200 --episodes 4000 --evaluation-interval 200"
_ROVERS_MAMT = f"{_TUNED} {_ROVERS} --epsilon 30"
_COVER = "--evaluation-episodes 200 --episodes 5000 --evaluation-interval 250"
_COVER_MAMT = f"{_TUNED} {_COVER} --epsilon 30"
_COVER_LOLA = "--gamma 0.95 --num-envs 128 --update-interval 3200 --seeds 10 --episodes 5000 --evaluation-interval 256"
_CATCH = "--seeds 5 --episodes 588 --evaluation-interval 49 --evaluation-episodes 20"
_CATCH_REPLAY = f"{_CATCH} --update-interval 400 --buffer-size 300000"
_LOCAL = "--shared-reward False"
_WALK = f"--seeds 5 {_TUNED} {_EXPECTED} --update-interval 48 --num-updates 1 {_WALKERS}"
_TRIAL = "--evaluation-episodes 200 --seed 100 --seeds 2"
_ROVERS_TRIAL = f"{_TRIAL} --episodes 4000 --evaluation-interval 1000"
_MAPPO_TRIAL = f"{_TRIAL} --episodes 4000 --evaluation-interval 1024 --hidden-size 64 {_MAPPO}"
_LOLA_TRIAL = f"{_TRIAL} --episodes 5000 --evaluation-interval 1024 --gamma 0.95 --lookahead 0.003"
_ROLLOUTS = {envs: f"--num-envs {envs} --update-interval {25 * envs}" for envs in (8, 32, 128)}

_MAAC_DEFAULTS = (
    "--seeds 5 --num-envs 120 --update-interval 1000 --num-updates 4 --hidden-size 64 --batch-size 256 --gamma 0.95 --tau 0.05 "
    "--policy-learning-rate 4e-3 --critic-learning-rate 6e-3 --policy-gradient expected --episodes 36000 "
    "--evaluation-interval 1200"
)
_MAAC_THREE = (
    "--seeds 3 --num-envs 480 --update-interval 4000 --num-updates 4 --hidden-size 64 --batch-size 256 --gamma 0.9 --tau 0.02 "
    "--policy-learning-rate 1e-3 --critic-learning-rate 1.5e-3 --policy-gradient expected --reward-scale 10 "
    "--episodes 280000 --evaluation-interval 14000"
)
_ROWS = f"{_MAAC_DEFAULTS} --epsilon 100 --trust-region-batch-size"

CAMPAIGN: dict[str, dict[str, str]] = {
    "rover_tower": {
        **dict.fromkeys(ATTENTION, _SHORT),
        "maac_bfloat16": f"{_SHORT} --seeds 2 --precision bfloat16 --episodes 1920",
        "maac_expected": f"{_SHORT} --seeds 2 --policy-gradient expected",
        "mamd_epsilon_1": f"{_SHORT} --seeds 2 --epsilon 1",
        "maddpg": f"{_MADDPG} --episodes 20000 --evaluation-interval 2000",
        "mappo": f"--seeds 3 {_MAPPO} --episodes 40000 --evaluation-interval 2000",
        "mappo_shared": f"--seeds 3 {_MAPPO} --episodes 40000 --evaluation-interval 2000 --share-policy True",
    },
    "spread": {
        **dict.fromkeys(ATTENTION, _SPREAD),
        "lola": f"--seeds 3 --lookahead 0.003 --gamma 0.95 {_LONG}",
        "lola_naive": f"--seeds 3 --lookahead 0 --gamma 0.95 {_LONG}",
        "maddpg": f"{_MADDPG} {_LONG}",
        "mappo": f"--seeds 3 --gamma 0.95 --gae-lambda 0.9 {_LONG}",
    },
    "spread_n3": {
        **dict.fromkeys(ATTENTION, _SPREAD),
        "maddpg": f"{_MADDPG} {_LONGER} --episodes 300000",
        "maddpg_shared": f"{_MADDPG} {_LONGER} --episodes 300000 --share-policy True",
        "mappo": f"--seeds 3 {_MAPPO} {_LONGER} --episodes 160000",
        "mappo_shared": f"--seeds 3 {_MAPPO} {_LONGER} --episodes 400000 --share-policy True",
        "mappo_annealed": f"--seeds 3 {_MAPPO} --share-policy True --entropy-coefficient 0.005 --lr-decay-updates 7800 "
        "--episodes 1000000 --evaluation-interval 50000 --evaluation-episodes 1000",
    },
    "spread3_sep": dict.fromkeys(ATTENTION, _SPREAD_3),
    "spread3_mix": dict.fromkeys((*ATTENTION, "mamd_op"), _SPREAD_3_MIX),
    "spread3_ful": dict.fromkeys(ATTENTION, _SPREAD_3),
    "matrix_game": {"lola": f"--seeds 10 --lookahead 1 {_LOLA}", "lola_naive": f"--seeds 5 --lookahead 0 {_LOLA}"},
    "pursuit": {
        **dict.fromkeys(ATTENTION, _PURSUIT_REPLAY),
        "maddpg": f"{_MADDPG} --num-envs 32 --buffer-size 300000 --episodes 1984 {_PURSUIT}",
        "mappo": f"--seeds 3 --episodes 4000 {_PURSUIT}",
        "mappo_shared": "--share-policy True --episodes 3968 --lr-decay-updates 2500 --evaluation-interval 1000 "
        "--evaluation-episodes 20",
        "mappo_local": f"{_LOCAL} --episodes 3916 --lr-decay-updates 1250 --evaluation-interval 250 --evaluation-episodes 20",
        "mappo_local_shared": f"{_LOCAL} --share-policy True --seeds 3 --episodes 8000 --lr-decay-updates 1250 "
        "--evaluation-interval 250 --evaluation-episodes 20",
    },
    "multiwalker_original": {
        "maac": f"--seeds 2 {_ORIGINAL} --tau 0.01 {_ORIGINAL_LENGTH} --evaluation-episodes 24",
        "mamt": f"--seeds 2 {_ORIGINAL} --tau 0.01 {_ORIGINAL_LENGTH} --evaluation-episodes 24",
        "maac_tau": f"{_ORIGINAL} --tau 0.002 0.01 {_ORIGINAL_LENGTH} --evaluation-episodes 12",
        "mappo": f"--seeds 2 --num-envs 12 --update-interval 2400 {_ORIGINAL_LENGTH} --evaluation-episodes 24",
        "mappo_shared": f"{_WALKERS_MAPPO} --num-envs 64 --processes 1 --episodes 8248 --evaluation-interval 1000 "
        "--evaluation-episodes 16",
    },
    "multiwalker": {
        **dict.fromkeys(ATTENTION, f"--seeds 3 {_WALKERS}"),
        "maddpg": f"--seeds 5 --hidden-size 64 --gamma 0.95 --num-envs 12 --update-interval 48 --num-updates 1 {_WALKERS}",
        "mappo": f"--seeds 2 {_WALKERS_LONG}",
        "mappo_events": f"--original-rules True --seeds 3 {_WALKERS_LONG}",
    },
    "tuned/rover_tower": {
        "maac": f"--seeds 10 {_TUNED} {_ROVERS}",
        "maac_expected": f"--seeds 10 {_TUNED} {_ROVERS} --policy-gradient expected",
        "maac_long": f"--seeds 5 {_TUNED} --evaluation-episodes 200 --episodes 14172 --evaluation-interval 400",
        "maddpg": f"--seeds 10 {_TUNED_MADDPG} {_ROVERS}",
        "mamd": f"--seeds 10 {_ROVERS_MAMT}",
        **{f"mamd_epsilon_{size}": f"--seeds 5 {_TUNED} {_ROVERS} --epsilon {size}" for size in (1, 3, 10, 100, 300)},
        "mamd_tsallis_1": f"--seeds 10 {_ROVERS_MAMT} --tsallis-q 1",
        "mamt": f"--seeds 10 {_ROVERS_MAMT}",
        "mamt_coordination_values": f"--seeds 5 {_ROVERS_MAMT} --coordination values",
        "mamt_divergence_policies": f"--seeds 5 {_ROVERS_MAMT} --divergence policies",
        "mamt_frozen": f"--seeds 5 {_ROVERS_MAMT} --epsilon-learning-rate 0",
        "mamt_linear": f"--seeds 4 {_ROVERS_MAMT} --epsilon-space linear --epsilon-learning-rate 0.03",
        "mamt_threshold_0.05": f"--seeds 10 {_ROVERS_MAMT} --coordination-threshold 0.05",
        "mamt_value_weight_0": f"--seeds 5 {_ROVERS_MAMT} --value-weight 0",
        "mappo": f"--seeds 10 {_TUNED_MAPPO} {_ROVERS}",
    },
    "tuned/spread": {
        "maac": f"--seeds 10 {_TUNED} {_COVER}",
        "maac_expected": f"--seeds 10 {_TUNED} {_COVER} --policy-gradient expected",
        "maddpg": f"--seeds 10 {_TUNED_MADDPG} {_COVER}",
        "mamd": f"--seeds 10 {_COVER_MAMT}",
        "mamd_tsallis_1": f"--seeds 10 {_COVER_MAMT} --tsallis-q 1",
        "mamt": f"--seeds 5 {_COVER_MAMT}",
        "mamt_divergence_policies": f"--seeds 5 {_COVER_MAMT} --divergence policies",
        "mamt_value_weight_0": f"--seeds 5 {_COVER_MAMT} --value-weight 0",
        "mappo": f"--seeds 10 {_TUNED_MAPPO} {_COVER}",
        "lola": f"{_COVER_LOLA} --lookahead 0.003 --evaluation-episodes 200",
        "lola_naive": f"{_COVER_LOLA} --lookahead 0 --evaluation-episodes 200",
    },
    "tuned/pursuit": {
        "maac": f"{_TUNED} {_CATCH_REPLAY}",
        "maac_local": f"{_LOCAL} {_TUNED} {_CATCH_REPLAY}",
        **dict.fromkeys(("mamd", "mamt"), f"{_TUNED} --epsilon 30 {_CATCH_REPLAY}"),
        **dict.fromkeys(("mamd_local", "mamt_local"), f"{_LOCAL} {_TUNED} --epsilon 30 {_CATCH_REPLAY}"),
        "maddpg": f"{_TUNED_MADDPG} {_CATCH_REPLAY}",
        "mappo": f"{_TUNED_MAPPO} {_CATCH}",
    },
    "tuned/multiwalker": {"maac": _WALK, **dict.fromkeys(("mamd", "mamt"), f"{_WALK} --epsilon 30")},
    "tuning/rover_tower": {
        "maac": f"{_TUNED} {_ROVERS_TRIAL} --reward-scale 30 100 300",
        **dict.fromkeys(("mamd", "mamt"), f"{_TUNED} {_ROVERS_TRIAL} --epsilon 3 10 30"),
        "maddpg": f"--hidden-size 64 --batch-size 256 --gamma 0.95 {_ROVERS_TRIAL} --temperature 0.3 0.5 1",
        **{f"mappo_num_envs_{envs}": f"{_MAPPO_TRIAL} {rollouts}" for envs, rollouts in _ROLLOUTS.items()},
    },
    "rows/rover_tower": {f"mamt_rows_{rows}": f"{_ROWS} {rows}" for rows in (32, 128)},
    "differences/rover_tower": {
        "maac": _MAAC_DEFAULTS,
        "maac_normalised_actions": f"{_MAAC_DEFAULTS} --algo maac_differences:normalised_actions",
        "maac_scaled_encoders": f"{_MAAC_DEFAULTS} --algo maac_differences:scaled_encoders",
    },
    "differences/spread_n3": {
        "maac": _MAAC_THREE,
        "maac_gamma_0.95": f"{_MAAC_THREE} --gamma 0.95",
        "maac_normalised_actions": f"{_MAAC_THREE} --algo maac_differences:normalised_actions",
        "maac_num_envs_120": f"{_MAAC_THREE} --num-envs 120 --update-interval 1000 --episodes 70000 --evaluation-interval 3500",
        "maac_reward_scale_100": f"{_MAAC_THREE} --reward-scale 100",
    },
    "tuning/spread": {f"lola_num_envs_{envs}": f"{_LOLA_TRIAL} {rollouts}" for envs, rollouts in _ROLLOUTS.items()},
}
"""Options of each run by folder and name. A name begins with its algorithm. The last value of a repeated option counts."""
TASKS = {"spread_n3": "spread --num-agents 3", "multiwalker_original": "pettingzoo/multiwalker"}
"""Environments of folders that do not have the environment's name."""


def commands() -> dict[str, list[str]]:
    """The options of `mamt train` for each run, by its folder under experiments/results."""
    found = {}
    for folder, runs in CAMPAIGN.items():
        task = folder.rpartition("/")[2]
        for name, options in runs.items():
            algo = max((each for each in algorithm_names() if name.startswith(each)), key=len)
            words = f"--env {TASKS.get(task, task)} --algo {algo} --preset paper {options}"
            found[f"{folder}/{name}"] = shlex.split(words)
    return found


def describe(name: str, options: list[str]) -> str:
    """The command of a run, and the hours that it took."""
    rows = read_rows(RESULTS / name / METRICS)
    hours = f"{max(row['wall_seconds'] for row in rows) / 3600:.2f} hours" if rows else "missing"
    return f"{name}: {hours}\n  mamt train {shlex.join(options)}"


def train(name: str, options: list[str], work: Path) -> None:
    """Starts or resumes a run in a folder under `work`, and copies the files that the results need."""
    folder = work / name
    arguments = ["--resume", str(folder)] if (folder / CONFIG).exists() else [*options, "--out", str(folder)]
    finding_ours = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}  # maac_differences
    done = subprocess.run([sys.executable, "-m", "mamt_jax", "train", *arguments], env=finding_ours)
    if done.returncode:
        sys.exit(done.returncode)
    (RESULTS / name).mkdir(parents=True, exist_ok=True)
    for file in (CONFIG, METRICS, *([BEST] if name in POLICIES else [])):
        shutil.copy(folder / file, RESULTS / name / file)


def main() -> None:
    """Lists or trains the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = commands()
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs to train (default: those without results)")
    parser.add_argument("--list", action="store_true", help="print the runs instead of training them")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/paper"), metavar="DIR", help="folder of the runs (default runs/paper)"
    )
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in runs]:
        parser.error(f"there is no run {unknown[0]}: --list prints all runs.")
    if asked.list:
        print("\n".join(describe(name, runs[name]) for name in asked.names or runs))
        return
    for name in asked.names or [name for name in runs if not (RESULTS / name / METRICS).exists()]:
        train(name, runs[name], asked.work)


if __name__ == "__main__":
    main()
