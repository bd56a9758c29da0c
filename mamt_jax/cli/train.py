"""Trains agents. The options listed are those of the chosen environment and algorithm."""

import argparse
import itertools
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console

from envs_jax import registry as environments
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.cli.compilation_cache import OFF, use_compilation_cache
from mamt_jax.cli.distributed import joined
from mamt_jax.cli.evaluate import pretrained_folder
from mamt_jax.options import (
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
from mamt_jax.presets import BUDGETS, preset_options
from mamt_jax.training.config import TrainingConfig
from mamt_jax.training.console import plain_console
from mamt_jax.training.experiment import Experiment
from mamt_jax.training.initial import Source, open_source, static_fields
from mamt_jax.training.launch import ALONE, EXPECTED, Crew, resume, start
from mamt_jax.training.loggers import LOGGERS, check_logger
from mamt_jax.training.run_folder import BEST, FolderError, folder_name, quoted

DEFAULT_ENV, DEFAULT_ALGO = "rover_tower", "mamt"
MOST_RUNS = 10_000


class Asked(NamedTuple):
    """What was asked for.

    Attributes:
        values: what was typed.
        places: for each option of `add_groups` where it belongs.
        training: what the algorithm wants instead of training's defaults.
        source: the folder whose parameters runs begin from, if they do.
        inherited: for the prefixes "env" and "algo" the source's options, where nothing else was typed.
    """

    values: dict[str, Any]
    places: dict[str, tuple[str, str]]
    training: Mapping[str, Any]
    source: Source | None = None
    inherited: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    console = plain_console()
    try:
        typed = underscored(sys.argv[1:] if arguments is None else arguments)
        with crew_of(typed, console) as crew:
            folder, stopped = run(typed, console, crew)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if stopped is None:
        console.print(f"Finished: {folder}")
        return 0
    console.print(f"Stopped. Go on with: python experiments/run.py --resume {quoted(folder)}")
    return 128 + stopped


def crew_of(arguments: Sequence[str], console: Console) -> AbstractContextManager[Crew]:
    """The processes that --distributed asks for; within it, this one is one of them."""
    common = common_parser(add_help=False).parse_known_args(arguments)[0]
    if common.distributed is None:
        return nullcontext(ALONE)
    if not (common.out or common.resume):
        raise OptionError("--distributed needs --out, the same folder for all processes.")
    return joined(common.distributed, Path(common.resume or common.out), not common.resume, console)


def run(arguments: Sequence[str], console: Console, crew: Crew = ALONE) -> tuple[Path, int | None]:
    """Trains what is asked for; returns its folder and the number of the signal that stopped it, if one did."""
    asked = read_arguments(arguments)
    use_compilation_cache(asked.values["compilation_cache"])
    if asked.values["resume"]:
        folder = Path(asked.values["resume"])
        return folder, resume(folder, console, crew, asked.values.get("episodes"))
    experiment = make_experiment(asked)
    folder = Path(asked.values["out"] or default_folder(experiment))
    quick = asked.values["preset"] == "tuned" and "episodes" not in asked.values
    return folder, start(experiment, folder, console, crew, quick=quick, log=asked.values["log"], initial=asked.source)


def read_arguments(arguments: Sequence[str]) -> Asked:
    """Reads the command line; raises OptionError for what cannot be right."""
    chosen = common_parser(add_help=False).parse_known_args(arguments)[0]
    if chosen.resume:
        return Asked(read_resuming(arguments), {}, {})
    source = None if chosen.init_from is None else find_source(chosen.init_from)
    parser = common_parser(add_help=True)
    if source:
        parser.set_defaults(env=source.experiment.env, algo=source.experiment.algo)
        chosen = parser.parse_known_args([text for text in arguments if text not in ("-h", "--help")])[0]
    same_env = source and chosen.env == source.experiment.env
    env_options = source.experiment.env_options if source and same_env else {}
    algorithm, groups = option_groups(chosen.env, chosen.algo, arguments, env_options)
    try:
        inherited = {"env": env_options, "algo": static_fields(source, algorithm.config) if source else {}}
    except ValueError as error:
        raise OptionError(f"--init_from {chosen.init_from} cannot be used: {error}") from error
    preset = preset_options(chosen.preset, chosen.env, chosen.algo)
    places = add_groups(parser, [with_defaults(group, preset) for group in groups])
    return Asked(vars(parse(parser, arguments)), places, algorithm.training, source, inherited)


def find_source(name: str) -> Source:
    """The folder that --init_from means; raises OptionError or FolderError if there is none."""
    folder, (first, *rest) = Path(name), Path(name).parts or ("",)
    if first == "pretrained" and not folder.exists():
        folder = pretrained_folder("/".join(part for part in rest if part != BEST), "--init_from pretrained/")
    try:
        return open_source(name, folder)
    except ValueError as error:
        raise OptionError(str(error)) from error


def read_resuming(arguments: Sequence[str]) -> dict[str, Any]:
    """What was typed with --resume; raises OptionError for an option that may not go with it."""
    parser = resuming_parser(add_help=False)
    episodes = next(option for option in config_options(TrainingConfig) if option.name == "episodes")
    add_groups(parser, [Group("training", "training", [episodes])])
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise OptionError(
            f"--resume {values.resume} takes everything from that folder: "
            "only --episodes, --compilation_cache and --distributed go with it, leave out the other options."
        )
    return vars(values)


def resuming_parser(add_help: bool) -> Parser:
    """The options that may go with --resume, itself included, but for --episodes."""
    parser = Parser(add_help=add_help, allow_abbrev=False, description=__doc__)
    parser.add_argument(
        "--resume", type=folder, metavar="DIR", help="go on with the run in DIR, with --episodes to another length"
    )
    where = f"folder that keeps compiled programs for the next start, or {OFF} (default: one among the user's caches)"
    parser.add_argument("--compilation_cache", metavar="DIR", help=where)
    together = (
        "one of several processes that share the runs: HOST:PORT of the first, how many, and which this is, from 0; "
        "nothing where jax knows the cluster (Slurm, Open MPI, Kubernetes, TPUs)"
    )
    parser.add_argument("--distributed", nargs="*", metavar="PLACE", help=together)
    return parser


def common_parser(add_help: bool) -> Parser:
    """The options that are there for every environment and algorithm."""
    parser = resuming_parser(add_help)
    names = environments.environment_names()
    env_names = ", ".join([*names, *(f"{library}/NAME" for library in environments.external_libraries())])
    algo_names = ", ".join(algorithms.algorithm_names())
    parser.add_argument("--env", default=DEFAULT_ENV, help=f"{env_names}, or package.module:Factory (default {DEFAULT_ENV})")
    parser.add_argument("--algo", default=DEFAULT_ALGO, help=f"{algo_names}, or package.module:make (default {DEFAULT_ALGO})")
    parser.add_argument("--seeds", type=positive, default=1, metavar="INT", help="runs with a seed of their own (default 1)")
    begin = "begin with parameters of the runs in DIR, its latest or DIR/best.npz, or with those of pretrained/ENV/ALGO"
    parser.add_argument("--init_from", metavar="DIR", help=begin)
    parser.add_argument("--out", type=folder, metavar="DIR", help="folder of the results (default runs/ENV-ALGO-TIME)")
    add_log(parser)
    presets = "tuned: what measured best, a short run; paper: its Table 1 and length; options go first (default tuned)"
    parser.add_argument("--preset", choices=tuple(BUDGETS), default="tuned", help=presets)
    return parser


def add_log(parser: Parser) -> None:
    """The option --log."""
    where = f"{', '.join(LOGGERS)}: where else metrics go; each needs the extra of its name"
    parser.add_argument("--log", nargs="+", default=[], type=logger_name, metavar="NAME", help=where)


def logger_name(text: str) -> str:
    """A logger that can be used."""
    try:
        check_logger(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def folder(text: str) -> str:
    """A folder's name that can be shown."""
    try:
        return str(folder_name(text))
    except FolderError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isascii() or not text.isdigit() or not 1 <= len(text.lstrip("0")) <= len(str(MOST_RUNS)):
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: give a whole number of at least 1, and at most {MOST_RUNS}.")
    return int(text)


def option_groups(
    env: str, algo: str, arguments: Sequence[str], env_options: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Algorithm, list[Group]]:
    """The algorithm, and the options of training, of the environment and of the algorithm that they make possible.

    `env_options` are the environment's where others were not typed.
    """
    groups = [Group("training", "training", config_options(TrainingConfig))]
    try:
        groups.append(Group(f"environment {env}", "env", function_options(environments.find_factory(env))))
        parser = common_parser(add_help=False)
        places = add_groups(parser, groups)
        typed = vars(parser.parse_known_args(arguments)[0])
        options = {option: typed[name] for name, (prefix, option) in places.items() if prefix == "env" and name in typed}
        algorithm = algorithms.make(algo, environments.make_any(env, **{**env_options, **options}).spec)
    except ValueError as error:
        raise OptionError(str(error)) from error
    training = [each._replace(default=algorithm.training.get(each.name, each.default)) for each in groups[0].options]
    title = f"algorithm {algo}; a FLOAT may be several values, each a run of its own"
    own = Group(title, "algo", config_options(algorithm.config, several=is_float_leaf))
    return algorithm, [groups[0]._replace(options=training), *groups[1:], own]


def with_defaults(group: Group, values: Mapping[str, Any]) -> Group:
    """A group whose options have their defaults among `values`, where they are there."""
    if group.prefix == "env":
        return group
    options = [option._replace(default=values.get(option.name, option.default)) for option in group.options]
    return group._replace(options=options)


def make_experiment(asked: Asked) -> Experiment:
    """What was asked for: the preset, then options; runs are seeds times the values of every field with several."""
    values = preset_options(asked.values["preset"], asked.values["env"], asked.values["algo"]) | asked.values
    given: dict[str, dict[str, Any]] = {"training": {**asked.training}, "env": {**asked.inherited.get("env", {})}, "algo": {}}
    for name, (prefix, option) in asked.places.items():
        if name in values:
            given[prefix][option] = values[name]
    inherited = {name: value for name, value in asked.inherited.get("algo", {}).items() if name not in typed_fields(asked)}
    given["algo"] |= inherited
    swept = {name: value for name, value in given["algo"].items() if isinstance(value, list) and len(value) > 1}
    fixed = {name: value[0] if isinstance(value, list) else value for name, value in given["algo"].items() if name not in swept}
    training = TrainingConfig(**given["training"])
    num_runs = values["seeds"] * math.prod(map(len, swept.values()))
    if num_runs > MOST_RUNS:
        raise OptionError(f"--seeds {values['seeds']} is not valid: it makes {num_runs} runs; give fewer, {MOST_RUNS} in all.")
    points = [dict(zip(swept, point, strict=True)) for point in itertools.product(*swept.values())]
    runs = [{"seed": training.seed + number} | point for point in points for number in range(values["seeds"])]
    return Experiment(values["env"], values["algo"], given["env"], fixed, tuple(runs), training)


def typed_fields(asked: Asked) -> set[str]:
    """The fields of the algorithm's config that were typed."""
    return {option for name, (prefix, option) in asked.places.items() if prefix == "algo" and name in asked.values}


def default_folder(experiment: Experiment) -> Path:
    """A folder nobody has used."""
    name = re.sub(r"[^\w.]+", "-", f"{experiment.env}-{experiment.algo}")
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
