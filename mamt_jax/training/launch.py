"""Trains an experiment into a folder: all runs side by side, or in parts because of memory or several processes."""

import dataclasses
import itertools
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from rich.console import Console

from envs_jax.environment import HostEnvironment, HostError
from envs_jax.reference_policies import reference_policies
from envs_jax.rollout import evaluate_policies
from mamt_jax.options import OptionError
from mamt_jax.training.checkpoint import CheckpointError, latest_checkpoint, read_record
from mamt_jax.training.config import make_schedule
from mamt_jax.training.console import duration, say
from mamt_jax.training.experiment import Built, Experiment, build, config_values, experiment_to_json
from mamt_jax.training.extension import EXTENDED, Done, read_done, record_length, with_episodes
from mamt_jax.training.folder_lock import Hold, clear_folder, hold_folder, hold_new_folder
from mamt_jax.training.initial import Parameters, Source, read_parameters, save_parameters, saved_parameters
from mamt_jax.training.loggers import check_logger
from mamt_jax.training.loop import train
from mamt_jax.training.memory import MemoryPlan, OutOfMemoryError, available_bytes, explaining_exhaustion, runs_that_fit
from mamt_jax.training.merge import INIT_FROM, cut, even_sizes, is_finished, merge_folders, read_experiment
from mamt_jax.training.metrics import STOPPED
from mamt_jax.training.nan_guard import NonFiniteError
from mamt_jax.training.references import Reference, measured_references, read_references, references_to_json
from mamt_jax.training.run_folder import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    PARTS,
    FolderError,
    describe_machine,
    make_folder,
    quoted,
    read_config,
    spec_to_json,
    write_json,
    writing,
)
from mamt_jax.training.session import Callback, Session, open_session, plan_memory
from mamt_jax.training.vectorized import padded_runs

EXPECTED = (OptionError, FolderError, CheckpointError, HostError, NonFiniteError, OutOfMemoryError)
"""Errors that end a command with a one-sentence message."""
OF_ALL_PARTS = (PARTS, EXTENDED)
"""Fields of config.json that describe all parts together."""
REFERENCE_STEPS, SHORT_REFERENCE_STEPS = 25_000, 100_000  # environment steps; the latter for episodes of at most `SHORT` steps
SHORT = 100
HOST_REFERENCE_EPISODES = 48


class Processes(NamedTuple):
    """The processes that train together.

    Attributes:
        index: index of this process.
        count: number of processes.
        holds: whether the processes hold the folder already.
        wait: () -> None once all processes have finished, or the number of a signal that arrived before.
    """

    index: int = 0
    count: int = 1
    holds: bool = False
    wait: Callable[[], int | None] = lambda: None


ALONE = Processes()


def start(
    experiment: Experiment,
    folder: Path,
    console: Console,
    processes: Processes = ALONE,
    references: Mapping[str, Reference] | None = None,
    minutes: float | None = None,
    log: Sequence[str] = (),
    initial: Source | Parameters | None = None,
    callback: Callback | None = None,
) -> int | None:
    """Trains a new experiment in a new folder; each of several processes calls it.

    Runs that do not fit into memory together are trained in waves. Several processes divide the runs among them. In both cases,
    each part is trained in its own folder below `folder`, and `folder` receives all runs when all parts are done.

    Args:
        experiment: the experiment to train.
        folder: folder of the results, absent or empty.
        console: console for progress.
        processes: the processes that share the work.
        references: returns of the reference policies. By default they are read from `reference_returns.json`; if they are not
            there, the policies are played.
        minutes: measured duration of training in minutes on 2 CPU cores, if known.
        log: names of loggers, in addition to metrics.jsonl.
        initial: initial parameters, or the folder that holds them; random parameters by default.
        callback: function to call after every evaluation.

    Returns:
        None when training is complete, `ENDED` if the callback ended it, else the number of the signal that stopped it.

    Raises:
        OptionError: if the experiment is not valid, before anything is compiled for training.
        FolderError: if the folder is in use or cannot be written.
    """
    session = prepare(experiment, folder, {}, log)
    if isinstance(initial, Source):
        try:
            initial = read_parameters(initial, session.built)
        except ValueError as error:
            raise OptionError(str(error)) from error
    session, plan = session._replace(initial=initial), planned(session)
    size = part_size(session, plan, processes)
    announce(session, plan, size, processes, console, minutes)
    with owning(folder, console, processes, hold_new_folder):
        if processes.index == 0:
            make_folder(folder)
        if references is None:
            references = measured_references(experiment.env_name, experiment.env_options)
        if references is None:
            say(console, "Playing the reference policies")
            with explaining_exhaustion(lambda: plan, folder):
                references = play_references(session.built)
        session = session._replace(references=references, callback=callback)
        if processes.count == 1 and size == len(experiment.runs):
            with writing(folder):
                write_json(folder / CONFIG, describe(session))
            return train(session, console)
        sizes = even_sizes(len(experiment.runs), size)
        if processes.index == 0:
            with writing(folder):
                if initial is not None:
                    save_parameters(folder, initial)
                write_json(folder / CONFIG, describe(session) | {PARTS: sizes})
        return train_parts(cut_parts(experiment, sizes, folder), folder, console, processes, references, log, initial, callback)


