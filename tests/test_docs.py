"""What the README and the documentation tell a reader to type works, and the site builds with its notebook run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from conftest import RunPython

from experiments import evaluate, run, sweep
from experiments.options import underscored
from mamt_jax.training.experiment import build

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_FILES = ("-> Environment", "-> Algorithm")  # whole files, which tests/test_readme.py trains with


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> Iterator[str]:
    """Every command of ours, in blocks and in sentences."""
    for page in PAGES:
        lines = "\n".join(blocks(page, "bash")).splitlines()
        sentences = [" ".join(inline.split()) for inline in re.findall(r"`([^`]+)`", page.read_text())]
        yield from (line for line in [*lines, *sentences] if line.startswith("python experiments/"))


def check(script: str, arguments: list[str]) -> None:
    """Reads `arguments` as `script` does, and builds what they describe."""
    if script == "experiments/run.py" and "--help" not in arguments:
        asked = run.read_arguments(underscored(arguments))
        if not asked.values["resume"] and ":" not in asked.values["env"] + asked.values["algo"]:
            build(run.make_experiment(asked))
    elif script == "experiments/sweep.py":
        own, rest = sweep.own_parser().parse_known_args(underscored(arguments))
        assert own.merge or sweep.make_groups(sweep.read_axes(rest), Path(own.out))
    elif script == "experiments/evaluate.py":
        evaluate.read_arguments(arguments)
    else:
        text = (ROOT / script).read_text().replace("_", "-")
        unknown = [each for each in arguments if each.startswith("--") and each != "--help" and f'"{each}"' not in text]
        assert not unknown, f"{script} has no {unknown}"


def test_commands_are_taken_by_their_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for page in PAGES:
        for code, name in [(code, re.search(r"def (meeting|make)\(", code)) for code in blocks(page, "python")]:
            if name and any(sign in code for sign in OWN_FILES):
                (tmp_path / f"{'meeting' if name[1] == 'meeting' else 'independent_q'}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = [shlex.split(command.rstrip("& "), comments=True) for command in dict.fromkeys(commands())]
    assert len(found) > 30
    for _, script, *arguments in found:
        try:
            with jax.numpy_rank_promotion("allow"):  # JaxMARL promotes
                check(script, arguments)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"python {script} {shlex.join(arguments)}: {error}") from error


def test_python_blocks_run_one_after_another(run_python: RunPython, tmp_path: Path):
    small = "--env spread --algo mappo --hidden-size 8 --episodes 256 --evaluation-interval 256 --evaluation-episodes 4"
    run_python(ROOT / "experiments" / "run.py", *small.split(), "--out", "runs/first", cwd=tmp_path)
    (tmp_path / "runs" / "spread_maac").symlink_to("first")
    code = [code for page in PAGES for code in blocks(page, "python") if not any(sign in code for sign in OWN_FILES)]
    assert len(code) >= 5
    observation = "import envs_jax, jax\nobservation = envs_jax.make('spread').reset(jax.random.key(0))[1].observation\n"
    (tmp_path / "blocks.py").write_text(observation + "\n".join(code))
    run_python("blocks.py", cwd=tmp_path, PYTHONPATH=str(ROOT))


def test_site_builds_with_its_notebook(run_python: RunPython, tmp_path: Path):
    run_python("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path, NO_MKDOCS_2_WARNING="1", PYTHONPATH=str(ROOT))
    for page in re.findall(r": ([\w/]+)\.(?:md|py)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE):
        assert (tmp_path / ("" if page == "index" else page) / "index.html").exists(), page
    tutorial = (tmp_path / "tutorial" / "index.html").read_text()
    assert "return of each agent over 500 episodes" in tutorial and tutorial.count("data:image/png") >= 2
