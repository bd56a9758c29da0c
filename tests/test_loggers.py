"""Rows go to TensorBoard, read back by its own reader, and to Weights & Biases, whose place a recorder takes."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mamt_jax.cli import train as run
from mamt_jax.training import loggers
from mamt_jax.training.config import TrainingConfig
from mamt_jax.training.experiment import Experiment
from mamt_jax.training.loggers import check_logger, scalars, tensorboard, wandb
from mamt_jax.training.run_folder import METRICS, append_rows

ROOT = Path(__file__).parents[1]

RUNS = ({"seed": 3, "gamma": 0.9}, {"seed": 4, "gamma": 0.9})
EXPERIMENT = Experiment("spread", "maac", {}, {}, RUNS, TrainingConfig())


def rows(env_steps: int) -> list[dict[str, Any]]:
    return [
        {"run": number, "env_steps": env_steps, "wall_seconds": env_steps / 10, "eval_return": 1.0 * env_steps + number}
        for number in range(2)
    ]


def test_metrics_become_scalars():
    row = {"run": 1, "loss": None, "kl": float("nan"), "task/covered": 0.5, "entropy": [1, 3], "pairs": [[0, 4], [2, 2]]}
    expected = {"run": 1, "task/covered": 0.5, "entropy/0": 1, "entropy/1": 3, "pairs/0": 2, "pairs/1": 2}
    assert scalars(row) == expected


def test_tensorboard_shows_each_row_once_however_often_a_run_goes_on(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    for env_steps in (0, 10, 20):  # killed after the first evaluation and after the second
        logger = tensorboard(tmp_path, EXPERIMENT)
        logger.write(rows(env_steps))
        append_rows(tmp_path / METRICS, rows(env_steps))
        if env_steps == 10:
            logger.write(rows(15))  # an evaluation that the checkpoint does not know
        logger.close()
    folders = sorted((tmp_path / "tensorboard").iterdir())
    assert [folder.name for folder in folders] == ["000_gamma_0.9_seed_3", "001_gamma_0.9_seed_4"]
    for number, folder in enumerate(folders):
        events = EventAccumulator(str(folder)).Reload().Tensors("eval_return")
        assert [(event.step, make_ndarray(event.tensor_proto)) for event in events] == [
            (0, number),
            (10, 10 + number),
            (20, 20 + number),
        ]
        assert events[2].wall_time - events[1].wall_time == pytest.approx(1.0, abs=1e-3)


class Recorder:
    """A run of W&B."""

    made: list["Recorder"] = []

    def __init__(self, **about: Any):
        self.about, self.logged, self.finished = about, [], False
        Recorder.made.append(self)

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values["eval_return"]))

    def finish(self) -> None:
        self.finished = True


@pytest.mark.slow
def test_wandb_has_a_run_for_each_and_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    monkeypatch.setattr(module, "init", Recorder, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    check_logger("wandb")
    for env_steps in (0, 10):
        logger = wandb(tmp_path, EXPERIMENT)
        logger.write(rows(env_steps))
        logger.close()
    first, second, first_again, second_again = Recorder.made
    assert first.logged == [(0, 0.0)] and second_again.logged == [(10, 11.0)] and second_again.finished
    assert second.about["name"] == "gamma 0.9, seed 4" and second.about["config"]["gamma"] == 0.9
    assert second.about["config"]["algo"] == "maac" and second.about["project"] == "mine"
    assert [first.about["id"], second.about["id"]] == json.loads((tmp_path / "wandb.json").read_text())
    assert first.about["id"] == first_again.about["id"] != second.about["id"] == second_again.about["id"]
    assert first_again.about["resume"] == "allow" and first.about["group"] == second.about["group"] == str(tmp_path)


def test_a_missing_package_is_named_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    assert run.main(["--env", "spread", "--log", "wandb", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: argument --log: wandb is not there: pip install -e '.[wandb]'.\n"
    assert not (tmp_path / "out").exists()
