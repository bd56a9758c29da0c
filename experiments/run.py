"""Trains agents. The options listed are those of the chosen environment and algorithm."""

import argparse
import dataclasses
import itertools
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, os.getcwd())
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
from rich.console import Console

from envs_jax import registry as environments
from envs_jax.environment import HostEnvironment, HostError
from envs_jax.host import play_host_references
from envs_jax.reference_policies import evaluate_policy, reference_policies
from experiments.compilation_cache import OFF, use_compilation_cache
from experiments.options import (
    Group,
    OptionError,
    Parser,
    add_groups,
    config_options,
    function_options,
    is_float_leaf,
    parse,
    underscored,
)
from experiments.presets import PRESETS, QUICK_EPISODES
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.algorithms.contract import Algorithm
from mamt_jax.training.checkpoint import CheckpointError, latest_checkpoint
from mamt_jax.training.config import TrainingConfig
from mamt_jax.training.experiment import Built, Experiment, build, config_values, experiment_from_json, experiment_to_json
from mamt_jax.training.loop import Session, open_session, plan_memory, train
from mamt_jax.training.memory import available_bytes, check_memory
from mamt_jax.training.writers import (
    CHECKPOINTS,
    CONFIG,
    FolderError,
    create_folder,
    describe_machine,
    read_config,
    spec_to_json,
    write_json,
)

DEFAULT_ENV, DEFAULT_ALGO = "rover_tower", "mamt"
REFERENCE_EPISODES = 1000
HOST_REFERENCE_ENVS, HOST_REFERENCE_EPISODES = 12, 4


class Asked(NamedTuple):
    """What was asked for.

    Attributes:
        values: what was typed.
        places: for each option of `add_groups` where it belongs.
        training: what the algorithm wants instead of training's defaults.
    """

    values: dict[str, Any]
    places: dict[str, tuple[str, str]]
    training: Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    console = Console(soft_wrap=True)
    try:
        asked = read_arguments(underscored(sys.argv[1:] if arguments is None else arguments))
        use_compilation_cache(asked.values["compilation_cache"])
        session = resume(asked.values["resume"]) if asked.values["resume"] else start(asked, console)
        stopped = train(session, console, resume=bool(asked.values["resume"]))
    except (OptionError, FolderError, CheckpointError, HostError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if stopped is None:
        console.print(f"Finished: {session.folder}", highlight=False)
        return 0
    console.print(f"Stopped. Go on with: python experiments/run.py --resume {session.folder}", highlight=False)
    return 128 + stopped


def read_arguments(arguments: Sequence[str]) -> Asked:
    """Reads the command line; raises OptionError for what cannot be right."""
    chosen = common_parser(add_help=False).parse_known_args(arguments)[0]
    if chosen.resume:
        if resuming_parser(add_help=False).parse_known_args(arguments)[1]:
            raise OptionError(f"--resume {chosen.resume} takes everything from that folder: leave out the other options.")
        return Asked(vars(chosen), {}, {})
    algorithm, groups = option_groups(chosen.env, chosen.algo, arguments)
    parser = common_parser(add_help=True)
    places = add_groups(parser, groups)
    return Asked(vars(parse(parser, arguments)), places, algorithm.training)


def resuming_parser(add_help: bool) -> Parser:
    """The options that may go with --resume, itself included."""
    parser = Parser(add_help=add_help, allow_abbrev=False, description=__doc__)
    parser.add_argument("--resume", metavar="DIR", help="go on with the run in DIR")
    where = f"folder that keeps compiled programs for the next start, or {OFF} (default: one among the user's caches)"
    parser.add_argument("--compilation_cache", metavar="DIR", help=where)
    return parser


def common_parser(add_help: bool) -> Parser:
    """The options that are there for every environment and algorithm."""
    parser = resuming_parser(add_help)
    names = environments.environment_names() + environments.host_environment_names()
    env_names = ", ".join([*names, *(f"{door}/NAME" for door in environments.door_names())])
    algo_names = ", ".join(algorithms.algorithm_names())
    parser.add_argument("--env", default=DEFAULT_ENV, help=f"{env_names}, or package.module:Factory (default {DEFAULT_ENV})")
    parser.add_argument("--algo", default=DEFAULT_ALGO, help=f"{algo_names}, or package.module:make (default {DEFAULT_ALGO})")
    parser.add_argument("--seeds", type=positive, default=1, metavar="INT", help="runs with a seed of their own (default 1)")
    parser.add_argument("--out", help="folder of the results (default runs/ENV-ALGO-TIME)")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="quick", help="settings by name; options go first (quick)")
    return parser


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: give a whole number of at least 1.")
    return int(text)


def option_groups(env: str, algo: str, arguments: Sequence[str]) -> tuple[Algorithm, list[Group]]:
    """The algorithm, and the options of training, of the environment and of the algorithm that they make possible."""
    groups = [Group("training", "training", config_options(TrainingConfig))]
    try:
        groups.append(Group(f"environment {env}", "env", function_options(environments.find_factory(env))))
        parser = common_parser(add_help=False)
        places = add_groups(parser, groups)
        typed = vars(parser.parse_known_args(arguments)[0])
        options = {option: typed[name] for name, (prefix, option) in places.items() if prefix == "env" and name in typed}
        algorithm = algorithms.make(algo, environments.make_any(env, **options).spec)
    except ValueError as error:
        raise OptionError(str(error)) from error
    training = [each._replace(default=algorithm.training.get(each.name, each.default)) for each in groups[0].options]
    title = f"algorithm {algo}; a FLOAT may be several values, each a run of its own"
    own = Group(title, "algo", config_options(algorithm.config, several=is_float_leaf))
    return algorithm, [groups[0]._replace(options=training), *groups[1:], own]


