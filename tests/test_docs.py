"""What the README and the documentation show as Python and as scripts works, and the site builds with its notebook run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RunPython
from pages import FILES, PAGES, README, ROOT, blocks, write_files

from analysis.tables import TABLES
from envs_jax import check_environment
from mamt_jax.training.run_folder import read_rows


def test_own_environment_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from meeting import meeting  # pyright: ignore[reportMissingImports]

    assert not check_environment(meeting())


def test_the_table_of_the_readme_is_that_of_the_results():
    assert TABLES["default_training"]() in README.read_text()


@pytest.mark.slow
def test_python_blocks_run_one_after_another(run_python: RunPython, tmp_path: Path):
    small = "--env spread --algo mappo --hidden-size 8 --episodes 256 --evaluation-interval 256 --evaluation-episodes 4"
    run_python("-m", "mamt_jax", "train", *small.split(), "--out", "runs/first", cwd=tmp_path)
    (tmp_path / "runs" / "spread_maac").symlink_to("first")
    pages = [page for page in PAGES if page.name not in ("python.md", *FILES.values())]
    code = [code for page in pages for code in blocks(page, "python")]
    assert len(code) >= 5
    observation = "import envs_jax, jax\nobservation = envs_jax.make('spread').reset(jax.random.key(0))[1].observation\n"
    (tmp_path / "blocks.py").write_text(observation + "\n".join(code))
    run_python("blocks.py", cwd=tmp_path)


@pytest.mark.slow
def test_the_page_about_python_runs_as_it_stands(run_python: RunPython, tmp_path: Path):
    (tmp_path / "page.py").write_text("\n".join(blocks(ROOT / "docs" / "python.md", "python")))
    run_python("page.py", cwd=tmp_path, timeout=600)
    assert (tmp_path / "learning_curve.png").exists() and (tmp_path / "pursuit.gif").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.long
def test_installation_runs_as_shown(tmp_path: Path):
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path], check=True)
    first, *others = blocks(ROOT / "docs" / "installation.md", "sh")
    subprocess.run(["bash", "-ec", first], cwd=tmp_path, check=True)
    dry = '. .venv/bin/activate; pip() { command pip "$@" --dry-run; }\n'  # libraries for a GPU are gigabytes
    for code in others:
        subprocess.run(["bash", "-ec", dry + code], cwd=tmp_path, check=True)


SRUN = """#!/bin/bash
for task in 0 1 2 3; do
    SLURM_JOB_ID=1 SLURM_STEP_NODELIST=localhost SLURM_NTASKS=4 SLURM_PROCID=$task SLURM_LOCALID=$task "$@" $SHORT &
    tasks="$tasks $!"
done
for task in $tasks; do wait $task || exit 1; done
"""
"""The environment that Slurm gives to the tasks of `srun`."""


@pytest.mark.slow
@pytest.mark.long
def test_script_for_slurm_runs(tmp_path: Path):
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    (script,) = blocks(ROOT / "docs" / "many_runs.md", "sh")
    paths = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    short = "--episodes 24 --num-envs 2 --update-interval 48 --evaluation-interval 12 --evaluation-episodes 2 --hidden-size 8"
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True, env=os.environ | {"PATH": paths, "SHORT": short})
    rows = read_rows(tmp_path / "runs" / "hundred" / "metrics.jsonl")
    assert {row["seed"] for row in rows} == set(range(100))


@pytest.mark.slow
def test_site_builds_with_its_notebook(run_python: RunPython, tmp_path: Path):
    run_python("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path, NO_MKDOCS_2_WARNING="1")
    for page in re.findall(r": ([\w/]+)\.(?:md|py)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE):
        assert (tmp_path / page.removesuffix("index") / "index.html").exists(), page
    tutorial = (tmp_path / "tutorial" / "index.html").read_text()
    assert (tmp_path / "tutorial" / "tutorial.ipynb").exists()
    assert "return over 500 episodes" in tutorial and tutorial.count("data:image/png") >= 2
