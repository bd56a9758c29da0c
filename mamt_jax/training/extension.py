"""Changes of the number of episodes of existing runs: what the runs have done, and the record in config.json."""

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
"""Field of config.json with one entry for each change of length, including the command that requested it."""


class Done(NamedTuple):
    """Progress of the runs in a folder.

    Attributes:
        iterations: iterations at the newest usable checkpoint.
        evaluated: iterations at the evaluation after which the sums of that checkpoint begin.
        halted: whether all runs have halted.
    """

    iterations: int
    evaluated: int
    halted: bool


def with_episodes(experiment: Experiment, episodes: int) -> Experiment:
    """The experiment with another number of episodes."""
    return dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, episodes=episodes))


def read_done(folders: Sequence[Path]) -> list[Done]:
    """Reads the progress in each of the folders that hold a checkpoint.

    Raises:
        FolderError: if the checkpoint of a folder holds no replay memory.
        CheckpointError: if no checkpoint of a folder can be used.
    """
    done = []
    for folder in (folder for folder in folders if list_checkpoints(folder / CHECKPOINTS)):
        path, record, _ = newest_usable(folder / CHECKPOINTS, read_record)
        if not holds(path, "replay"):
            raise FolderError(
                f"{folder} was merged from other folders and holds no replay memory: "
                "extend those folders, then merge them again with mamt sweep --merge."
            )
        iterations = record["iterations"]
        done.append(Done(iterations, record.get("evaluated", iterations), all(record.get("halts", [None]))))
    return done


def record_length(folder: Path, experiment: Experiment, schedule: Schedule) -> None:
    """Writes the experiment's number of episodes into config.json if that has another; raises OSError or FolderError."""
    content = read_config(folder)
    before = content["experiment"]["training"]["episodes"]
    if before != experiment.training.episodes:
        write_json(folder / CONFIG, lengthened(content, before, experiment, schedule))


def lengthened(content: dict[str, Any], before: int, experiment: Experiment, schedule: Schedule) -> dict[str, Any]:
    """The content of config.json after the number of episodes changed from `before`."""
    change = {"from_episodes": before, "to_episodes": experiment.training.episodes, "command": sys.argv}
    return content | {
        "experiment": experiment_to_json(experiment),
        "training": dataclasses.asdict(experiment.training),
        "schedule": schedule._asdict(),
        EXTENDED: [*content.get(EXTENDED, []), change],
    }
