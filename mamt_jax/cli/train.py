"""Trains agents in an environment. The options listed are those of the chosen environment and algorithm."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console

from envs_jax import registry as environments
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.cli.compilation_cache import OFF, use_compilation_cache
from mamt_jax.cli.distributed import joined
from mamt_jax.cli.parser import Parser, add_options, dashed, parse
from mamt_jax.options import OptionError, config_options
from mamt_jax.presets import PRESETS
from mamt_jax.training.config import TrainingConfig
from mamt_jax.training.console import plain_console
from mamt_jax.training.experiment import Experiment
from mamt_jax.training.initial import Source
from mamt_jax.training.launch import ALONE, EXPECTED, Processes, default_folder, resume, start
from mamt_jax.training.loggers import LOGGERS, check_logger
from mamt_jax.training.repeated import read_repeated
from mamt_jax.training.run_folder import FolderError, folder_name, quoted
from mamt_jax.training.settings import MAX_RUNS, Read, Settings, find_settings, find_source, make_experiment

DEFAULT_ENV, DEFAULT_ALGO = "rover_tower", "mamt"
NEUTRAL = "paper"
"""The preset for options that the config.json of an earlier version lacks."""


class Asked(NamedTuple):
    """The command line as it was read.

    Attributes:
        values: values of the options, by name.
        experiment: what to train; None with --resume, whose folder defines it.
        source: the folder whose parameters the runs begin with, if any.
        minutes: duration of the training, if it was measured.
    """

    values: dict[str, Any]
    experiment: Experiment | None = None
    source: Source | None = None
    minutes: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    console = plain_console()
    try:
        typed = dashed(sys.argv[1:] if arguments is None else arguments)
        with processes_of(typed, console) as processes:
            folder, stopped = run(typed, console, processes)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if stopped is None:
        console.print(f"Finished: {folder}")
        return 0
    console.print(f"Stopped. Continue with: mamt train --resume {quoted(folder)}")
    return 128 + stopped


def processes_of(arguments: Sequence[str], console: Console) -> AbstractContextManager[Processes]:
    """Context in which this process is one of those that --distributed asks for; without that option, the only one."""
    common = common_parser(add_help=False).parse_known_args(arguments)[0]
    if common.distributed is None:
        return nullcontext(ALONE)
    if not (common.out or common.resume):
        raise OptionError("--distributed needs --out, the same folder for all processes.")
    return joined(common.distributed, Path(common.resume or common.out), not common.resume, console)


def run(arguments: Sequence[str], console: Console, processes: Processes = ALONE) -> tuple[Path, int | None]:
    """Starts or resumes training; returns its folder, and the number of the signal that stopped it or None."""
    asked = read_arguments(arguments)
    use_compilation_cache(asked.values["compilation_cache"])
    if asked.experiment is None:
        folder = Path(asked.values["resume"])
        return folder, resume(folder, console, processes, asked.values.get("episodes"))
    folder = Path(asked.values["out"] or default_folder(asked.experiment))
    log, source = asked.values["log"], asked.source
    return folder, start(asked.experiment, folder, console, processes, minutes=asked.minutes, log=log, initial=source)


def read_arguments(arguments: Sequence[str]) -> Asked:
    """Reads the command line; raises OptionError if it is not valid."""
    chosen = common_parser(add_help=False).parse_known_args(arguments)[0]
    if chosen.resume:
        return Asked(read_resuming(arguments))
    source = None if chosen.init_from is None else find_source(chosen.init_from)
    repeated = None if chosen.config is None else read_repeated(Path(chosen.config))
    parser = common_parser(add_help=True)
    if source:
        parser.set_defaults(env=source.experiment.env, algo=source.experiment.algo)
    if repeated:
        parser.set_defaults(env=repeated.env, algo=repeated.algo, seeds=repeated.seeds, preset=NEUTRAL)
    chosen = parser.parse_known_args([text for text in arguments if text not in ("-h", "--help")])[0]
    read = reader(arguments, repeated.options["env"] if repeated else {})
    settings = find_settings(chosen.env, chosen.algo, chosen.preset, read, source)
    add_settings(parser, settings)
    values = parse(parser, arguments)
    typed = {name: value for name, value in values.items() if name in settings.places}
    given = repeated.given(settings.places) | typed if repeated else typed
    minutes = None if given or values["seeds"] > 1 else settings.minutes
    return Asked(values, make_experiment(settings, given, values["seeds"]), source, minutes)


def reader(arguments: Sequence[str], before: Mapping[str, Any] = MappingProxyType({})) -> Read:
    """Makes a function that reads the values of the options it is given.

    Args:
        arguments: the command line.
        before: values by option name, for options that the command line does not have.
    """

    def read(options: Any) -> dict[str, Any]:
        parser = common_parser(add_help=False)
        add_options(parser, "", options)
        values = vars(parser.parse_known_args(arguments)[0])
        earlier = {name: before[option.name] for name, option in options.items() if option.name in before}
        return earlier | {name: values[name] for name in options if name in values}

    return read


def add_settings(parser: Parser, settings: Settings) -> None:
    """Adds the options of training, of the environment and of the algorithm."""
    titles = {
        "training": "training",
        "env": f"environment {settings.env}",
        "algo": f"algorithm {settings.algo} (a FLOAT accepts several values, with one run per value)",
    }
    for prefix, title in titles.items():
        add_options(parser, title, {name: option for name, (own, option) in settings.places.items() if own == prefix})


def read_resuming(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads --resume and the options that may go with it; raises OptionError for any other option."""
    parser = Parser("mamt train", add_help=False)
    add_resuming(parser.add_argument)
    add_options(parser, "", {"episodes": next(each for each in config_options(TrainingConfig) if each.name == "episodes")})
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise OptionError(
            f"--resume {values.resume} takes all options from that folder: leave out {unknown[0]}. "
            "Only --episodes, --compilation-cache and --distributed may be given with it."
        )
    return vars(values)