@contextmanager
def owning(
    folder: Path, console: Console, processes: Processes, hold: Callable[[Path], AbstractContextManager[Hold]]
) -> Iterator[None]:
    """Within the context, these processes hold `folder`; raises FolderError if other processes hold it."""
    if processes.holds:
        yield
        return
    with hold(folder) as held:
        if not held.works:
            say(console, f"{folder} cannot be locked on this file system: let no other process train there.")
        yield


def resume(
    folder: Path,
    console: Console,
    processes: Processes = ALONE,
    episodes: int | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
    callback: Callback | None = None,
) -> int | None:
    """Resumes the experiment of a folder like `start`; also raises CheckpointError if no checkpoint can be used.

    `episodes` is a new number of episodes. `given` holds the environment or the algorithm if it is an object.
    """
    experiment = dataclasses.replace(read_experiment(folder), **given)
    with owning(folder, console, processes, hold_folder):
        if episodes is None:
            return go_on(experiment, folder, console, processes, callback)
        longer = extend(folder, experiment, episodes, console)
        if longer == experiment and is_finished(folder):
            say(console, f"{folder} has been trained for {episodes:,} episodes: there is nothing to do.")
            return None
        return go_on(longer, folder, console, processes, callback)


def go_on(
    experiment: Experiment,
    folder: Path,
    console: Console,
    processes: Processes = ALONE,
    callback: Callback | None = None,
) -> int | None:
    """Trains what is left of an experiment in its folder. config.json may still hold another number of episodes."""
    content = read_config(folder)
    references, log = read_references(content), content.get("log", [])
    parts = parts_of(folder, experiment)
    if not parts:
        latest_checkpoint(folder / CHECKPOINTS)
        return train(prepare(experiment, folder, references, log)._replace(callback=callback), console, resume=True)
    if processes.index == 0 and experiment.training != read_experiment(folder).training:
        with writing(folder):
            record_length(folder, experiment, build(experiment).schedule)
    return train_parts(parts, folder, console, processes, references, log, saved_parameters(folder), callback)


def parts_of(folder: Path, experiment: Experiment) -> list[tuple[Experiment, Path]]:
    """The parts in which a folder's experiment is trained, with their folders; empty if it is trained as a whole."""
    sizes = read_config(folder).get(PARTS)
    if sizes:
        return cut_parts(experiment, sizes, folder)
    begun = sorted(path.parent for path in (folder / PARTS).glob(f"*/{CONFIG}"))  # by `mamt sweep`
    return [(with_episodes(read_experiment(where), experiment.training.episodes), where) for where in begun]


def cut_parts(experiment: Experiment, sizes: Sequence[int], folder: Path) -> list[tuple[Experiment, Path]]:
    """Parts of an experiment with `sizes` runs each, and their folders below `folder`."""
    return [(part, folder / PARTS / f"{number:03d}") for number, part in enumerate(cut(experiment, sizes))]


def extend(folder: Path, experiment: Experiment, episodes: int, console: Console) -> Experiment:
    """The experiment of a folder with a new number of episodes, once it is certain that its runs can continue to it.

    The experiment is returned unchanged if the number of iterations stays the same.

    Raises:
        OptionError: if the runs cannot continue to it.
        FolderError: if the folder holds too little to continue.
        CheckpointError: if no checkpoint of one of the parts can be used.
    """
    longer = with_episodes(experiment, episodes)
    built = prepare(longer, folder, {}).built
    limit, iterations = built.env.spec.episode_limit, built.schedule.total_iterations
    if iterations == make_schedule(experiment.training, limit, built.algorithm.data).total_iterations:
        return experiment
    parts = parts_of(folder, longer)
    if not parts:
        latest_checkpoint(folder / CHECKPOINTS)
        parts = [(longer, folder)]
    done = read_done([where for _, where in parts])
    if len(done) == len(parts) and all(each.halted for each in done):
        raise OptionError(
            f"--episodes {episodes} is not valid: all runs of {folder} have stopped. See `{STOPPED}` in {METRICS}."
        )
    most = max((each.iterations for each in done), default=0)
    if iterations <= most:
        number = built.schedule.env_steps(most) // limit
        raise OptionError(f"--episodes {episodes} is not valid: {folder} has already done {number:,} episodes. Give more.")
    largest = max((part for part, _ in parts), key=lambda part: len(part.runs))
    session = prepare(largest, folder, {})
    if part_size(session, plan := planned(session), ALONE) < len(largest.runs):
        raise OptionError(f"--episodes {episodes} is not valid: it needs more memory than this machine has ({plan}).")
    say(console, f"{folder}: extended from {experiment.training.episodes:,} to {episodes:,} episodes. {outcome(built, done)}")
    return longer


