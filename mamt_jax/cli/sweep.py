"""Trains every combination of environments, algorithms, seeds and options. Each group of runs gets a folder of results.

Options of `mamt train` may have several values. Runs that differ only in seeds and in float fields of the algorithm form one
group and are trained side by side. Groups are trained one after another, or with `--launcher ray` in parallel on a Ray
cluster. Repeating the command resumes what was stopped. With more values it trains only those that are missing.

With `--sampler random` or `tpe` Optuna chooses `--trials` combinations instead. An option may then be a range LOW..HIGH.
"""

import dataclasses
import itertools
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Column, Table

from mamt_jax.cli import train
from mamt_jax.cli.compilation_cache import use_compilation_cache
from mamt_jax.cli.launchers import LAUNCHERS, Task
from mamt_jax.cli.parser import Parser, dashed, require_known
from mamt_jax.cli.search import SAMPLERS, check_asked, run_search
from mamt_jax.options import OptionError
from mamt_jax.training.console import plain_console
from mamt_jax.training.experiment import Experiment
from mamt_jax.training.folder_lock import hold_folder
from mamt_jax.training.launch import EXPECTED, prepare
from mamt_jax.training.merge import cut, even_sizes, is_finished, merge_folders, read_experiment, same_but_for_runs
from mamt_jax.training.metrics import STOPPED
from mamt_jax.training.run_folder import CONFIG, METRICS, PARTS, FolderError, read_rows
from mamt_jax.training.settings import find_settings

APPLY_TO_ALL = ("seeds", "preset")


class Group(NamedTuple):
    """Runs that are trained side by side.

    Attributes:
        folder: folder of the results.
        experiment: the runs.
    """

    folder: Path
    experiment: Experiment


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    console = plain_console()
    try:
        own, rest = own_parser().parse_known_args(dashed(sys.argv[1:] if arguments is None else arguments))
        use_compilation_cache(own.compilation_cache)
        out = Path(own.out)
        if own.merge:
            merge_into(out, [Path(folder) for folder in own.merge])
            console.print(f"Merged: {out}")
            return 0
        axes = read_axes(rest)
        check_asked(own, axes)
        if own.sampler in SAMPLERS:
            return run_search(axes, own, LAUNCHERS[own.launcher], console)
        groups = make_groups(axes, out)
        with hold_folder(out, make=True):
            tasks = [task for group in groups for task in open_tasks(group, own.runs_per_task)]
            console.print(f"Groups: {len(groups)}. Tasks to do: {len(tasks)}. Folder: {out}")
            failures = LAUNCHERS[own.launcher]([task._replace(log=own.log) for task in tasks], console, own.cpus, own.gpus)
            for group in groups:
                merge_group(group)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console.print(summary(groups))
    for folder, failure in failures.items():
        print(f"error: {folder}: {failure}", file=sys.stderr)
    return 2 if failures else 0


def merge_into(out: Path, folders: Sequence[Path]) -> None:
    """Merges the runs of `folders` into `out`, which is locked meanwhile."""
    with hold_folder(out, make=True):
        merge_folders(folders, out)


def own_parser() -> Parser:
    """The parser of the sweep's own options; the others are those of `mamt train`."""
    parser = Parser("mamt sweep", "--out DIR [options, each with one or more values]", description=__doc__)
    parser.add_argument(
        "--out",
        required=True,
        type=train.folder,
        metavar="DIR",
        help="folder of the sweep. With --launcher ray all machines must share it",
    )
    parser.add_argument("--launcher", choices=tuple(LAUNCHERS), default="local", help="where to train (default local)")
    samplers = "train every combination, or search at random or by Optuna's TPE (default grid)"
    parser.add_argument("--sampler", choices=("grid", *SAMPLERS), default="grid", help=samplers)
    number = train.positive(train.MAX_RUNS)
    parser.add_argument("--trials", type=number, metavar="INT", help="total number of combinations that a search trains")
    at_once = "number of trials that a search trains together (default 1 for tpe, all for random)"
    parser.add_argument("--batch", type=number, metavar="INT", help=at_once)
    per_task = "number of runs of a group that one task trains (default all)"
    parser.add_argument("--runs-per-task", type=train.positive(train.MAX_RUNS), metavar="INT", help=per_task)
    parser.add_argument("--cpus", type=float, default=1.0, help="CPU cores that Ray reserves for a task (default 1)")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs that Ray reserves for a task (default 0)")
    train.add_log(parser.add_argument)
    parser.add_argument(
        "--merge", nargs="+", metavar="DIR", help="merge the runs of these folders into --out, without training"
    )
    parser.add_argument("--compilation-cache", metavar="DIR", help="folder for compiled programs, as in mamt train")
    return parser


