"""The wheel, in a clean virtual environment and an empty working directory: every subcommand, presets and trained policies."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from pages import write_files

ROOT = Path(__file__).parents[1]
SHORT = ["--episodes", "48", "--num-envs", "12", "--update-interval", "192", "--evaluation-interval", "24"]
SHORT += ["--evaluation-episodes", "4", "--hidden-size", "8"]
TRAIN = ["train", "--env", "spread", "--algo", "mappo", *SHORT]


@pytest.fixture(scope="module")
def mamt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command."""
    place = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(place), str(ROOT)], check=True)
    (wheel,) = place.glob("*.whl")
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel], check=True)
    return python.with_name("mamt")


@pytest.mark.slow
def test_every_subcommand_works_where_there_is_no_clone(mamt: Path, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run([mamt, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    write_files(tmp_path)
    listed = run("list")
    assert all(word in listed for word in ("rover_tower", "mamt", "paper", "Trained policies"))
    run(*TRAIN, "--out", "runs/a")
    run("train", "--env", "meeting:meeting", "--algo", "independent_q:make", *SHORT, "--batch-size", "16", "--out", "runs/own")
    run("sweep", *TRAIN[1:], "--hidden-size", "4", "8", "--out", "runs/sweep")
    run("compare", "runs/a", "runs/own", "--plot", "comparison.png")
    run("figures", "--runs", "runs/a", "--out", "figures", "--figure", "learning_curves")
    assert "greedy return" in run("evaluate", "--pretrained", "rover_tower/mappo", "--episodes", "4", "--gif", "film.gif")
    assert {"comparison.png", "film.gif", "figures", "runs"} <= {path.name for path in tmp_path.iterdir()}
    settings = subprocess.run([mamt, "train", "--algo", "mamt", "--help"], capture_output=True, text=True, check=True).stdout
    assert "(default 100.0)" in settings, "the tuned preset is there"