def make_experiment(asked: Asked) -> Experiment:
    """What was asked for: the preset, then options; runs are seeds times the values of every field with several."""
    values = asked.values
    given: dict[str, dict[str, Any]] = {"training": {**asked.training, **PRESETS[values["preset"]]}, "env": {}, "algo": {}}
    for name, (prefix, option) in asked.places.items():
        if name in values:
            given[prefix][option] = values[name]
    swept = {name: value for name, value in given["algo"].items() if isinstance(value, list) and len(value) > 1}
    fixed = {name: value[0] if isinstance(value, list) else value for name, value in given["algo"].items() if name not in swept}
    training = TrainingConfig(**given["training"])
    points = [dict(zip(swept, point, strict=True)) for point in itertools.product(*swept.values())]
    runs = [{"seed": training.seed + number} | point for point in points for number in range(values["seeds"])]
    return Experiment(values["env"], values["algo"], given["env"], fixed, tuple(runs), training)


def start(asked: Asked, console: Console) -> Session:
    """A new run, its folder made; raises OptionError or FolderError before anything is compiled for training."""
    experiment, values = make_experiment(asked), asked.values
    session = prepare(experiment, Path(values["out"] or default_folder(experiment)), {})
    announce(session, console, quick=values["preset"] == "quick" and "episodes" not in values)
    create_folder(session.folder)
    console.print("Playing the reference policies", highlight=False)
    session = session._replace(references=play_references(session.built))
    write_json(session.folder / CONFIG, describe(session))
    return session


def resume(name: str) -> Session:
    """The run of a folder."""
    folder = Path(name)
    content = read_config(folder)
    try:
        experiment = experiment_from_json(content["experiment"])
    except (KeyError, ValueError) as error:
        raise FolderError(f"{folder / CONFIG} cannot be used: {error}.") from error
    latest_checkpoint(folder / CHECKPOINTS)
    return prepare(experiment, folder, content.get("references", {}))


def prepare(experiment: Experiment, folder: Path, references: dict[str, float]) -> Session:
    """Builds everything that takes no memory; raises OptionError if it cannot work."""
    try:
        built = build(experiment)
        session = open_session(experiment, built, folder, references)
        check_memory(plan_memory(session), built.schedule.capacity, available_bytes(session.runs.sharding.device_set))
    except ValueError as error:
        raise OptionError(str(error)) from error
    except Exception as error:
        if not experiment.algo_options:
            raise
        raise OptionError(f"{experiment.algo} cannot be built with {dict(experiment.algo_options)}: {error}.") from error
    return session


def announce(session: Session, console: Console, quick: bool) -> None:
    """Says what will happen."""
    experiment, built = session.experiment, session.built
    schedule, spec, device = built.schedule, built.env.spec, jax.local_devices()[0]
    used = session.runs.sharding.num_devices
    rounds = schedule.total_rounds
    seeds = sorted({run["seed"] for run in experiment.runs})
    lines = [
        f"{experiment.algo} on {experiment.env}: {spec.num_agents} agents, episodes of {spec.episode_limit} steps",
        f"Runs      {len(experiment.runs)}, seeds {', '.join(map(str, seeds))}",
        f"Each      {experiment.training.episodes:,} episodes, {schedule.env_steps(rounds):,} environment steps, "
        f"{schedule.num_updates(rounds):,} updates",
        f"Device    {device.device_kind} ({device.platform}), {used} of {jax.local_device_count()}",
        f"Memory    {plan_memory(session)}",
        f"Folder    {session.folder}",
        f"Stop with Ctrl-C; go on with: python experiments/run.py --resume {session.folder}",
    ]
    if quick:
        lines.append(
            f"This is a short run of {QUICK_EPISODES:,} episodes: MAMT on Rover-Tower takes about 12 minutes on 2 CPU cores. "
            f"--preset paper trains {PRESETS['paper']['episodes']:,} episodes with the paper's settings."
        )
    console.print("\n".join(lines), highlight=False)


def play_references(built: Built) -> dict[str, float]:
    """Mean return per agent and episode of each reference policy."""
    if isinstance(built.env, HostEnvironment):
        played = play_host_references(built.env, 0, HOST_REFERENCE_ENVS, HOST_REFERENCE_EPISODES)
        return {name: float(episodes.episode_return.mean()) for name, episodes in played.items()}
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), REFERENCE_EPISODES), 3)
    policies = reference_policies(built.env)
    return {
        name: evaluate_policy(built.env, policy, key, REFERENCE_EPISODES)["return"]
        for (name, policy), key in zip(policies.items(), keys, strict=False)
    }


def describe(session: Session) -> dict[str, Any]:
    """What config.json holds."""
    return {
        "experiment": experiment_to_json(session.experiment),
        "algorithm_configs": config_values(session.built.configs),
        "training": dataclasses.asdict(session.experiment.training),
        "schedule": session.built.schedule._asdict(),
        "spec": spec_to_json(session.built.env.spec),
        "references": dict(session.references),
        "command": sys.argv,
    } | describe_machine()


def default_folder(experiment: Experiment) -> Path:
    """A folder nobody has used."""
    name = re.sub(r"[^\w.]+", "-", f"{experiment.env}-{experiment.algo}")
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


if __name__ == "__main__":
    sys.exit(main())