def common_parser(add_help: bool) -> Parser:
    """The parser of the options that every environment and algorithm has."""
    parser = Parser("mamt train", "[--env NAME] [--algo NAME] [options]", add_help=add_help, description=__doc__)
    env_names = ", ".join([*environments.environment_names(), *(f"{each}/NAME" for each in environments.external_libraries())])
    algo_names = ", ".join(algorithms.algorithm_names())
    add = parser.add_argument_group("run").add_argument
    add("--env", default=DEFAULT_ENV, metavar="NAME", help=f"{env_names}, or package.module:Factory (default {DEFAULT_ENV})")
    add("--algo", default=DEFAULT_ALGO, metavar="NAME", help=f"{algo_names}, or package.module:make (default {DEFAULT_ALGO})")
    add("--seeds", type=positive(MAX_RUNS), default=1, metavar="INT", help="number of seeds, with one run per seed (default 1)")
    presets = "; ".join(f"{name}: {what}" for name, what in PRESETS.items())
    add("--preset", choices=tuple(PRESETS), default="tuned", help=f"{presets}. Options override the preset (default tuned)")
    add("--out", type=folder, metavar="DIR", help="folder of the results (default runs/ENV-ALGO-TIME)")
    described = "take the environment, the algorithm and all options from a run's folder or config.json. Options override them"
    add("--config", metavar="PATH", help=described)
    begin = "start from the parameters of the runs in DIR: the latest ones, those in DIR/best.npz, or pretrained/ENV/ALGO"
    add("--init-from", metavar="DIR", help=begin)
    add_log(add)
    add_resuming(add)
    return parser


def add_resuming(add: Any) -> None:
    """Adds --resume and the options that may go with it, except --episodes."""
    add("--resume", type=folder, metavar="DIR", help="continue the run in DIR. --episodes changes its length")
    where = f"folder for compiled programs, which later starts reuse, or {OFF} (default: a folder in the user's cache)"
    add("--compilation-cache", metavar="DIR", help=where)
    together = (
        "share the runs among several processes: HOST:PORT of the first process, the number of processes, and the index of "
        "this process, from 0. Give no value on a cluster that JAX recognizes (Slurm, Open MPI, Kubernetes, TPUs)"
    )
    add("--distributed", nargs="*", metavar="PLACE", help=together)


def add_log(add: Any) -> None:
    """Adds the option --log."""
    where = f"loggers besides metrics.jsonl, out of {', '.join(LOGGERS)}. Each needs the extra of the same name"
    add("--log", nargs="+", default=[], type=logger_name, metavar="NAME", help=where)


def logger_name(text: str) -> str:
    """Returns the name of a logger; raises ArgumentTypeError if it is unknown or not installed."""
    try:
        check_logger(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def folder(text: str) -> str:
    """Returns the name of a folder; raises ArgumentTypeError if it is empty or has control characters."""
    try:
        return str(folder_name(text))
    except FolderError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(largest: int) -> Any:
    """Makes a function that converts a text to a whole number from 1 to `largest`."""

    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 1 <= len(text.lstrip("0")) <= len(str(largest)):
            raise argparse.ArgumentTypeError(f"{text!r} is not valid: give a whole number from 1 to {largest}.")
        return int(text)

    return convert
