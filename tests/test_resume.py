"""A run that was stopped or killed ends as one that was not, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import RunPython

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