def read_axes(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Reads options and their values: name -> values.

    Raises:
        OptionError: if a word belongs to no option, an option has no value, or it is one of `mamt train` alone.
    """
    axes: dict[str, list[str]] = {}
    for text in arguments:
        if text.startswith("--"):
            name, *value = text[2:].split("=", 1)
            axes.pop(name, None)  # the last one counts, as in `mamt train`
            axes[name] = value
        elif not axes:
            raise OptionError(f"{text!r} is not valid here: give options as --name value.")
        else:
            axes[next(reversed(axes))].append(text)
    for name, values in axes.items():
        if not values:
            raise OptionError(f"--{name} has no value: give one or more.")
    if "init-from" in axes:
        raise OptionError("--init-from is not an option of mamt sweep: its runs begin with random parameters. Use mamt train.")
    for name in ("resume", "distributed"):
        if name in axes:
            raise OptionError(f"--{name} is not an option of mamt sweep. To continue a sweep, repeat its command.")
    return axes


def make_groups(axes: Mapping[str, list[str]], out: Path) -> list[Group]:
    """Makes all groups, before any training; raises OptionError if one of them is not valid."""
    pairs = list(itertools.product(axes.get("env", [train.DEFAULT_ENV]), axes.get("algo", [train.DEFAULT_ALGO])))
    options = {pair: options_of(*pair, axes) for pair in pairs}
    known = {name for each in options.values() for name in each} | {"env", "algo", *APPLY_TO_ALL}
    require_known(axes, known)
    return [group for pair in pairs for group in groups_of_pair(*pair, axes, options[pair], out)]


def options_of(env: str, algo: str, axes: Mapping[str, list[str]]) -> dict[str, bool]:
    """The options of an environment and an algorithm: name -> whether runs that differ in it train side by side."""
    first = [text for name, values in axes.items() if name not in ("env", "algo") for text in (f"--{name}", values[0])]
    places = find_settings(env, algo, "tuned", train.reader(first)).places
    return {name.replace("_", "-"): option.several for name, (_, option) in places.items()}


def groups_of_pair(
    env: str, algo: str, axes: Mapping[str, list[str]], options: Mapping[str, bool], out: Path
) -> Iterable[Group]:
    """The groups of one environment with one algorithm."""
    common = ["--env", env, "--algo", algo]
    apart = {name: values for name, values in axes.items() if not options.get(name, True) and len(values) > 1}
    for name, values in axes.items():
        if name in APPLY_TO_ALL or (name in options and name not in apart):
            common += [f"--{name}", *values]
    for point in itertools.product(*apart.values()):
        chosen = dict(zip(apart, point, strict=True))
        name = "-".join([env, algo, *(f"{option}={value}" for option, value in chosen.items())])
        typed = [text for option, value in chosen.items() for text in (f"--{option}", value)]
        experiment = train.read_arguments([*common, *typed]).experiment
        assert experiment is not None
        prepare(experiment, out, {})
        yield Group(out / re.sub(r"[^\w.=-]+", "-", name), experiment)


def open_tasks(group: Group, runs_per_task: int | None) -> list[Task]:
    """The tasks that a group still needs: its unfinished parts, and new parts for the runs that are in none.

    Raises:
        FolderError: if the folder of a part holds other runs.
    """
    begun = [Task(folder, read_experiment(folder)) for folder in parts_of(group)]
    for task in begun:
        if not same_but_for_runs(task.experiment, group.experiment):
            raise FolderError(f"{task.folder} holds other runs: give another --out.")
    there = [run for task in begun for run in task.experiment.runs]
    missing = dataclasses.replace(group.experiment, runs=tuple(each for each in group.experiment.runs if each not in there))
    sizes = even_sizes(len(missing.runs), runs_per_task or max(1, len(missing.runs)))
    taken = {task.folder.name for task in begun}
    free = (name for name in map("{:03d}".format, itertools.count()) if name not in taken)
    new = [Task(group.folder / PARTS / name, part) for name, part in zip(free, cut(missing, sizes), strict=False)]
    return [task for task in begun if not is_finished(task.folder)] + new


def parts_of(group: Group) -> list[Path]:
    """The folders of the parts of a group that have begun."""
    return sorted(path.parent for path in (group.folder / PARTS).glob(f"*/{CONFIG}"))


def merge_group(group: Group) -> None:
    """Merges the parts of a group if all are finished."""
    parts = parts_of(group)
    if parts and all(is_finished(part) for part in parts):
        merge_folders(parts, group.folder)


def summary(groups: Iterable[Group]) -> Table:
    """A table of every group's last evaluation: greedy return of each setting, mean and deviation over seeds."""
    group_column = Column("group", overflow="fold")
    table = Table(group_column, "setting", "seeds", "episodes", "greedy return ± deviation")
    for group in groups:
        rows = {row["run"]: row for row in read_rows(group.folder / METRICS)}
        labels = read_experiment(group.folder).labels if rows else []
        for label in dict.fromkeys(labels):
            seeds = [rows[run] for run, other in enumerate(labels) if other == label]
            going = [row for row in seeds if STOPPED not in row]
            counted = str(len(seeds)) if len(going) == len(seeds) else f"{len(going)} of {len(seeds)}, others stopped"
            returns = np.array([row["eval_return"] for row in going], float)
            deviation = f" ± {returns.std(ddof=1):.3g}" if len(going) > 1 else ""
            mean = f"{returns.mean():.4g}{deviation}" if going else ""
            table.add_row(group.folder.name, label, counted, f"{min(row['episodes'] for row in seeds):,}", mean)
        if not rows:
            table.add_row(group.folder.name, "", "", "", "not done")
    return table
