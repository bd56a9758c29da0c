"""Every command that the README and the documentation show is valid, and runs to its end with a budget of seconds.

All are read, and what they would train is built. `pytest -m slow` runs all of them. CI has no time for those that are like
another one, nor for trainings on the pages of algorithms and of evidence. A run that a command needs is there as a short one.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest
from conftest import RunPython, experiment_of
from pages import PAGES, ROOT, commands, write_files

from envs_jax.registry import make_any
from mamt_jax.algorithms import registry
from mamt_jax.cli import evaluate, sweep, train
from mamt_jax.training.experiment import make_configs

PAGE_NAMES = ("command_line", "many_runs", "other_libraries", "own_algorithm", "own_environment", "policies")
CARDS = ("matrix_game", "pursuit", "repeat_first", "rover_tower", "spread")
"""Of environments; Multi-Walker compiles for long."""
GUIDES = (
    "README.md",
    *(f"docs/{name}.md" for name in PAGE_NAMES),
    *(f"docs/environments/{name}.md" for name in CARDS),
)
"""The pages whose trainings CI runs."""
TRAINING = [
    *["--episodes", "24", "--num-envs", "12", "--update-interval", "192", "--num-updates", "1", "--batch-size", "16"],
    *["--buffer-size", "6000", "--evaluation-interval", "12", "--evaluation-episodes", "4"],
    *["--hidden-size", "8"],
]
IN_PROCESSES = [
    *["--num-envs", "2", "--processes", "2", "--episodes", "4", "--evaluation-interval", "4", "--evaluation-episodes", "2"],
]
SHORT: dict[str, list[str]] = {
    "train": TRAINING,
    "sweep": TRAINING,
    "evaluate": ["--episodes", "4"],
    "figures": ["--figure", "learning_curves"],
    "paper": ["--list"],
    "tuning": ["--list"],
    "theory": ["--out", "theory.json"],
    "critic_error": ["--out", "critic_error.json"],
    "dependence": ["--help"],  # it takes runs of one variant of MAMT
    "pretrained_returns": ["--only", "rover_tower/mappo"],
    "reference_returns": ["--only", "spread", "--out", "reference_returns.json"],
    "multiwalker_parity": ["--episodes", "1", "--steps", "3", "--endurance", "4", "3", "20", "--out", "parity.json"],
    "multiwalker_statistics": ["--episodes", "2", "--only", "random", "--out", "statistics.json"],
    "benchmark/updates": ["--out", "updates.json"],
    "benchmark/environments": ["--only", "spread", "--batches", "2", "--out", "environments.json"],
    "benchmark/jaxmarl_ippo": ["--help"],  # it takes a file of JaxMARL's repository
    "benchmark/time_to_return": ["--help"],  # it trains for hours
}
SMALL: dict[str, dict[str, object]] = {
    "theory": {"EPISODES": 100, "REPEATS": 2, "GAMES": 10, "estimation.SEEDS": 1, "estimation.STEPS": 2},
    "critic_error": {"ENVS": 2, "STEPS": 4, "UPDATES": 2, "BATCH": 4, "ROWS": 4, "NEXT_ACTIONS": 2},
    "pretrained_returns": {"EPISODES": 10, "write_json": lambda path, content: None},
    "reference_returns": {"STEPS": 100},
    "multiwalker_parity": {"COMPARED": slice(1, 2)},
    "benchmark/updates": {
        **{"SHAPES": ((8, 8, 8),), "SECONDS": 0.01, "GROUPS": 2, "FIRST_EVALUATIONS": ("mappo",)},
        **{"UPDATES": {"lola": ("spread", "lola", {})}, "SIDE_BY_SIDE": {"lola": (1, 2)}, "ROUNDS": {"mappo": 1}},
        "DEFAULTS": ("maddpg",),
    },
    "benchmark/environments": {"SECONDS": 0.01, "REPEATS": 2, "PROCESSES": 1},
}
ELSEWHERE = {"experiments/figures.py", "experiments/run.py"}
"""Words of commands that other tests run."""
COMPILES_LONG = {"experiments/results/multiwalker/mappo_events"}
"""Words of commands that compile for long."""
BOX2D = {"pettingzoo/multiwalker", "experiments/multiwalker_parity.py", "experiments/multiwalker_statistics.py"}
"""Words of commands that need Box2D, which not every Python has."""
TELLING = (
    "--env",
    "--algo",
    "--seed",
    "--config",
    "--log",
    "--options",
    "--resume",
    "--help",
    "--launcher",
    "--sampler",
    "--merge",
    "--distributed",
)
"""The options that tell one training from another: of the others it is enough to try one value."""


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run in Spread."""
    folder = tmp_path_factory.mktemp("small") / "run"
    assert train.main(["--env", "spread", "--algo", "mappo", *TRAINING, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which we are, with what a clone has, and the documentation's own files."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    own = tmp_path / "own"
    own.mkdir()
    write_files(own)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(own)
    return tmp_path


def script_of(words: list[str]) -> str:
    """A subcommand of mamt, or a script within experiments."""
    return words[1].removeprefix("experiments/").removesuffix(".py")


def module_of(words: list[str]) -> ModuleType:
    """The module whose `main` a command runs."""
    return import_module(f"mamt_jax.cli.{words[1]}" if words[0] == "mamt" else script_of(words).replace("/", "."))


def check_training(arguments: list[str]) -> None:
    """Reads what a command would train, and makes its environment and its configs."""
    with jax.numpy_rank_promotion("allow"):  # JaxMARL promotes
        experiment = experiment_of(arguments)
        spec = make_any(experiment.env, **experiment.env_options).spec
    make_configs(registry.make(experiment.algo, spec), experiment)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_commands_are_read(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sweep, "LAUNCHERS", dict.fromkeys(sweep.LAUNCHERS, lambda *_: {}))
    for words in commands(page):
        program, script, *arguments = words = [word for word in words if word != "&"]
        if script == "experiments/run.py":
            program, script = "mamt", "train"
        if not find_spec("Box2D") and BOX2D & set(words):
            continue
        if script == "train" and not {"--resume", "--help", "--init-from", "--config"} & set(arguments):
            check_training(arguments)
        elif script == "evaluate":
            evaluate.read_arguments(arguments)
        elif script == "sweep" and "--merge" not in arguments:
            assert sweep.main(arguments) == 0, words
        elif program == "mamt" and "--help" not in arguments:  # the folder is all that it misses
            assert module_of(words).main(arguments) == 2 and "is not the folder of a run" in capsys.readouterr().err, words
        elif program == "python":
            source = (ROOT / script).read_text()
            assert all(f'"{word}"' in source for word in arguments if word.startswith("--")), words
        elif program == "cp":
            assert (ROOT / words[-1]).is_dir(), words
        else:
            assert program == "mamt", f"{page.name} shows {words}, which is not tried"


def lend(arguments: list[str], small_run: Path) -> None:
    """Puts a short run where a command looks for one."""
    for before, name in zip(["", *arguments], arguments, strict=False):
        path = Path(name)
        if path.parts[:1] == ("runs",) and before != "--out" and not path.suffix and not path.exists():
            shutil.copytree(small_run, path)


def with_budget(words: list[str]) -> list[str]:
    """The arguments of a command, and after them those that make it short."""
    script, arguments = script_of(words), words[2:]
    if {"--resume", "--help", "--merge", "--absolute"} & set(arguments):
        return arguments
    searched = ["--trials", "3"] if "--sampler" in arguments else []
    return [
        *arguments,
        *SHORT.get(script, []),
        *searched,
        *(IN_PROCESSES if any("pettingzoo/" in word for word in arguments) else []),
    ]


def likeness(words: list[str]) -> frozenset[tuple[str, ...]]:
    """What tells commands apart that are tried: all but the output, of trainings `TELLING`."""
    training = words[1] in ("train", "sweep")
    options = {"--env": [train.DEFAULT_ENV], "--algo": [train.DEFAULT_ALGO]} if training else {}
    name = ""
    for word in words:
        name = word if word.startswith("--") else name
        options[name] = [*(options.get(name, []) if word != name else []), word]
    kept = {"", *TELLING} if training else options.keys() - {"--out"}
    return frozenset((name, *found) for name, found in options.items() if name in kept)


def call(words: list[str], arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command within this process, which has jax and compiled programs."""
    module = module_of(words)
    with monkeypatch.context() as patched, jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):  # as for users
        patched.setattr(sys, "argv", [words[1], *arguments])
        for name, value in SMALL.get(script_of(words), {}).items():
            *path, attribute = name.split(".")
            place = getattr(module, path[0]) if path else module
            patched.setattr(place, attribute, getattr(place, attribute)[value] if isinstance(value, slice) else value)
        try:
            code = module.main()
        except SystemExit as stopped:  # --help
            code = stopped.code
    assert not code, f"{shlex.join(words)} ended with {code}"


def of_each_kind(page: Path) -> Iterator[list[str]]:
    """The commands of a page that are like none before, on this page or another one. Trainings only if the page is a guide."""
    trains = page.relative_to(ROOT).as_posix() in GUIDES
    done = {likeness(words) for other in PAGES[: PAGES.index(page)] for words in commands(other)}
    for words in commands(page):
        training = words[1] in ("train", "sweep")
        if words[0] == "cp" or (ELSEWHERE | COMPILES_LONG) & set(words) or likeness(words) in done or (training and not trains):
            continue
        done.add(likeness(words))
        yield words


def all_others() -> Iterator[Any]:
    """The commands of all pages that `of_each_kind` leaves out, as cases of a test."""
    done = {tuple(words) for page in PAGES for words in of_each_kind(page)}
    for page in PAGES:
        for words in commands(page):
            if tuple(words) not in done and words[0] != "cp" and not ELSEWHERE & set(words):
                done.add(tuple(words))
                yield pytest.param(words, id=f"{page.parent.name}/{page.name}: {shlex.join(words)}")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.long] if page.name == "multiwalker.md" else []) for page in PAGES],
    ids=lambda page: page.name,
)
def test_shown_commands_run(page: Path, place: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch, run_python: RunPython):
    beside = []
    for words in of_each_kind(page):
        if not find_spec("Box2D") and BOX2D & set(words):
            continue
        lend(words[2:], small_run)
        arguments = with_budget([word for word in words if word != "&"])
        if words[-1] == "&":
            beside.append(subprocess.Popen([sys.executable, "-m", "mamt_jax", words[1], *arguments]))
        elif {"--distributed", "--launcher", "--processes"} & set(arguments):
            run_python("-m", "mamt_jax", words[1], *arguments, cwd=place, timeout=600)
        else:
            call(words, arguments, monkeypatch)
    assert [process.wait(60) for process in beside] == [0] * len(beside)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("words", list(all_others()))
def test_all_other_shown_commands_run(words: list[str], place: Path, small_run: Path, run_python: RunPython):
    if not find_spec("Box2D") and BOX2D & set(words):
        pytest.skip("needs Box2D, which not every Python has")
    lend(words[2:], small_run)
    program = ["-m", "mamt_jax"] if words[0] == "mamt" else []
    as_for_users = {"JAX_NUMPY_RANK_PROMOTION": "allow", "JAX_DEBUG_KEY_REUSE": "false", "PYTHONPATH": str(place / "own")}
    run_python(*program, words[1], *with_budget(words), cwd=place, timeout=1800, **as_for_users)
