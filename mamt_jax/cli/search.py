"""Random search and TPE over options of `mamt train`: `mamt sweep` with `--sampler random` or `tpe`.

Optuna proposes the trials and keeps them in a journal in the folder of the sweep. Trials that are proposed together and differ
only in float fields of the algorithm are trained side by side, in one folder. The study records which trials a folder holds.
Repeating the command resumes the folders in which a trial has no score yet.
"""

import argparse
import dataclasses
import json
import math
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from mamt_jax.cli import train
from mamt_jax.cli.launchers import Launcher, Task
from mamt_jax.cli.parser import require_known
from mamt_jax.options import Option, OptionError, convert, read_value
from mamt_jax.training.console import say
from mamt_jax.training.experiment import Experiment, experiment_to_json
from mamt_jax.training.folder_lock import hold_folder
from mamt_jax.training.launch import prepare
from mamt_jax.training.merge import is_finished, read_experiment, same_but_for_runs
from mamt_jax.training.metrics import STOPPED
from mamt_jax.training.run_folder import CONFIG, METRICS, FolderError, read_rows, writing
from mamt_jax.training.settings import find_settings

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

SAMPLERS = ("random", "tpe")
JOURNAL = "study.journal"
FOLDERS = "trials/"
"""Prefix of the trials' folders in the sweep's folder. The study has one attribute per folder, with its trial numbers."""
OPTIONS = "options"
"""The study's attribute that holds the options of the command line."""
SHARED = ("env", "algo", "preset", "seeds", "seed")
"""Options that have one value for all trials."""
LOG_FACTOR = 10
LAST = 5
"""A trial's score is the mean over the last 1 / LAST of its evaluations."""
SHOWN = 10


class Range(NamedTuple):
    """A range of option values from `low` to `high`; whole numbers if both ends are."""

    low: float
    high: float


class Search(NamedTuple):
    """The options that a search varies, and those that it keeps fixed.

    Attributes:
        fixed: arguments of `mamt train` that all trials share.
        space: for each searched option, by its name on the command line, a range or texts to choose from.
        own: the searched float fields of the algorithm's config, in which runs side by side may differ.
        seed: seed of the sampler.
    """

    fixed: list[str]
    space: Mapping[str, Range | Sequence[str]]
    own: Sequence[str]
    seed: int


class Group(NamedTuple):
    """Trials whose runs are trained side by side.

    Attributes:
        folder: folder of the results.
        experiment: the runs of all trials in the folder.
        runs: for each trial without a score, by its number, the indices of its runs.
    """

    folder: Path
    experiment: Experiment
    runs: Mapping[int, range]


def run_search(axes: Mapping[str, list[str]], asked: argparse.Namespace, launch: Launcher, console: Console) -> int:
    """Runs or resumes a search until it has `asked.trials` trials or tasks fail; returns the exit code of the command."""
    require_optuna(asked.sampler)
    search, out = read_search(axes, asked.sampler), Path(asked.out)
    check_values(search, out)
    with hold_folder(out, make=True):
        study = open_study(out, axes)
        failures = train_trials(study, search, asked, launch, console)
    return report(study, search, failures, console)


def check_asked(asked: argparse.Namespace, axes: Mapping[str, Sequence[str]]) -> None:
    """Raises OptionError if the sampler does not accept the other options."""
    if asked.sampler in SAMPLERS:
        if asked.trials is None:
            raise OptionError(f"--sampler {asked.sampler} needs --trials: give the number of trials.")
        if asked.runs_per_task is not None:
            given = f"--runs-per-task {asked.runs_per_task} is not valid with --sampler {asked.sampler}"
            raise OptionError(f"{given}: give --batch, the number of trials that are trained at once.")
        return
    for name in ("trials", "batch"):
        if getattr(asked, name) is not None:
            given = f"--{name} {getattr(asked, name)} is not valid with --sampler {asked.sampler}"
            raise OptionError(
                f"{given}, which trains every combination: leave it out, or give --sampler {' or '.join(SAMPLERS)}."
            )
    for name, values in axes.items():
        if any(map(is_range, values)):
            given = f"--{name} {' '.join(values)} is not valid with --sampler {asked.sampler}"
            raise OptionError(f"{given}: give values one by one, or --sampler {' or '.join(SAMPLERS)} for a range.")


