"""From an experiment to a folder of results: all runs side by side, or in parts where memory or processes ask for it."""

import dataclasses
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from envs_jax.environment import HostEnvironment, HostError
from envs_jax.host import play_host_references
from envs_jax.reference_policies import evaluate_policies, reference_policies
from experiments.options import OptionError
from experiments.presets import BUDGETS, QUICK_EPISODES
from experiments.reference_returns import committed_references
from mamt_jax.training.breakdown import BreakdownError
from mamt_jax.training.checkpoint import CheckpointError, latest_checkpoint, read_record
from mamt_jax.training.experiment import Built, Experiment, build, config_values, experiment_to_json
from mamt_jax.training.loggers import check_logger
from mamt_jax.training.loop import train
from mamt_jax.training.memory import MemoryPlan, OutOfMemoryError, available_bytes, explaining_exhaustion, runs_that_fit
from mamt_jax.training.merge import cut, even_sizes, is_finished, merge_folders, read_experiment
from mamt_jax.training.references import Reference, read_references, references_to_json
from mamt_jax.training.runs import padded_runs
from mamt_jax.training.session import Session, open_session, plan_memory
from mamt_jax.training.writers import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    FolderError,
    create_folder,
    describe_machine,
    make_folder,
    read_config,
    spec_to_json,
    write_json,
    writing,
)

EXPECTED = (OptionError, FolderError, CheckpointError, HostError, BreakdownError, OutOfMemoryError)
"""What ends a command in one sentence."""
PARTS = "parts"
REFERENCE_STEPS, SHORT_REFERENCE_STEPS = 25_000, 100_000  # of whole episodes; the latter where they are `SHORT`, and cheap
SHORT = 100
HOST_REFERENCE_ENVS, HOST_REFERENCE_EPISODES = 12, 4


class Crew(NamedTuple):
    """The processes that train together.

    Attributes:
        index: which of them this is.
        count: how many there are.
        wait: returns once all have come to their end.
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None


ALONE = Crew()


def start(
    experiment: Experiment,
    folder: Path,
    console: Console,
    crew: Crew = ALONE,
    references: Mapping[str, Reference] | None = None,
    quick: bool = False,
    log: Sequence[str] = (),
) -> int | None:
    """Trains a new experiment in a new folder; each process of a crew calls it.

    Runs that do not fit into memory together are trained in waves, and a crew's each by one process: either way in parts, every
    one a folder of its own below `folder`, which are put together in `folder` when all are done.

    Args:
        experiment: what to train.
        folder: where; absent or empty.
        console: where progress goes.
        crew: the processes that share the work.
        references: what reference policies earn; by default what `reference_returns` has found, else they are played.
        quick: whether to say that this is a short run.
        log: names of loggers, besides metrics.jsonl.

    Returns:
        None when all is done, else the number of the signal that stopped it.

    Raises:
        OptionError: if it cannot work, before anything is compiled for training.
        FolderError: if the folder is in use or cannot be written.
    """
    session = prepare(experiment, folder, {}, log)
    plan = planned(session)
    size = part_size(session, plan, crew)
    announce(session, plan, size, crew, console, quick)
    if crew.count == 1:
        create_folder(folder)
    if references is None:
        references = committed_references(experiment.env, experiment.env_options)
    if references is None:
        console.print("Playing the reference policies", highlight=False)
        with explaining_exhaustion(lambda: plan, folder):
            references = play_references(session.built)
    session = session._replace(references=references)
    if crew.count == 1 and size == len(experiment.runs):
        with writing(folder):
            write_json(folder / CONFIG, describe(session))
        return train(session, console)
    sizes = even_sizes(len(experiment.runs), size)
    if crew.index == 0:
        make_folder(folder)
        with writing(folder):
            write_json(folder / CONFIG, describe(session) | {PARTS: sizes})
    return train_parts(experiment, sizes, folder, console, crew, references, log)


def resume(folder: Path, console: Console, crew: Crew = ALONE) -> int | None:
    """Goes on with the experiment of a folder; as `start`, and raises CheckpointError if there is nothing to go on from."""
    content, experiment = read_config(folder), read_experiment(folder)
    references, log = read_references(content), content.get("log", [])
    if PARTS in content:
        return train_parts(experiment, content[PARTS], folder, console, crew, references, log)
    latest_checkpoint(folder / CHECKPOINTS)
    return train(prepare(experiment, folder, references, log), console, resume=True)


def train_parts(
    experiment: Experiment,
    sizes: list[int],
    folder: Path,
    console: Console,
    crew: Crew,
    references: Mapping[str, Reference],
    log: Sequence[str] = (),
) -> int | None:
    """Trains this process's parts, one after another, and puts all together once they are done."""
    parts = [(part, folder / PARTS / f"{number:03d}") for number, part in enumerate(cut(experiment, sizes))]
    for number, (part, where) in enumerate(parts):
        if number % crew.count == crew.index:
            try:
                stopped = start_or_resume(part, where, console, references, log)
            except BreakdownError as error:  # the runs of other parts go on
                console.print(f"{where}: {error}", highlight=False)
                continue
            if stopped is not None:
                return stopped
    crew.wait()
    if crew.index == 0:
        folders = [where for _, where in parts]
        if not all(is_finished(where) for where in folders):
            raise FolderError(f"{folder} is not complete, a process stopped early: go on with --resume {folder}.")
        merge_folders(folders, folder, {PARTS: sizes})
        if all(read_record(latest_checkpoint(folder / CHECKPOINTS))["breakdowns"]):
            raise BreakdownError(f"All runs have stopped: {folder / METRICS} says where.")
    return None


