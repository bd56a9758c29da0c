"""The project file, the constraints and the README agree with each other."""

import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

import mamt_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_constraints_hold_a_version_within_the_bounds_of_every_dependency():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines)
    extras = PROJECT["optional-dependencies"]
    wanted = [Requirement(each) for group in [PROJECT["dependencies"], *extras.values()] for each in group]
    wanted = [each for each in wanted if each.name != PROJECT["name"]]
    assert len(wanted) > 10
    assert not [str(each) for each in wanted if not each.specifier.contains(pinned.get(each.name, "0"), prereleases=True)]


def test_the_version_is_the_same_everywhere():
    assert mamt_jax.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_runs_the_command_of_the_readme():
    pattern = re.search(r"grep -m1 -E '(.+)' README.md", (ROOT / ".ci" / "run").read_text())
    assert pattern
    found = subprocess.run(["grep", "-E", pattern[1], "README.md"], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.count("\n") == 1 and "&& pytest" in found.stdout
