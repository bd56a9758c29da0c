"""Every command that the README and the documentation show is run to its end, with a budget of seconds.

They run in a copy of the repository, so that what they write stays there; a run that a page takes from another one is there as
a short one. Trainings whose results are committed are not tried again: their folders tell by which command they were made.
Pages whose commands take minutes even so are tried by `pytest -m slow`; otherwise their trainings are read and built.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest
from conftest import RunPython, experiment_of
from pages import PAGES, ROOT, blocks, write_files

from mamt_jax.cli import train as run
from mamt_jax.training.experiment import build

COPIED = ["README.md", "docs", "envs_jax", "experiments", "mamt_jax"]
RESULTS = "experiments/results"  # in the copy
TRAINING = [
    *["--episodes", "24", "--num-envs", "12", "--update-interval", "192", "--num-updates", "1", "--batch-size", "16"],
    *["--buffer-size", "6000", "--evaluation-interval", "12", "--evaluation-episodes", "4"],
]
IN_PROCESSES = [
    *["--num-envs", "2", "--processes", "2", "--episodes", "4", "--evaluation-interval", "4", "--evaluation-episodes", "2"],
]
SHORT: dict[str, list[str]] = {
    "run": TRAINING,
    "sweep": TRAINING,
    "evaluate": ["--episodes", "4"],
    "faults": ["--trials", "1", "--faults", "checkpoint cut short", "--out", "faults.json"],
    "theory": ["--out", "theory.json"],
    "pretrained_returns": ["--only", "rover_tower/mappo"],
    "reference_returns": ["--only", "spread", "--out", f"{RESULTS}/reference_returns.json"],
    "multiwalker_parity": ["--episodes", "1", "--steps", "3", "--endurance", "4", "3", "20", "--out", "parity.json"],
    "multiwalker_statistics": ["--episodes", "2", "--only", "random", "--out", "statistics.json"],
    "benchmark/core": ["--out", "core.json"],
    "benchmark/environments": ["--only", "spread", "--batches", "2", "--out", f"{RESULTS}/benchmark_environments.json"],
    "benchmark/ippo": ["--help"],  # it takes a file of JaxMARL's repository
    "benchmark/processes": ["--out", "processes.json"],
    "benchmark/profile_update": ["--out", "profile.json", "--update", "lola, 2 agents"],
}


def only_look(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
    """Stands for a benchmark that everything.py starts, each of which a page shows by itself."""
    return subprocess.CompletedProcess(command, returncode=not Path(command[1]).exists())


SMALL: dict[str, dict[str, object]] = {
    "theory": {"EPISODES": 100, "REPEATS": 2, "GAMES": 10, "estimation.SEEDS": 1, "estimation.STEPS": 2},
    "pretrained_returns": {"EPISODES": 10, "RETURNS": Path("mamt_jax/pretrained/returns.json")},
    "reference_returns": {"STEPS": 100},
    "benchmark/core": {
        **{"SHAPES": ((8, 8, 8),), "SECONDS": 0.01, "GROUPS": 2, "FIRST_EVALUATIONS": ("mappo",)},
        **{"UPDATES": {"lola": ("spread", "lola", {})}, "SIDE_BY_SIDE": {"lola": (1, 2)}, "ROUNDS": {"mappo": 1}},
    },
    "benchmark/environments": {"SECONDS": 0.01, "REPEATS": 2, "PROCESSES": 1},
    "benchmark/everything": {"subprocess.run": only_look},
    "benchmark/processes": {"TURNS": 1, "SECONDS": 0.1, "PROCESSES": (1,)},
}
SLOW = [
    *(f"docs/{name}.md" for name in ("faults", "many_runs", "multiwalker", "other_libraries", "results", "speed")),
    "mamt_jax/pretrained/README.md",
]
APART = ("--out", "--checkpoint-minutes")
NEEDED = {
    "benchmark/processes": "supersuit",
    "multiwalker_parity": "Box2D",
    "multiwalker_statistics": "Box2D",
    "pettingzoo/multiwalker": "Box2D",
}
"""Part of a command -> a module that not every Python has."""
INSTALLING = re.compile(r"^\[ .* \] \|\| \{ .* \} && \. \S+ && ")
TESTING = "ruff check"  # how the line that `.ci/run` types goes on


def shown(page: Path) -> Iterator[str]:
    """Lines of a page's shell blocks, and commands of ours within its sentences."""
    for block in blocks(page, "bash"):
        lines = [INSTALLING.sub("", line) for line in block.splitlines() if line]
        yield from (line for line in lines if not line.startswith(TESTING))
    for sentence in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
        if sentence.startswith("python experiments/"):
            yield " ".join(sentence.split())


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run in Spread."""
    folder = tmp_path_factory.mktemp("small") / "run"
    assert run.main(["--env", "spread", "--algo", "mappo", *TRAINING, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository, in which we are."""
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    own = tmp_path / "own"
    own.mkdir()
    write_files(own)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(own)
    return tmp_path


