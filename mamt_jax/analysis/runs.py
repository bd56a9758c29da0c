"""Reads runs from their folders: what was trained, and every metric as an array."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mamt_jax.training.references import HOW, Reference, measured_references, read_references
from mamt_jax.training.run_folder import METRICS, FolderError, read_config, read_rows

TITLES = {
    "rover_tower": "Rover-Tower",
    "spread": "Spread",
    "spread3_sep": "Spread-3-Sep",
    "spread3_mix": "Spread-3-Mix",
    "spread3_ful": "Spread-3-Ful",
    "matrix_game": "Prisoner's dilemma",
    "pursuit": "Pursuit",
    "multiwalker": "Multi-Walker",
    "pettingzoo/multiwalker": "Multi-Walker, the original",
}

FAMILY = ("maac", "mamd", "mamd_op", "mamt")
"""Algorithms whose old policy is a copy from at most `old_policy_interval` updates ago; others define it differently."""


class Task(NamedTuple):
    """An environment with its options as (name, value) pairs. Runs on the same task can be compared."""

    env: str
    options: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        """Name of the task in figures."""
        options = ", ".join(
            f"{value} {name[4:]}" if name.startswith("num_") else f"{name.replace('_', ' ')} {value}"
            for name, value in self.options
        )
        return TITLES.get(self.env, self.env) + (f" ({options})" if options else "")

    @property
    def file_name(self) -> str:
        """Name of the task in file names."""
        text = "_".join((self.env, *(f"{name}_{value}" for name, value in self.options)))
        return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in text)

    @property
    def arguments(self) -> str:
        """Command-line options of the task."""
        options = [f" --{name.replace('_', '-')} {shlex.quote(value)}" for name, value in self.options]
        return f"--env {shlex.quote(self.env)}" + "".join(options)


class Run(NamedTuple):
    """All seeds of one algorithm with one setting on one task.

    Attributes:
        folder: folder that was read.
        task: the task.
        algo: name of the algorithm.
        label: name in figures.
        agents: names of the agents.
        references: returns of the reference policies by name, from `RETURNS` if it has the task, else measured by the run.
        numbers: indices of the R runs in the folder.
        seeds: seeds of the R runs.
        episodes: (T,), episodes at each evaluation after the first update, mean over runs.
        env_steps: (T,), environment steps at each of these evaluations.
        metrics: (R, T, ...) by name; nan where a value is missing.
    """

    folder: Path
    task: Task
    algo: str
    label: str
    agents: tuple[str, ...]
    references: Mapping[str, Reference]
    numbers: tuple[int, ...]
    seeds: tuple[int, ...]
    episodes: np.ndarray
    env_steps: np.ndarray
    metrics: Mapping[str, np.ndarray]


class Curve(NamedTuple):
    """A metric over training: episodes (T,) and values (R, T, ...)."""

    episodes: np.ndarray
    values: np.ndarray


def read_folder(folder: Path) -> list[Run]:
    """Reads the runs of a folder, one `Run` per setting of hyperparameters.

    Raises:
        FolderError: if the folder has no runs, or no evaluation after an update.
    """
    config = read_config(folder)
    rows = [row for row in read_rows(folder / METRICS) if row["updates"]]
    if not rows:
        raise FolderError(f"{folder} has no evaluation after an update in its {METRICS}: train it longer, or leave it out.")
    experiment = config["experiment"]
    settings: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for number, run in enumerate(experiment["runs"]):
        settings.setdefault(tuple((name, value) for name, value in run.items() if name != "seed"), []).append(number)
    options = [(name, value) for name, value in experiment["env_options"].items() if name not in HOW]
    task = Task(experiment["env"], tuple((name, str(value)) for name, value in options))
    runs = []
    for setting, numbers in settings.items():
        text = "".join(f" {name}={value:g}" for name, value in setting) if len(settings) > 1 else ""
        found = align([row for row in rows if row["run"] in numbers], len(numbers))
        run = Run(
            folder=folder,
            task=task,
            algo=experiment["algo"],
            label=experiment["algo"] + text,
            agents=tuple(config["spec"]["agent_names"]),
            references=measured_references(task.env, experiment["env_options"]) or read_references(config),
            numbers=tuple(numbers),
            seeds=tuple(experiment["runs"][number]["seed"] for number in numbers),
            episodes=np.array([np.mean([row["episodes"] for row in point]) for point in found]),
            env_steps=np.array([point[0]["env_steps"] for point in found]),
            metrics={name: gather(found, name) for name in shared_names(found)},
        )
        runs += [run] if found else []
    return runs


def align(rows: Sequence[Mapping[str, Any]], num_runs: int) -> list[list[Mapping[str, Any]]]:
    """Groups rows by evaluation, ordered by run; drops evaluations that not all `num_runs` runs have reached."""
    points: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        points.setdefault(row["updates"], []).append(row)
    return [sorted(point, key=lambda row: row["run"]) for point in points.values() if len(point) == num_runs]


def shared_names(points: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Names of the metrics that every row has, without counters."""
    every = [set(row) for point in points for row in point]
    counters = {"run", "seed", "env_steps", "episodes", "updates"}
    return sorted(set.intersection(*every) - counters) if every else []


def gather(points: Sequence[Sequence[Mapping[str, Any]]], name: str) -> np.ndarray:
    """A metric of every run and evaluation, (R, T, ...). A null becomes nan, broadcast to the shape of the metric."""
    values = [[np.array(row[name], float) for row in point] for point in points]
    shape = max((value.shape for point in values for value in point), key=len)
    return np.array([[np.broadcast_to(value, shape) for value in point] for point in values]).swapaxes(0, 1)


def read_folders(folders: Sequence[Path]) -> list[Run]:
    """Reads the runs of several folders. Runs with the same task and label get the folder's name as label."""
    runs = [run for folder in folders for run in read_folder(folder)]
    count = Counter((run.task, run.label) for run in runs)
    return [
        run._replace(label=run.label.replace(run.algo, run.folder.name, 1)) if count[run.task, run.label] > 1 else run
        for run in runs
    ]


def by_task(runs: Sequence[Run]) -> dict[Task, list[Run]]:
    """Groups runs by task, in the order given."""
    tasks: dict[Task, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    return tasks


def having(runs: Sequence[Run], *metrics: str) -> list[Run]:
    """The runs that recorded all of `metrics`."""
    return [run for run in runs if all(name in run.metrics and np.isfinite(run.metrics[name]).any() for name in metrics)]


def known(run: Run, metric: str) -> np.ndarray:
    """(T,) bool, true at evaluations where every seed has a finite value of `metric`."""
    values = run.metrics[metric]
    return np.asarray(np.isfinite(np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)).all(1))


def curve(run: Run, metric: str) -> Curve:
    """The curve of `metric` over training, without evaluations that lack a value."""
    there = known(run, metric)
    return Curve(run.episodes[there], run.metrics[metric][:, there])


def mean_over_agents(found: Curve) -> Curve:
    """Averages a curve (R, T, ...) over agents or pairs, (R, T)."""
    return found._replace(values=found.values.reshape(*found.values.shape[:2], -1).mean(-1))


def last_fifth(found: Curve) -> np.ndarray:
    """Mean over the last fifth of training, (R, ...)."""
    return found.values[:, found.episodes > 0.8 * found.episodes[-1]].mean(1)