def require_optuna(sampler: str) -> None:
    """Raises OptionError if Optuna is not installed; limits its log to warnings otherwise."""
    try:
        import optuna
    except ImportError as error:
        raise OptionError(f"--sampler {sampler} needs Optuna: install it with `pip install -e '.[optuna]'`.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def read_search(axes: Mapping[str, list[str]], sampler: str) -> Search:
    """Reads the search from options and values; raises OptionError for unknown options and values that cannot be searched."""
    env, algo = axes.get("env", [train.DEFAULT_ENV])[0], axes.get("algo", [train.DEFAULT_ALGO])[0]
    first = [text for name, values in axes.items() if name not in ("env", "algo") for text in typed(name, begin_of(values[0]))]
    places = find_settings(env, algo, "tuned", train.reader(first)).places
    options = {name.replace("_", "-"): option for name, (_, option) in places.items()}
    require_known(axes, {*options, *SHARED})
    space: dict[str, Range | Sequence[str]] = {}
    for name, values in axes.items():
        found = read_values(name, options[name], values) if name not in SHARED else None
        if found is not None:
            space[name] = found
        elif len(values) > 1 or is_range(values[0]):
            given = f"--{name} {' '.join(values)} is not valid with --sampler {sampler}"
            raise OptionError(f"{given}: give one value, which all trials share.")
    if not space:
        raise OptionError(f"--sampler {sampler} has nothing to search: give an option several values, or a range LOW..HIGH.")
    fixed = [text for name, (value, *_) in axes.items() if name not in space for text in typed(name, value)]
    own = sorted(options[name].name for name in space if options[name].several)
    seed = read_value("--seed", options["seed"], axes.get("seed", [str(options["seed"].default)])[0])
    return Search(fixed, space, own, seed)


def read_values(name: str, option: Option, values: Sequence[str]) -> Range | Sequence[str] | None:
    """The range or the values to search for an option; None if it has a single value."""
    ranges = [found for found in (read_range(name, option, text) for text in values) if found]
    if ranges and len(values) > 1:
        raise OptionError(f"--{name} {' '.join(values)} is not valid: give one range LOW..HIGH, or values one by one.")
    return ranges[0] if ranges else (values if len(values) > 1 else None)


def read_range(name: str, option: Option, text: str) -> Range | None:
    """Reads a text as a range; None if it is not one. Raises OptionError for a range that is not valid."""
    low, dots, high = text.partition("..")
    try:
        convert(option, text)
        return None
    except ValueError:
        if not dots:
            return None  # `mamt train` refuses it
    try:
        ends = [convert(option, each) for each in (low, high)]
    except ValueError as error:
        raise OptionError(f"--{name} {text}: {error}") from None
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise OptionError(f"--{name} {text} is not valid: only numbers have a range. Give values one by one.")
    if not -math.inf < ends[0] < ends[1] < math.inf:
        raise OptionError(f"--{name} {text} is not valid: give a range LOW..HIGH with LOW below HIGH.")
    return Range(*ends)


def is_range(text: str) -> bool:
    """Whether a text is two numbers with two dots between them."""
    return re.fullmatch(r"-?[\d.][\d.,e+-]*\.\.[\d.,e+-]+", text, re.IGNORECASE) is not None


def begin_of(text: str) -> str:
    """The lower end of a range; any other text as it is."""
    return text.partition("..")[0] if is_range(text) else text


def typed(name: str, value: str) -> list[str]:
    """The command-line words of an option and its value, which may begin with a minus."""
    return [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]


def arguments_of(search: Search, params: Mapping[str, Any]) -> list[str]:
    """The arguments of `mamt train` for a trial with these values."""
    return search.fixed + [text for name, value in params.items() for text in typed(name, str(value))]


def experiment_of(search: Search, params: Mapping[str, Any]) -> Experiment:
    """The experiment of a trial with these values, one run per seed; raises OptionError if it is not valid."""
    experiment = train.read_arguments(arguments_of(search, params)).experiment
    assert experiment is not None
    own = {name: experiment.algo_options[name] for name in search.own}
    rest = {name: value for name, value in experiment.algo_options.items() if name not in own}
    return dataclasses.replace(experiment, algo_options=rest, runs=tuple({**run, **own} for run in experiment.runs))


def check_values(search: Search, out: Path) -> None:
    """Checks each value, and both ends of each range, with the first values of the other options; raises OptionError."""
    first = {name: values[0] for name, values in search.space.items()}
    for params in [first, *({**first, name: value} for name, values in search.space.items() for value in values[1:])]:
        prepare(experiment_of(search, params), out, {})


def open_study(out: Path, axes: Mapping[str, list[str]]) -> "Study":
    """Opens or creates the study in the folder of a sweep, which this process must hold.

    Raises:
        FolderError: if the study has other options, or cannot be read.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = out / JOURNAL
    with writing(out):
        cut_unfinished_line(path)
        Path(f"{path}.lock").unlink(missing_ok=True)  # left by a killed process
        try:
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
            study = optuna.create_study(study_name=JOURNAL, storage=storage, direction="maximize", load_if_exists=True)
        except (KeyError, TypeError, ValueError) as error:
            raise FolderError(f"{path} cannot be read ({error}): restore it, or give another --out.") from error
        before = study.user_attrs.get(OPTIONS)
        if before is None:
            study.set_user_attr(OPTIONS, dict(axes))
        elif before != axes:
            names = sorted(name for name in {*before, *axes} if before.get(name) != axes.get(name))
            raise FolderError(f"{out} holds a search with another --{names[0]}: give the same options, or another --out.")
    return study


def cut_unfinished_line(path: Path) -> None:
    """Removes the incomplete last line that a killed process leaves in a journal, which Optuna could not read."""
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def train_trials(
    study: "Study", search: Search, asked: argparse.Namespace, launch: Launcher, console: Console
) -> dict[Path, str]:
    """Trains until the study has `asked.trials` trials, or some trials do not finish.

    Returns:
        Error messages by folder if some trials did not finish, else nothing.
    """
    out, batch = Path(asked.out), asked.batch or (1 if asked.sampler == "tpe" else asked.trials)
    while groups := next_groups(study, search, asked, batch, console):
        say(console, f"Next trials: {len(waiting(study))} of {asked.trials}. Tasks: {len(groups)}. Folder: {out}")
        tasks = [Task(group.folder, group.experiment, asked.log) for group in groups]
        failures = launch(tasks, console, asked.cpus, asked.gpus)
        with writing(out):
            for group in groups:
                tell_scores(study, group, failures.get(group.folder))
        if waiting(study):
            return failures
        for folder, failure in failures.items():
            say(console, f"{folder}: {failure}")
    return {}


def next_groups(study: "Study", search: Search, asked: argparse.Namespace, batch: int, console: Console) -> list[Group]:
    """The groups of trials without a score, or of a new batch of trials; empty once all trials have a score."""
    out = Path(asked.out)
    with writing(out):
        place_trials(study, search, out, console)
        while not waiting(study) and (done := len(study.get_trials(deepcopy=False))) < asked.trials:
            ask(study, search, asked.sampler, range(done, min(asked.trials, done + batch)))
            place_trials(study, search, out, console)
    return open_groups(study, search, out)


def waiting(study: "Study") -> list["FrozenTrial"]:
    """The trials that have no score yet."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def ask(study: "Study", search: Search, sampler: str, numbers: Iterable[int]) -> None:
    """Adds trials with these numbers, whose values the sampler proposes."""
    space = {name: distribution(values) for name, values in search.space.items()}
    for number in numbers:
        study.sampler = make_sampler(sampler, search.seed, number)
        study.ask(space)


def make_sampler(name: str, seed: int, number: int) -> "BaseSampler":
    """Makes the sampler of one trial. Its seed depends on the trial's number: a resumed search does not repeat trials."""
    from optuna.samplers import RandomSampler, TPESampler

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return RandomSampler(seed=own) if name == "random" else TPESampler(seed=own)


def distribution(values: Range | Sequence[str]) -> "BaseDistribution":
    """The values as an Optuna distribution. A positive range of a decade or more has a log scale."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(tuple(dict.fromkeys(values)))
    low, high = values
    log = low > 0 and (high >= LOG_FACTOR * low or math.isclose(high, LOG_FACTOR * low))
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def placed(study: "Study") -> dict[str, list[int]]:
    """The numbers of the trials in each folder, by the folder's name."""
    return {name: numbers for name, numbers in study.user_attrs.items() if name.startswith(FOLDERS)}


def place_trials(study: "Study", search: Search, out: Path, console: Console) -> None:
    """Assigns each new trial to a folder; trials that cannot be built fail.

    A trial with the values of an earlier one shares its folder. Other new trials share a folder if they can train side by side.
    """
    params = {trial.number: trial.params for trial in study.get_trials(deepcopy=False)}
    folders = placed(study)
    known = {number for numbers in folders.values() for number in numbers}
    earlier = {point_key(params[number]): name for name, numbers in folders.items() for number in numbers}
    new: dict[str, list[int]] = {}
    for number in (trial.number for trial in waiting(study) if trial.number not in known):
        name = earlier.get(point_key(params[number]))
        if name is not None:
            folders[name] = [*folders[name], number]
            study.set_user_attr(name, folders[name])
            continue
        try:
            if params[number].keys() != search.space.keys():
                raise OptionError("the process that proposed it was killed before all its values were drawn.")
            experiment = experiment_of(search, params[number])
            prepare(experiment, out, {})
        except OptionError as error:
            say(console, f"Trial {number} cannot be trained: {error}")
            tell(study, number, math.nan)
            continue
        new.setdefault(group_key(experiment), []).append(number)
    for numbers in new.values():
        study.set_user_attr(f"{FOLDERS}{numbers[0]:03d}", numbers)


def point_key(params: Mapping[str, Any]) -> str:
    """A key that is equal for trials with the same values."""
    return json.dumps(params, sort_keys=True)


def group_key(experiment: Experiment) -> str:
    """A key that is equal for experiments that differ only in their runs."""
    return json.dumps(experiment_to_json(dataclasses.replace(experiment, runs=())), sort_keys=True)


def open_groups(study: "Study", search: Search, out: Path) -> list[Group]:
    """The groups of all folders in which a trial has no score yet."""
    trials, missing = study.get_trials(deepcopy=False), {trial.number for trial in waiting(study)}
    return [
        make_group(out / name, search, {number: trials[number].params for number in numbers}, missing)
        for name, numbers in placed(study).items()
        if missing & set(numbers)
    ]


def make_group(folder: Path, search: Search, params: Mapping[int, Mapping[str, Any]], missing: Collection[int]) -> Group:
    """Makes the group of a folder.

    Args:
        folder: the folder.
        search: the search.
        params: values of all trials in the folder, by trial number.
        missing: numbers of the trials without a score.

    Raises:
        FolderError: if the folder holds other runs.
    """
    experiments = {point_key(point): experiment_of(search, point) for point in params.values()}
    first, seeds = next(iter(experiments.values())), len(next(iter(experiments.values())).runs)
    whole = dataclasses.replace(first, runs=tuple(run for each in experiments.values() for run in each.runs))
    if (folder / CONFIG).exists():
        there = read_experiment(folder)
        if not same_but_for_runs(there, whole) or there.runs != whole.runs:
            raise FolderError(f"{folder} holds other runs: give another --out.")
    places = {key: seeds * place for place, key in enumerate(experiments)}
    begin = {number: places[point_key(point)] for number, point in params.items() if number in missing}
    return Group(folder, whole, {number: range(place, place + seeds) for number, place in begin.items()})


def tell_scores(study: "Study", group: Group, failure: str | None) -> None:
    """Reports the scores of a group's trials if their training has finished. Trials that could not begin fail."""
    finished, rows = is_finished(group.folder), read_rows(group.folder / METRICS)
    never = failure is not None and not failure.startswith("stopped") and not (group.folder / CONFIG).exists()
    for number, runs in group.runs.items():
        if finished or never:
            tell(study, number, score(rows, runs))


def tell(study: "Study", number: int, value: float) -> None:
    """Reports the score of a trial; with nan the trial fails."""
    from optuna.trial import TrialState

    if math.isnan(value):
        study.tell(number, state=TrialState.FAIL)
    else:
        study.tell(number, value)


def score(rows: Sequence[Mapping[str, Any]], runs: Iterable[int]) -> float:
    """Mean `eval_return` of `runs` over the last evaluations; nan if a run has stopped, or lacks one of these returns."""
    means = []
    for run in runs:
        own = [row for row in rows if row["run"] == run]
        last = own[len(own) - math.ceil(len(own) / LAST) :]
        going = bool(last) and not any(STOPPED in row or row["eval_return"] is None for row in last)
        means.append(np.mean([row["eval_return"] for row in last]) if going else math.nan)
    return float(np.mean(means))


def report(study: "Study", search: Search, failures: Mapping[Path, str], console: Console) -> int:
    """Prints the best trials and the errors; returns the exit code of the command."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    scored = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = sorted(scored, key=lambda trial: -(trial.value or 0.0))[:SHOWN]
    console.print(table(best))
    console.print(f"{len(scored)} of {len(trials)} trials have a score.")
    if best:
        command = ["mamt", "train", *arguments_of(search, best[0].params)]
        console.print(f"Repeat the best trial with: {shlex.join(command)}")
    for folder, failure in failures.items():
        print(f"error: {folder}: {failure}", file=sys.stderr)
    failed = bool(trials) and all(trial.state == TrialState.FAIL for trial in trials)
    if failed:
        print("error: all trials failed: their runs stopped, or could not be built.", file=sys.stderr)
    return 2 if failures or failed else 0


def table(trials: Iterable["FrozenTrial"]) -> Table:
    """A table of trials with their scores and values."""
    shown = Table("score", "trial", Column("options", overflow="fold"))
    for trial in trials:
        values = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in trial.params.items()}
        shown.add_row(f"{trial.value:.4g}", str(trial.number), ", ".join(f"{name} {value}" for name, value in values.items()))
    return shown
