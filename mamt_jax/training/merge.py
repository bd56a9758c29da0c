"""Merges folders of runs from other times or machines, which differ only in seeds and values of float fields."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mamt_jax.training.best import merge_best
from mamt_jax.training.checkpoint import CheckpointError, iterations_of, latest_checkpoint, merge_checkpoints
from mamt_jax.training.experiment import Experiment, experiment_from_json, experiment_to_json
from mamt_jax.training.learning_curve import plot_learning_curve
from mamt_jax.training.run_folder import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    CURVE,
    METRICS,
    FolderError,
    quoted,
    read_config,
    read_rows,
    replace_rows,
    write_json,
    writing,
)

REPLAY = "replay"
INIT_FROM = "init_from"
"""Field of config.json about the initial parameters of the runs, if they are not random."""
OF_EACH_RUN = ("runs", "env_steps")
"""Entries of `INIT_FROM` with one value per run. All other entries are shared by the runs."""


def even_sizes(number: int, largest: int) -> list[int]:
    """Divides `number` into the fewest pieces of at most `largest`, with sizes as equal as possible."""
    pieces = math.ceil(number / largest)
    return [number * (piece + 1) // pieces - number * piece // pieces for piece in range(pieces)]


def cut(experiment: Experiment, sizes: Sequence[int]) -> list[Experiment]:
    """Divides an experiment into experiments with `sizes` runs each."""
    ends = itertools.accumulate(sizes)
    return [
        dataclasses.replace(experiment, runs=experiment.runs[end - size : end]) for end, size in zip(ends, sizes, strict=True)
    ]


def read_experiment(folder: Path) -> Experiment:
    """Reads the experiment of a folder; raises FolderError if its config.json does not describe one."""
    try:
        return experiment_from_json(read_config(folder)["experiment"])
    except (KeyError, ValueError) as error:
        raise FolderError(f"{folder / CONFIG} cannot be used: {error}.") from error


def same_but_for_runs(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments differ only in their runs, which means in seeds and in fields set for each run."""
    a, b = (dataclasses.replace(each, runs=(), training=dataclasses.replace(each.training, seed=0)) for each in (one, other))
    return experiment_to_json(a) == experiment_to_json(b)


def is_finished(folder: Path) -> bool:
    """Whether the runs in `folder` are complete. False if there are no runs or no checkpoint."""
    if not (folder / CONFIG).exists() or not any((folder / CHECKPOINTS).glob("*.npz")):
        return False
    iterations = iterations_of(latest_checkpoint(folder / CHECKPOINTS))
    return iterations == read_config(folder).get("schedule", {}).get("total_iterations")


def merge_folders(folders: Sequence[Path], out: Path, extra: dict[str, Any] | None = None) -> None:
    """Writes the runs of all `folders`, in order, into `out`, as if they had been trained together.

    The checkpoint in `out` holds no replay memory. Policies can be loaded from it, but training can only be continued in
    `folders`. `extra` is added to config.json.

    Raises:
        FolderError: if a folder is not finished, if its experiment or initial parameters are not those of the first, or if
            `out` cannot be written.
        CheckpointError: if a checkpoint cannot be used.
    """
    configs, experiments = [read_config(folder) for folder in folders], [read_experiment(folder) for folder in folders]
    for folder in folders:
        if not is_finished(folder):
            raise FolderError(f"{folder} is not finished: continue it with mamt train --resume {quoted(folder)}.")
    experiments = _with_own_fields(experiments, configs)
    for folder, experiment in zip(folders, experiments, strict=True):
        if not same_but_for_runs(experiment, experiments[0]):
            raise FolderError(f"{folder} holds another experiment than {folders[0]}: only seeds and float fields may differ.")
    origins = [config.get(INIT_FROM) for config in configs]
    for folder, origin in zip(folders, origins, strict=True):
        if not same_origin([origins[0], origin]):
            raise FolderError(f"{folder} started from other initial parameters than {folders[0]}: they must be the same.")
    whole = dataclasses.replace(experiments[0], runs=tuple(run for each in experiments for run in each.runs))
    algorithm_configs = [config for each in configs for config in each["algorithm_configs"]]
    rows = _merged_rows(folders, experiments)
    content = configs[0] | {"experiment": experiment_to_json(whole), "algorithm_configs": algorithm_configs}
    content = content | joined_origin(origins) | (extra or {})
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            merge_checkpoints([latest_checkpoint(folder / CHECKPOINTS) for folder in folders], out / CHECKPOINTS, REPLAY)
        except CheckpointError as error:
            raise CheckpointError(f"{error} Recreate it with mamt train --resume on its folder, then merge again.") from error
        if all((folder / BEST).exists() for folder in folders):
            merge_best([folder / BEST for folder in folders], out / BEST)
        replace_rows(out / METRICS, rows)
        write_json(out / CONFIG, content)
        plot_learning_curve(out, out / CURVE)


def same_origin(records: Sequence[Mapping[str, Any] | None]) -> bool:
    """Whether entries of config.json describe the same source of initial parameters; the runs of the source may differ."""
    rest = [record and {name: value for name, value in record.items() if name not in OF_EACH_RUN} for record in records]
    return all(each == rest[0] for each in rest)


def joined_origin(records: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Joins the entries of config.json about initial parameters from one source; empty if the parameters were random."""
    if records[0] is None:
        return {}
    of_each = {name: [value for record in records if record for value in record[name]] for name in OF_EACH_RUN}
    return {INIT_FROM: {**records[0], **of_each}}


def _with_own_fields(experiments: Sequence[Experiment], configs: Sequence[dict[str, Any]]) -> list[Experiment]:
    """The experiments, with each float option that differs between them moved into the fields of every run."""
    options = [experiment.algo_options for experiment in experiments]
    names = {name for each in options for name in each if any(name not in o or o[name] != each[name] for o in options)}
    moved = []
    for experiment, config in zip(experiments, configs, strict=True):
        values = config["algorithm_configs"]
        floats = [name for name in sorted(names) if all(isinstance(each.get(name), float) for each in values)]
        runs = tuple({**run} | {name: each[name] for name in floats} for run, each in zip(experiment.runs, values, strict=True))
        rest = {name: value for name, value in experiment.algo_options.items() if name not in floats}
        moved.append(dataclasses.replace(experiment, runs=runs, algo_options=rest))
    return moved


def _merged_rows(folders: Sequence[Path], experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    """The rows of all folders, with the runs renumbered."""
    rows, first = [], 0
    for folder, experiment in zip(folders, experiments, strict=True):
        rows += [row | {"run": first + row["run"]} for row in read_rows(folder / METRICS)]
        first += len(experiment.runs)
    return sorted(rows, key=lambda row: (row["env_steps"], row["run"]))
