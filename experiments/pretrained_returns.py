"""Measures the returns of the included trained policies, and prints the tables of mamt_jax/pretrained/README.md.

python experiments/pretrained_returns.py           # plays them again and writes mamt_jax/pretrained/returns.json
python experiments/pretrained_returns.py --only rover_tower/mamt  # that policy; the others stay as they are in the file
python experiments/pretrained_returns.py --tables  # prints the tables
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from analysis.markdown import markdown
from envs_jax import registry as environments
from envs_jax.environment import Environment
from envs_jax.rollout import evaluate_policy
from mamt_jax.cli.compilation_cache import use_compilation_cache
from mamt_jax.presets import find_preset
from mamt_jax.training import references
from mamt_jax.training.policies import PRETRAINED, acting, load_policy
from mamt_jax.training.references import TASKS, task_name
from mamt_jax.training.run_folder import BEST, CONFIG, METRICS, describe_machine, read_config, read_rows, write_json

EPISODES = 5_000
RETURNS = PRETRAINED / "returns.json"


def folders() -> list[Path]:
    """Folders of the included policies, ordered by environment."""
    return sorted(path.parent for path in PRETRAINED.glob(f"*/*/{CONFIG}"))


def name_of(folder: Path) -> str:
    """Name of the policy in a folder, ENV/ALGO."""
    return folder.relative_to(PRETRAINED).as_posix()


def samples(folder: Path) -> bool:
    """Whether the policies in a folder sample their actions. Others take the most likely action."""
    return read_config(folder)["training"].get("evaluation_policy") == "sampled"


def play(folder: Path) -> dict[str, Any]:
    """Return and task metrics of a policy, over fewer episodes if they are long."""
    env_name, options = TASKS[folder.parent.name]
    env = environments.make_any(env_name, **options)
    assert isinstance(env, Environment)
    episodes = EPISODES if env.spec.episode_limit <= 100 else EPISODES // 5
    policy = acting(load_policy(folder, which="best"), samples(folder))
    found = evaluate_policy(env, policy, jax.random.key(1), episodes)
    return {name: found[name] for name in ("return", "return_std_error", "metrics")} | {"episodes": episodes}


def table(returns: dict[str, dict[str, Any]]) -> str:
    """A table with one policy per row, and the reference policies of its environment."""
    earned = json.loads(references.RETURNS.read_text())["returns"]
    titles = ("return", "random", "scripted", "task metrics", "trained on, episodes", "in minutes", "kB")
    rows: list[Sequence[str]] = [("", *titles)]
    for folder in folders():
        played, last = returns[name_of(folder)], read_rows(folder / METRICS)[-1]
        others = earned[folder.parent.name]
        cells = (
            f"{played['return']:.2f} ± {played['return_std_error']:.2f}{', sampled' if samples(folder) else ''}",
            *(f"{others[name]['return']:.2f}" if name in others else "" for name in ("random", "scripted")),
            ", ".join(f"{name} {value:.3g}" for name, value in played["metrics"].items()),
            f"{last['episodes']:,}",
            f"{last['wall_seconds'] / 60:.0f}",
            f"{(folder / BEST).stat().st_size / 1000:.0f}",
        )
        rows.append((f"`{name_of(folder)}`", *cells))
    return markdown(rows)


def command(folder: Path) -> str:
    """The command that trains a policy. If it is older than its tuned preset, the command has `--preset paper` instead."""
    config = read_config(folder)
    options, experiment = [word for word in config["command"][1:] if word != "train"], config["experiment"]
    task = task_name(experiment["env"], experiment["env_options"]) or experiment["env"]
    used = config["training"] | config["algorithm_configs"][0] | experiment["env_options"]
    preset = find_preset("tuned", task, experiment["algo"]).options
    typed = {word.removeprefix("--").replace("-", "_") for word in options if word.startswith("--")}
    if "preset" not in typed and any(used.get(name) != value for name, value in preset.items() if name not in typed):
        after = options.index("--algo") + 2
        options[after:after] = ["--preset", "paper"]
    return f"mamt train {shlex.join(options)}"


def commands() -> str:
    """The commands that train the policies, one per line."""
    return "\n".join(command(folder) for folder in folders())


def main() -> None:
    """Plays the policies, unless only tables are wanted, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="print the tables from returns.json without playing the policies")
    names = [name_of(folder) for folder in folders()]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="ENV/ALGO", help="play only these policies and keep the other results"
    )
    asked = parser.parse_args()
    if not asked.tables:
        use_compilation_cache(None)
        kept = json.loads(RETURNS.read_text())["returns"] if asked.only else {}
        played = kept | {name: play(PRETRAINED / name) for name in asked.only or names}
        write_json(RETURNS, {"machine": describe_machine(), "returns": {name: played[name] for name in names}})
    print(table(json.loads(RETURNS.read_text())["returns"]), commands(), sep="\n\n")


if __name__ == "__main__":
    main()