def outcome(built: Built, done: Sequence[Done]) -> str:
    """A sentence on how the continued runs relate to runs that had the new number of episodes from the start."""
    if isinstance(built.env, HostEnvironment):
        return "Environments outside JAX begin new episodes. The result differs from a single run of that length."
    if any(each.evaluated == each.iterations and each.iterations % built.schedule.evaluation_iterations for each in done):
        return (
            f"The result equals a single run of that length, but {METRICS} keeps the evaluation at the earlier end, "
            "because an earlier version wrote that checkpoint."
        )
    return "On a CPU the result equals a single run of that length bit for bit."


def train_parts(
    parts: Sequence[tuple[Experiment, Path]],
    folder: Path,
    console: Console,
    processes: Processes,
    references: Mapping[str, Reference],
    log: Sequence[str] = (),
    initial: Parameters | None = None,
    callback: Callback | None = None,
) -> int | None:
    """Trains the parts of this process one after another, and merges all parts once they are done."""
    ends = list(itertools.accumulate(len(part.runs) for part, _ in parts))
    for number, ((part, where), end) in enumerate(zip(parts, ends, strict=True)):
        if number % processes.count == processes.index:
            first = end - len(part.runs)
            own, called = initial and initial.part(first, end), callback and counted_from(first, callback)
            try:
                stopped = start_or_resume(part, where, console, references, log, own, called)
            except NonFiniteError as error:  # the runs of other parts continue
                say(console, f"{where}: {error}")
                continue
            if stopped is not None:
                return stopped
    stopped = processes.wait()
    if stopped is not None:
        return stopped
    if processes.index == 0:
        folders = [where for _, where in parts]
        if not all(is_finished(where) for where in folders):
            raise FolderError(
                f"{folder} is not complete, because a process stopped early: continue with --resume {quoted(folder)}."
            )
        merge_folders(folders, folder, {name: value for name, value in read_config(folder).items() if name in OF_ALL_PARTS})
        if all(read_record(latest_checkpoint(folder / CHECKPOINTS))["halts"]):
            raise NonFiniteError(f"All runs have stopped: see `{STOPPED}` in {folder / METRICS}.")
    return None


def counted_from(first: int, callback: Callback) -> Callback:
    """A callback for a part whose run 0 is run number `first` of the experiment."""
    return lambda rows, policy: callback(
        [{**row, "run": row["run"] + first} for row in rows], lambda run=first: policy(run - first)
    )


def start_or_resume(
    experiment: Experiment,
    folder: Path,
    console: Console,
    references: Mapping[str, Reference] | None = None,
    log: Sequence[str] = (),
    initial: Parameters | None = None,
    callback: Callback | None = None,
) -> int | None:
    """Starts or continues training in a folder. Runs that were killed before their first checkpoint start again."""
    if is_finished(folder) and read_experiment(folder).training.episodes >= experiment.training.episodes:
        return None
    if (folder / CONFIG).exists() and (PARTS in read_config(folder) or any((folder / CHECKPOINTS).glob("*.npz"))):
        with owning(folder, console, ALONE, hold_folder):
            return go_on(experiment, folder, console, callback=callback)
    clear_folder(folder)
    return start(experiment, folder, console, references=references, log=log, initial=initial, callback=callback)


def default_folder(experiment: Experiment) -> Path:
    """The default name of a new folder: runs/ENV-ALGO-TIME."""
    name = re.sub(r"[^\w.]+", "-", f"{experiment.env_name}-{experiment.algo_name}").strip("-")
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def prepare(experiment: Experiment, folder: Path, references: Mapping[str, Reference], log: Sequence[str] = ()) -> Session:
    """Builds a session, which takes no memory for training yet; raises OptionError if the experiment is not valid."""
    with refusing(experiment):
        for name in log:
            check_logger(name)
        return open_session(experiment, build(experiment), folder, references, log)


def planned(session: Session) -> MemoryPlan:
    """The memory plan of a session; raises OptionError if the experiment is not valid."""
    with refusing(session.experiment):
        return plan_memory(session)


