"""Another length for a folder's runs: whether they can have it, and what config.json then says."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mamt_jax.training.checkpoint import holds, list_checkpoints, newest_usable, read_record
from mamt_jax.training.config import Schedule
from mamt_jax.training.experiment import Experiment, experiment_to_json
from mamt_jax.training.run_folder import CHECKPOINTS, CONFIG, FolderError, read_config, write_json

EXTENDED = "extended"
"""In config.json: one entry for every change of length, with the command that asked for it."""


class Done(NamedTuple):
    """What the runs of a folder have done.

    Attributes:
        iterations: of the newest checkpoint.
        evaluated: iterations done at the evaluation from which on that checkpoint's sums are made.
        halted: whether all runs have stopped.
    """

    iterations: int
    evaluated: int
    halted: bool


def with_episodes(experiment: Experiment, episodes: int) -> Experiment:
    """The experiment with so many episodes."""
    return dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, episodes=episodes))


def read_done(folders: Sequence[Path]) -> list[Done]:
    """What was done in each of the folders that hold a checkpoint.

    Raises:
        FolderError: if the checkpoint of one holds no replay memory.
        CheckpointError: if none of the checkpoints of one can be used.
    """
    done = []
    for folder in (folder for folder in folders if list_checkpoints(folder / CHECKPOINTS)):
        path, record, _ = newest_usable(folder / CHECKPOINTS, read_record)
        if not holds(path, "replay"):
            raise FolderError(
                f"{folder} was put together from folders that were trained apart and holds no replay memory: "
                "extend those folders, then put them together again by mamt sweep --merge."
            )
        iterations = record["iterations"]
        done.append(Done(iterations, record.get("evaluated", iterations), all(record.get("halts", [None]))))
    return done


def record_length(folder: Path, experiment: Experiment, schedule: Schedule) -> None:
    """Makes config.json say how long the folder's runs are now, if it says otherwise; raises OSError or FolderError."""
    content = read_config(folder)
    before = content["experiment"]["training"]["episodes"]
    if before != experiment.training.episodes:
        write_json(folder / CONFIG, lengthened(content, before, experiment, schedule))


def lengthened(content: dict[str, Any], before: int, experiment: Experiment, schedule: Schedule) -> dict[str, Any]:
    """config.json of an experiment that had so many episodes `before`."""
    change = {"from_episodes": before, "to_episodes": experiment.training.episodes, "command": sys.argv}
    return content | {
        "experiment": experiment_to_json(experiment),
        "training": dataclasses.asdict(experiment.training),
        "schedule": schedule._asdict(),
        EXTENDED: [*content.get(EXTENDED, []), change],
    }