def words_of(line: str) -> list[str]:
    """A command's words."""
    return shlex.split(line.rstrip("& "), comments=True)


def lend(arguments: list[str], small_run: Path) -> None:
    """Puts a short run where a command looks for one that another page trains."""
    for before, name in zip(["", *arguments], arguments, strict=False):
        path = Path(name)
        if path.parts[:1] == ("runs",) and before != "--out" and not path.suffix and not path.exists():
            shutil.copytree(small_run, path)


def script_of(words: list[str]) -> str:
    """The name of a script within experiments."""
    return words[0].removeprefix("experiments/").removesuffix(".py")


def with_budget(script: str, arguments: list[str]) -> list[str]:
    """The arguments of a command, and after them those that make it short."""
    if {"--resume", "--help", "--merge", "--absolute"} & set(arguments):
        return arguments
    return [*arguments, *SHORT.get(script, []), *(IN_PROCESSES if any("pettingzoo/" in word for word in arguments) else [])]


def call(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a script within this process, which has jax and compiled programs."""
    module = import_module(f"experiments.{script.replace('/', '.')}")
    with monkeypatch.context() as patched, jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):  # as for users
        patched.setattr(sys, "argv", [script, *arguments])
        for name, value in SMALL.get(script, {}).items():
            *path, attribute = name.split(".")
            patched.setattr(getattr(module, path[0]) if path else module, attribute, value)
        try:
            code = module.main()
        except SystemExit as stopped:  # --help
            code = stopped.code
    assert not code, f"{script} {shlex.join(arguments)} ended with {code}"


def identity(words: list[str]) -> frozenset[tuple[str, ...]]:
    """What tells trials apart: a script and its options as they are with the budget, but for where and when it writes."""
    options: dict[str, list[str]] = {"": []}
    for word in [words[0], *with_budget(script_of(words), words[1:])]:
        if word.startswith("--"):
            options[word.replace("_", "-")] = []
        else:
            options[next(reversed(options))].append(word)
    return frozenset((name, *values) for name, values in options.items() if name not in APART)


def committed() -> set[frozenset[tuple[str, ...]]]:
    """The trainings of which results are committed."""
    configs = [json.loads(path.read_text()) for path in (ROOT / "experiments").rglob("config.json")]
    commands = [config["command"] for config in configs]
    # Trainings from before there was another preset.
    return {identity(words) for command in commands for words in (command, [*command, "--preset", "paper"])}


@pytest.mark.parametrize("page", SLOW)
def test_trainings_of_slow_pages_are_read_and_built(page: str):
    commands = [words_of(line) for line in shown(ROOT / page)]
    with jax.numpy_rank_promotion("allow"):  # JaxMARL promotes
        for words in (each for each in commands if each[1:2] == ["experiments/run.py"]):
            build(experiment_of(words[2:]))


def trial_of(page: Path) -> object:
    """A page as a parameter."""
    name = page.relative_to(ROOT).as_posix()
    return pytest.param(page, id=name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [trial_of(page) for page in PAGES])
def test_commands_run(page: Path, copy: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch, run_python: RunPython):
    beside: list[subprocess.Popen[bytes]] = []
    done = committed() | {identity(words_of(line)[1:]) for other in PAGES[: PAGES.index(page)] for line in shown(other)}
    for line in dict.fromkeys(shown(page)):
        words = words_of(line)
        if identity(words[1:]) in done:
            continue
        done.add(identity(words[1:]))
        if any(part in line and find_spec(module) is None for part, module in NEEDED.items()):
            continue
        if words[0] == "cp":
            lend([str(Path(words[1]).parent)], small_run)
            Path(words[-1]).mkdir(parents=True, exist_ok=True)
            subprocess.run(["bash", "-c", line], check=True)
            continue
        assert words[0] == "python", f"{page.name} shows {line!r}, which is not tried"
        lend(words[2:], small_run)
        script = script_of(words[1:])
        arguments = with_budget(script, words[2:])
        if line.endswith("&"):
            beside.append(subprocess.Popen([sys.executable, words[1], *arguments]))
        elif script == "figures" or {"--distributed", "--launcher", "--processes"} & set(arguments):
            run_python(words[1], *arguments, cwd=copy)
        else:
            call(script, arguments, monkeypatch)
    assert [process.wait(60) for process in beside] == [0] * len(beside)
