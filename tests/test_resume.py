"""A run that was stopped or killed ends as one that was not, in processes of their own; so does one that was extended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PROBE, SMALL, RunPython

from mamt_jax.cli import sweep
from mamt_jax.cli import train as run
from mamt_jax.training import launch as train
from mamt_jax.training.checkpoint import latest_checkpoint

ROOT = Path(__file__).parents[1]

SCRIPT = ROOT / "experiments" / "run.py"
ARGUMENTS = [
    *["--env", "probe:symbols", "--algo", "probe:make", "--seeds", "3", "--episodes", "2400", "--num-envs", "4"],
    *["--update-interval", "10", "--num-updates", "2", "--buffer-size", "1000", "--batch-size", "64"],
    *["--evaluation-interval", "80", "--evaluation-episodes", "4", "--checkpoint-minutes", "0"],
]
PATHS = {"PYTHONPATH": str(ROOT / "tests")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    command = [sys.executable, str(SCRIPT), *ARGUMENTS, "--out", str(folder)]
    subprocess.run(command, env=os.environ | PATHS, check=True, timeout=300, capture_output=True)
    return folder


def start_and_signal(folder: Path, number: int) -> int:
    """Starts the same run, sends the signal once it has evaluated a few times, and returns its exit code."""
    command = [sys.executable, str(SCRIPT), *ARGUMENTS, "--out", str(folder)]
    with subprocess.Popen(command, env=os.environ | PATHS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 240
        while time.monotonic() < deadline and (not metrics.exists() or metrics.read_text().count("\n") < 20):
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=120)
        return process.returncode


def final_state(folder: Path) -> dict[str, np.ndarray]:
    with np.load(sorted((folder / "checkpoints").glob("*.npz"))[-1]) as archive:
        state = {name: archive[name] for name in archive.files if name != "record"}
    with np.load(folder / "best.npz") as archive:
        return state | {f"best {name}": archive[name] for name in archive.files}


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) | {"wall_seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str
)
def test_a_broken_run_ends_as_an_unbroken_one(unbroken: Path, tmp_path: Path, run_python: RunPython, number: int, code: int):
    folder = tmp_path / "out"
    assert start_and_signal(folder, number) == code
    written = rows(folder)
    assert 20 <= len(written) < len(rows(unbroken)), "it was not in the middle of its work"
    run_python(SCRIPT, "--resume", folder, **PATHS)
    expected, found = final_state(unbroken), final_state(folder)
    assert expected.keys() == found.keys() and len(found) > 10
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert rows(folder) == rows(unbroken)


SLOW_LEARNERS = [*PROBE, *SMALL, "--seeds", "2", "--learning-rate", "0.005"]
"""Rounds are 4 episodes, evaluations 20; the policy of 32 episodes beats that of 20 and is as good as that of 40."""


def assert_same_end(one: Path, other: Path) -> None:
    found, expected = final_state(one), final_state(other)
    assert found.keys() == expected.keys() and latest_checkpoint(one / "checkpoints").name == "iteration_000000023.npz"
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert rows(one) == rows(other)


def length_in_config(folder: Path) -> tuple[int, int, int]:
    content = json.loads((folder / "config.json").read_text())
    return (
        content["experiment"]["training"]["episodes"],
        content["training"]["episodes"],
        content["schedule"]["total_iterations"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("buffer", ["100", "200"], ids=["full replay memory", "replay memory cut to the length"])
def test_an_extended_run_ends_as_one_of_that_length(buffer: str, tmp_path: Path, capsys):
    arguments, long, short = [*SLOW_LEARNERS, "--buffer-size", buffer], tmp_path / "long", tmp_path / "short"
    assert run.main([*arguments, "--episodes", "92", "--out", str(long)]) == 0
    assert run.main([*arguments, "--episodes", "32", "--out", str(short)]) == 0
    before = rows(short)
    assert before[-1]["env_steps"] == 160 and 160 in final_state(short)["best .env_steps"]
    assert run.main(["--resume", str(short), "--episodes", "32"]) == 0
    assert "short has been trained for 32 episodes: there is nothing to do" in capsys.readouterr().out and rows(short) == before
    assert run.main(["--resume", str(short), "--episodes", "28"]) == 2
    assert "--episodes 28 is not valid: " in capsys.readouterr().err and length_in_config(short) == (32, 32, 8)
    assert run.main(["--resume", str(short), "--episodes", "92"]) == 0
    assert (
        "extended from 32 to 92 episodes. On a CPU the result equals a single run of that length bit for bit."
        in capsys.readouterr().out
    )
    assert_same_end(short, long)
    assert length_in_config(short) == (92, 92, 23)
    (change,) = json.loads((short / "config.json").read_text())["extended"]
    assert (change["from_episodes"], change["to_episodes"]) == (32, 92)


@pytest.mark.slow
def test_waves_are_extended_and_go_on_where_that_was_stopped(tmp_path: Path, monkeypatch):
    arguments, long, short = [*SLOW_LEARNERS, "--seeds", "4"], tmp_path / "long", tmp_path / "short"
    monkeypatch.setattr(train, "runs_that_fit", lambda plan, capacity, available: 2)
    assert run.main([*arguments, "--episodes", "92", "--out", str(long)]) == 0
    assert run.main([*arguments, "--episodes", "32", "--out", str(short)]) == 0
    whole, begun = train.train, []

    def stop_in_the_second(session, console, resume=False):
        begun.append(session.folder.name)
        return 15 if len(begun) == 2 else whole(session, console, resume)

    monkeypatch.setattr(train, "train", stop_in_the_second)
    assert run.main(["--resume", str(short), "--episodes", "92"]) == 128 + 15
    assert run.main(["--resume", str(short)]) == 0
    assert begun == ["000", "001", "001"]
    assert_same_end(short, long)
    assert length_in_config(short) == (92, 92, 23)
    assert len(json.loads((short / "config.json").read_text())["extended"]) == 1


@pytest.mark.slow
def test_a_group_of_a_sweep_is_extended_and_what_was_merged_by_hand_is_not(tmp_path: Path, capsys):
    short = [*SLOW_LEARNERS, "--episodes", "32"]
    assert sweep.main([*short, "--runs-per-task", "1", "--out", str(tmp_path / "sweep")]) == 0
    (group,) = (tmp_path / "sweep").iterdir()
    parts = [str(group / "parts" / name) for name in ("000", "001")]
    assert sweep.main(["--merge", *parts, "--out", str(tmp_path / "merged")]) == 0
    assert run.main(["--resume", str(tmp_path / "merged"), "--episodes", "92"]) == 2
    assert "holds no replay memory: extend those folders" in capsys.readouterr().err
    assert length_in_config(tmp_path / "merged") == (32, 32, 8)
    assert run.main(["--resume", str(group), "--episodes", "92"]) == 0
    assert [(row["run"], row["env_steps"]) for row in rows(group)[-2:]] == [(0, 460), (1, 460)]
    assert length_in_config(group) == length_in_config(Path(parts[1])) == (92, 92, 23)


@pytest.mark.slow
def test_what_cannot_be_extended_stays_as_it_is(tmp_path: Path, monkeypatch, capsys):
    arguments = [*SMALL, "--episodes", "32", "--seeds", "2", "--algo", "probe:make"]
    folder, broken = tmp_path / "folder", tmp_path / "broken"
    assert run.main([*arguments, "--env", "probe:symbols", "--out", str(folder)]) == 0
    monkeypatch.setattr(train, "runs_that_fit", lambda plan, capacity, available: 1)
    assert run.main(["--resume", str(folder), "--episodes", "92"]) == 2
    assert "--episodes 92 is not valid: it needs more memory than this machine has" in capsys.readouterr().err
    assert length_in_config(folder) == (32, 32, 8)
    monkeypatch.undo()
    places = "((0, 1, 0), (1, 2, 0))"
    fragile = ["--env", "fragile:fragile", "--places", places, "--env-num-envs", "4"]
    assert run.main([*arguments, *fragile, "--out", str(broken)]) == 2
    assert run.main(["--resume", str(broken), "--episodes", "92"]) == 2
    assert "all runs of " in capsys.readouterr().err
    for path in (folder / "checkpoints").glob("*_*.npz"):
        path.write_bytes(b"not what it was")
    assert run.main(["--resume", str(folder), "--episodes", "92"]) == 2
    assert "is damaged" in capsys.readouterr().err and length_in_config(folder) == (32, 32, 8)
