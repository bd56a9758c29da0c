"""Rows and pictures go to TensorBoard, read back by its own reader, and to Weights & Biases, whose place a recorder takes."""

import io
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import probe
import pytest
from conftest import OPTIONS, PROBE, SMALL, experiment_of
from PIL import Image

import mamt_jax
from envs_jax.environment import Environment
from envs_jax.scene import Scene, arena, shape_at
from mamt_jax.cli import train as run
from mamt_jax.training import loggers, session
from mamt_jax.training.config import TrainingConfig
from mamt_jax.training.console import Display, plain_console
from mamt_jax.training.experiment import Experiment, build
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
    """A run of W&B, which keeps numbers and pictures."""

    made: list["Recorder"] = []

    def __init__(self, **about: Any):
        self.about, self.logged, self.shown, self.finished = about, [], [], False
        Recorder.made.append(self)

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged += [(step, values["eval_return"])] if "eval_return" in values else []
        self.shown += [(step, name, value) for name, value in values.items() if isinstance(value, tuple)]

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """The runs of W&B that are made from now on."""
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    members = {"init": Recorder, "Image": lambda path: ("Image", path), "Video": lambda path, format: ("Video", path, format)}
    for name, value in members.items():
        monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(Recorder, "made", [])
    return Recorder.made


@pytest.mark.slow
def test_wandb_has_a_run_for_each_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorders: list[Recorder]
):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    check_logger("wandb")
    for env_steps in (0, 10):
        logger = wandb(tmp_path, EXPERIMENT)
        logger.write(rows(env_steps))
        logger.close()
    first, second, first_again, second_again = recorders
    assert first.logged == [(0, 0.0)] and second_again.logged == [(10, 11.0)] and second_again.finished
    assert second.about["name"] == "gamma 0.9, seed 4" and second.about["config"]["gamma"] == 0.9
    assert second.about["config"]["algo"] == "maac" and second.about["project"] == "mine"
    assert [first.about["id"], second.about["id"]] == json.loads((tmp_path / "wandb.json").read_text())
    assert first.about["id"] == first_again.about["id"] != second.about["id"] == second_again.about["id"]
    assert first_again.about["resume"] == "allow" and first.about["group"] == second.about["group"] == str(tmp_path)


def images(folder: Path) -> list[dict[str, list[Any]]]:
    """What TensorBoard's reader finds in the event files of a folder's runs: of each run the images of each name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    readers = [EventAccumulator(str(each)).Reload() for each in sorted((folder / "tensorboard").iterdir())]
    return [{name: reader.Images(name) for name in reader.Tags()["images"]} for reader in readers]


def scene(state: probe.SymbolState) -> Scene:
    """A disc that moves with every step."""
    return arena(f"step {state.step}", [shape_at("disc", np.array([0.2 * float(state.step), 0.0]), 0.1, "#0072B2")])


def drawn_symbols(scene: Any) -> Environment:
    return probe.symbols()._replace(scene=scene)


def test_loggers_get_the_curve_and_a_film_of_each_of_the_first_runs(tmp_path: Path, recorders: list[Recorder]):
    run = mamt_jax.train(
        drawn_symbols(scene),
        probe.make,
        out=tmp_path / "run",
        seeds=5,
        log=["tensorboard", "wandb"],
        callback=lambda rows, policy: rows[0]["episodes"] < 20,  # ends training early
        **OPTIONS,
    )
    shown = images(run.folder)
    assert [sorted(each) for each in shown] == [["film", "learning_curve"], ["film"], ["film"], ["film"], []]
    assert [picture.step for picture in shown[0]["learning_curve"]] == [0, 100]
    curve, films = shown[0]["learning_curve"][-1], [picture for each in shown[:4] for picture in each["film"]]
    assert curve.encoded_image_string == (run.folder / "learning_curve.png").read_bytes()
    assert len(list(run.folder.glob("*.gif"))) == len(films) == 4
    for number, picture in enumerate(films):
        content = (run.folder / f"film_{number}.gif").read_bytes()
        assert picture.step == 100 and picture.encoded_image_string == content
        with Image.open(io.BytesIO(content)) as gif:
            assert (gif.format, gif.size, gif.n_frames) == ("GIF", (picture.width, picture.height), 6)  # type: ignore[attr-defined]
    path = str(run.folder / "learning_curve.png")
    curves = [(step, "learning_curve", ("Image", path)) for step in (0, 100)]
    assert [each.shown for each in recorders] == [
        [*(curves if number == 0 else []), (100, "film", ("Video", str(run.folder / f"film_{number}.gif"), "gif"))]
        for number in range(4)
    ] + [[]]


def test_an_environment_without_a_scene_has_no_film(finished_run: Path):
    shown = images(finished_run)
    assert [list(each) for each in shown] == [["learning_curve"], [], [], []]
    assert shown[0]["learning_curve"][-1].step == 300
    assert not list(finished_run.glob("*.gif"))


def test_a_film_that_fails_does_not_end_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def broken(state: probe.SymbolState) -> Scene:
        raise RuntimeError("no ink\nat all")

    options = {**OPTIONS, "episodes": 20}
    run = mamt_jax.train(drawn_symbols(broken), probe.make, out=tmp_path / "run", log=["tensorboard"], **options)
    assert run.metrics()[-1]["episodes"] == 20
    note = "A picture (film) cannot be drawn or logged (no ink). Training is not affected."
    assert note in capsys.readouterr().out.splitlines()


def test_nothing_is_filmed_without_a_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked, experiment = [], experiment_of([*PROBE, *SMALL])
    monkeypatch.setattr(session, "film_best", lambda *arguments: asked.append(arguments) or [])
    opened = session.open_session(experiment, build(experiment), tmp_path, {})
    counters, display = session.Counters(0, (0,), 0.0, (None,)), Display(plain_console(), 60)
    session.show_films(opened, counters, display)
    assert not asked
    logger = tensorboard(tmp_path, experiment)
    session.show_films(opened._replace(loggers=(logger,)), counters, display)
    logger.close()
    assert len(asked) == 1


def test_a_missing_package_is_named_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    assert run.main(["--env", "spread", "--log", "wandb", "--out", str(tmp_path / "out")]) == 2
    hint = "wandb is not installed: install it with `pip install -e '.[wandb]'`."
    assert capsys.readouterr().err == f"error: argument --log: {hint}\n"
    assert not (tmp_path / "out").exists()