@contextmanager
def refusing(experiment: Experiment) -> Iterator[None]:
    """Within the context, an error caused by the options of an experiment is raised as OptionError."""
    try:
        yield
    except ValueError as error:
        raise OptionError(str(error)) from error
    except Exception as error:
        options = {**experiment.env_options, **experiment.algo_options}
        if not options:
            raise
        sentence = (
            f"{experiment.algo_name} cannot be built on {experiment.env_name} with {options}: {str(error).splitlines()[0]}."
        )
        raise OptionError(sentence) from error


def part_size(session: Session, plan: MemoryPlan, processes: Processes) -> int:
    """How many runs to train side by side: the share of one process, or fewer if that does not fit into memory."""
    share = math.ceil(len(session.experiment.runs) / processes.count)
    capacity = session.built.schedule.capacity if session.built.algorithm.data == "replay" else 0
    try:
        fitting = runs_that_fit(plan, capacity, available_bytes(session.runs.sharding.device_set))
    except ValueError as error:
        raise OptionError(str(error)) from error
    return max(size for size in range(1, share + 1) if size == 1 or padded_runs(size) <= fitting)


def announce(
    session: Session, plan: MemoryPlan, size: int, processes: Processes, console: Console, minutes: float | None
) -> None:
    """Prints what will be trained: runs, length, device, memory and folder."""
    experiment, built = session.experiment, session.built
    schedule, spec, device = built.schedule, built.env.spec, jax.local_devices()[0]
    used, waves = session.runs.sharding.num_devices, len(even_sizes(len(experiment.runs), size))
    iterations = schedule.total_iterations
    seeds = sorted({run["seed"] for run in experiment.runs})
    lines = [
        f"{experiment.algo_name} on {experiment.env_name}: {spec.num_agents} agents, episodes of {spec.episode_limit} steps",
        f"Runs      {len(experiment.runs)}, seeds {', '.join(map(str, seeds))}",
        f"Each      {experiment.training.episodes:,} episodes, {schedule.env_steps(iterations):,} environment steps, "
        f"{schedule.num_updates(iterations):,} updates",
        f"Device    {device.device_kind} ({device.platform}), {used} of {jax.local_device_count()}",
        f"Memory    {plan}",
        f"Folder    {session.folder}",
        f"Stop with Ctrl-C. Continue with: mamt train --resume {quoted(session.folder)}",
    ]
    if session.initial is not None:
        lines[4:4] = from_where(session.initial)
    if processes.count > 1:
        lines.insert(2, f"Process   {processes.index} of {processes.count}, {waves} parts of up to {size} runs")
    elif waves > 1:
        lines.insert(2, f"Waves     {waves} of up to {size} runs, because not all runs fit into memory")
    if minutes is not None:
        takes = duration(60 * minutes)
        lines.append(f"This takes about {takes} on 2 CPU cores. --preset paper trains with the paper's settings.")
    say(console, "\n".join(lines))


def from_where(initial: Parameters) -> list[str]:
    """Lines that describe the initial parameters of the runs."""
    record, runs = initial.record, sorted(set(initial.record["runs"]))
    what = "all parameters" if record["parameters"] == "all" else "the policies"
    which = f"run{'s' * (len(runs) > 1)} {', '.join(map(str, runs))} of {record['folder']} ({record['file']})"
    return [f"Starts    from {what} of {which}, with new optimizer states", *(f"          {note}" for note in initial.notes)]


def play_references(built: Built) -> dict[str, Reference]:
    """Plays the reference policies; those whose mean returns are not finite are left out."""
    return {name: found for name, found in _play_references(built).items() if math.isfinite(found.value)}


def _play_references(built: Built) -> dict[str, Reference]:
    limit = built.env.spec.episode_limit
    episodes = max(20, (SHORT_REFERENCE_STEPS if limit <= SHORT else REFERENCE_STEPS) // limit)
    episodes = HOST_REFERENCE_EPISODES if isinstance(built.env, HostEnvironment) else episodes
    played = evaluate_policies(built.env, reference_policies(built.env), jax.random.key(0), episodes)
    return {name: Reference(result["return"], result["return_std_error"]) for name, result in played.items()}


def describe(session: Session) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "experiment": experiment_to_json(session.experiment),
        "algorithm_configs": config_values(session.built.configs),
        "training": dataclasses.asdict(session.experiment.training),
        "schedule": session.built.schedule._asdict(),
        "spec": spec_to_json(session.built.env.spec),
        **references_to_json(session.references),
        "log": list(session.log),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        **({} if session.initial is None else {INIT_FROM: dict(session.initial.record)}),
    } | describe_machine()