def start_or_resume(
    experiment: Experiment,
    folder: Path,
    console: Console,
    references: Mapping[str, Reference] | None = None,
    log: Sequence[str] = (),
) -> int | None:
    """Trains in a folder from wherever what is there ends; what was killed before its first checkpoint starts anew."""
    if is_finished(folder):
        return None
    if (folder / CONFIG).exists() and (PARTS in read_config(folder) or any((folder / CHECKPOINTS).glob("*.npz"))):
        return resume(folder, console)
    shutil.rmtree(folder, ignore_errors=True)
    return start(experiment, folder, console, references=references, log=log)


def prepare(experiment: Experiment, folder: Path, references: Mapping[str, Reference], log: Sequence[str] = ()) -> Session:
    """Builds everything that takes no memory; raises OptionError if it cannot work."""
    with refusing(experiment):
        for name in log:
            check_logger(name)
        return open_session(experiment, build(experiment), folder, references, log)


def planned(session: Session) -> MemoryPlan:
    """What training will take; raises OptionError if it cannot work."""
    with refusing(session.experiment):
        return plan_memory(session)


@contextmanager
def refusing(experiment: Experiment) -> Iterator[None]:
    """Within it, what goes wrong in building an experiment is raised as OptionError."""
    try:
        yield
    except ValueError as error:
        raise OptionError(str(error)) from error
    except Exception as error:
        options = {**experiment.env_options, **experiment.algo_options}
        if not options:
            raise
        sentence = f"{experiment.algo} cannot be built on {experiment.env} with {options}: {str(error).splitlines()[0]}."
        raise OptionError(sentence) from error


def part_size(session: Session, plan: MemoryPlan, crew: Crew) -> int:
    """How many runs are trained side by side: a process's share, or as many of it as fit into memory."""
    share = math.ceil(len(session.experiment.runs) / crew.count)
    capacity = session.built.schedule.capacity if session.built.algorithm.data == "replay" else 0
    try:
        fitting = runs_that_fit(plan, capacity, available_bytes(session.runs.sharding.device_set))
    except ValueError as error:
        raise OptionError(str(error)) from error
    return max(size for size in range(1, share + 1) if size == 1 or padded_runs(size) <= fitting)


def announce(session: Session, plan: MemoryPlan, size: int, crew: Crew, console: Console, quick: bool) -> None:
    """Says what will happen."""
    experiment, built = session.experiment, session.built
    schedule, spec, device = built.schedule, built.env.spec, jax.local_devices()[0]
    used, waves = session.runs.sharding.num_devices, len(even_sizes(len(experiment.runs), size))
    rounds = schedule.total_rounds
    seeds = sorted({run["seed"] for run in experiment.runs})
    lines = [
        f"{experiment.algo} on {experiment.env}: {spec.num_agents} agents, episodes of {spec.episode_limit} steps",
        f"Runs      {len(experiment.runs)}, seeds {', '.join(map(str, seeds))}",
        f"Each      {experiment.training.episodes:,} episodes, {schedule.env_steps(rounds):,} environment steps, "
        f"{schedule.num_updates(rounds):,} updates",
        f"Device    {device.device_kind} ({device.platform}), {used} of {jax.local_device_count()}",
        f"Memory    {plan}",
        f"Folder    {session.folder}",
        f"Stop with Ctrl-C; go on with: python experiments/run.py --resume {session.folder}",
    ]
    if crew.count > 1:
        lines.insert(2, f"Process   {crew.index} of {crew.count}, {waves} shares of up to {size} runs")
    elif waves > 1:
        lines.insert(2, f"Waves     {waves} of up to {size} runs, since not all fit into memory at once")
    if quick:
        lines.append(
            f"This is a short run of {QUICK_EPISODES:,} episodes: MAMT on Rover-Tower takes 2 to 5 minutes on 2 CPU cores. "
            f"--preset paper trains {BUDGETS['paper']['episodes']:,} episodes with the paper's settings."
        )
    console.print("\n".join(lines), highlight=False)


def play_references(built: Built) -> dict[str, Reference]:
    """What each reference policy earns; those whose returns are not finite are left out."""
    return {name: found for name, found in _play_references(built).items() if math.isfinite(found.value)}


def _play_references(built: Built) -> dict[str, Reference]:
    if isinstance(built.env, HostEnvironment):
        played = play_host_references(built.env, 0, HOST_REFERENCE_ENVS, HOST_REFERENCE_EPISODES)
        returns = {name: episodes.episode_return.mean(-1).ravel() for name, episodes in played.items()}
        return {name: Reference(float(each.mean()), float(each.std(ddof=1) / each.size**0.5)) for name, each in returns.items()}
    limit = built.env.spec.episode_limit
    episodes = max(20, (SHORT_REFERENCE_STEPS if limit <= SHORT else REFERENCE_STEPS) // limit)
    played = evaluate_policies(built.env, reference_policies(built.env), jax.random.key(0), episodes)
    return {name: Reference(result["return"], result["return_std_error"]) for name, result in played.items()}


def describe(session: Session) -> dict[str, Any]:
    """What config.json holds."""
    return {
        "experiment": experiment_to_json(session.experiment),
        "algorithm_configs": config_values(session.built.configs),
        "training": dataclasses.asdict(session.experiment.training),
        "schedule": session.built.schedule._asdict(),
        "spec": spec_to_json(session.built.env.spec),
        **references_to_json(session.references),
        "log": list(session.log),
        "command": sys.argv,
    } | describe_machine()
