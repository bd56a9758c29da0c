"""What the README shows as whole files is trained with, as a reader would."""

import re
from pathlib import Path

import pytest
from conftest import RunPython

ROOT = Path(__file__).parents[1]
SMALL = ["--episodes", "24", "--batch-size", "32", "--evaluation-interval", "12", "--evaluation-episodes", "4"]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A folder with the README's own environment and own algorithm."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for name, sign in {"meeting": "-> Environment", "independent_q": "-> Algorithm"}.items():
        (code,) = [block for block in blocks if sign in block]
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


def test_own_environment_keeps_the_contract(run_python: RunPython, examples: Path):
    check = "import envs_jax, meeting; print(envs_jax.check_environment(meeting.meeting()))"
    assert run_python("-c", check, cwd=examples).stdout.strip() == "[]"


def test_own_environment_and_own_algorithm_train(run_python: RunPython, examples: Path):
    choice = ["--env", "meeting:meeting", "--algo", "independent_q:make", "--out", "result"]
    run_python(ROOT / "experiments" / "run.py", *choice, *SMALL, cwd=examples)
    assert (examples / "result" / "metrics.jsonl").read_text().count("\n") >= 2


def test_tables_are_those_of_the_results(run_python: RunPython):
    code = "import figures; print('\\n\\n'.join(figures.tables()))"
    printed = run_python("-c", code, PYTHONPATH=str(ROOT / "experiments")).stdout
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for table in printed.strip().split("\n\n"):
        assert table in pages, f"README and docs lack this table:\n{table}"
