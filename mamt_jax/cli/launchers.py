"""Launchers, which train the tasks of a sweep: in this process or on a Ray cluster."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console

from mamt_jax.options import OptionError
from mamt_jax.training.console import plain_console, say
from mamt_jax.training.experiment import Experiment
from mamt_jax.training.launch import EXPECTED, start_or_resume

RETRIES = 3


class Task(NamedTuple):
    """A part of a sweep that one process trains.

    Attributes:
        folder: folder of the results.
        experiment: the runs to train.
        log: names of loggers.
    """

    folder: Path
    experiment: Experiment
    log: Sequence[str] = ()


Launcher = Callable[[Sequence[Task], Console, float, float], dict[Path, str]]
"""(tasks, console, CPU cores per task, GPUs per task) -> error messages by folder."""


def train_task(task: Task) -> str | None:
    """Starts or resumes a task; returns an error message, or None if it has finished."""
    try:
        stopped = start_or_resume(task.experiment, task.folder, plain_console(), log=task.log)
    except EXPECTED as error:
        return str(error)
    finally:
        jax.clear_caches()
    return None if stopped is None else f"stopped by signal {stopped}"


def launch_local(tasks: Sequence[Task], console: Console, cpus: float, gpus: float) -> dict[Path, str]:
    """Trains one task after another in this process, with all its cores and GPUs. A signal stops the remaining tasks."""
    del cpus, gpus
    failures: dict[Path, str] = {}
    for number, task in enumerate(tasks):
        say(console, f"Task {number + 1} of {len(tasks)}: {task.folder}")
        failure = train_task(task)
        if failure is not None:
            failures[task.folder] = failure
        if failure is not None and failure.startswith("stopped"):
            break
    return failures


def launch_ray(tasks: Sequence[Task], console: Console, cpus: float, gpus: float) -> dict[Path, str]:
    """Trains tasks in parallel on the Ray cluster that RAY_ADDRESS names, or on this machine.

    If a worker dies, its task is retried elsewhere and resumes from the last checkpoint.

    Raises:
        OptionError: if Ray is not installed.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # print all lines, though those of tasks look alike
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise OptionError("--launcher ray needs Ray: install it with `pip install -e '.[ray]'`.") from error
    # The user's environments and algorithms are imported from the working directory.
    paths = os.pathsep.join(os.path.abspath(path) for path in [*filter(None, sys.path), os.getcwd()])
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "os.fork", RuntimeWarning
        )  # JAX warns about its threads, but Ray's children exec at once
        ray.init(runtime_env={"env_vars": {"PYTHONPATH": paths}}, include_dashboard=False)
    try:
        # Each try gets a new worker, which frees the memory of its GPU when it ends.
        train = ray.remote(max_retries=RETRIES, max_calls=1, num_cpus=cpus, num_gpus=gpus)(train_task)
        waiting = {train.remote(task._replace(folder=task.folder.absolute())): task for task in tasks}
        failures: dict[Path, str] = {}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting))
            task = waiting.pop(done)
            try:
                failure = ray.get(done)
            except RayError as error:
                failure = str(error)
            if failure is not None:
                failures[task.folder] = failure
            say(console, f"{'Failed' if failure else 'Done'}: {task.folder}")
        return failures
    finally:
        ray.shutdown()


LAUNCHERS: dict[str, Launcher] = {"local": launch_local, "ray": launch_ray}
