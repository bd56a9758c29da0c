"""`mamt train`: what it refuses, and what it leaves behind."""

import dataclasses
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import probe
import pytest
from conftest import PROBE, RunPython, experiment_of

from envs_jax import make
from mamt_jax.cli import evaluate, sweep
from mamt_jax.cli import train as run
from mamt_jax.cli.parser import dashed
from mamt_jax.options import Option, config_options, convert, is_float_leaf
from mamt_jax.presets import find_preset
from mamt_jax.training import launch as train
from mamt_jax.training.checkpoint import CheckpointError
from mamt_jax.training.config import TrainingConfig
from mamt_jax.training.experiment import Experiment
from mamt_jax.training.films import film_episode
from mamt_jax.training.folder_lock import hold_folder
from mamt_jax.training.policies import load_policy
from mamt_jax.training.run_folder import FolderError, read_rows

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(finished_run: Path) -> Path:
    """Two seeds times two learning rates, three agents."""
    return finished_run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "rover_towr"], "no environment 'rover_towr' (did you mean 'rover_tower'?)"),
        (["--env", "nowhere:make"], "'nowhere:make' cannot be imported"),
        (["--lr", "1"], "there is no option --lr (did you mean '--policy-learning-rate' or '--critic-learning-rate' or"),
        (["--algo", "mamtt"], "algo 'mamtt' is not valid (did you mean 'mamt'?)"),
        (["--algo", "probe:absent"], "Module 'probe' has no function 'absent'"),
        ([*PROBE, "--learning-rat", "1"], "there is no option --learning-rat (did you mean '--learning-rate'?)"),
        ([*PROBE, "--episodes", "many"], "--episodes: 'many' is not valid: give a whole number"),
        ([*PROBE, "--temperature", "hot"], "--temperature: 'hot' is not valid: give a number"),
        ([*PROBE, "--temperature", "-0.5"], "--temperature: -0.5 is not valid: give a number of at least 0"),
        ([*PROBE, "--temperature", "nan"], "--temperature: nan is not valid"),
        ([*PROBE, "--episodes", "-5"], "--episodes: -5 is not valid: give a number of at least 0"),
        ([*PROBE, "--episodes", "0"], "episodes=0 is not valid: give a number of at least 1"),
        ([*PROBE, "--seeds", "0"], "--seeds: '0' is not valid: give a whole number from 1"),
        ([*PROBE, "--preset", "papr"], "--preset: invalid choice: 'papr' (choose from"),
        ([*PROBE, "--num_agents", "0"], "num_agents=0 is not valid"),
        (
            [*PROBE, "--batch-size", "64", "--buffer-size", "32"],
            "batch_size=64 is larger than buffer_size=32: lower batch_size",
        ),
        ([*PROBE, "--num-envs"], "--num-envs: expected one argument"),
        ([*PROBE, "--log", "tensorbord"], "--log: 'tensorbord' is not valid: give one or more of tensorboard, wandb"),
        ([*PROBE, "surplus"], "'surplus' is not valid here: give options"),
        ([*PROBE, "--size", "1000000000"], "A run needs 432 GB of memory"),
        (["--env", "spread", "--algo", "maac", "--num-heads", "0"], "num_heads=0 is not valid: give a number above 0"),
        (
            ["--env", "spread", "--algo", "mamd_op"],
            "mamd_op does not support spread: dependent agents are known only for spread3_sep",
        ),
        (["--resume", "absent"], "absent is not the folder of a run, because it has no config.json"),
        (["--resume", "absent", "--episodes", "9"], "absent is not the folder of a run, because it has no config.json"),
        (
            ["--resume", "absent", "--episodes", "9", "--gamma", "0"],
            "absent takes all options from that folder: leave out ",
        ),
        (
            ["--resume", "absent", "--compilation-cache", "none"],
            "absent is not the folder of a run, because it has no config.json",
        ),
        (["--resume", ""], "--resume: The folder '' is not valid: it is empty"),
        ([*PROBE, "--out", "two\nlines"], r"--out: The folder 'two\nlines' is not valid: it contains '\n'"),
        ([*PROBE, "--compilation-cache", os.devnull + "/in"], "/in cannot be written: give a writable folder, or none"),
    ],
)
def test_what_is_wrong_is_named_once(arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "available_bytes", lambda device: 8_000_000_000)
    assert run.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("named", "kept"), [("{folder}", True), ("none", False)])
def test_compiled_programs_are_kept_where_told(named: str, kept: bool, tmp_path: Path, run_python):
    folder = tmp_path / "kept"
    code = f"""if True:
        from mamt_jax.cli.compilation_cache import use_compilation_cache
        use_compilation_cache("{named.format(folder=folder)}")
        import jax
        jax.jit(lambda x: x + 1)(1.0)"""
    elsewhere = tmp_path / "elsewhere"
    run_python("-c", code, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0", JAX_COMPILATION_CACHE_DIR=str(elsewhere))
    assert (folder.exists() and any(folder.iterdir())) == kept
    assert not elsewhere.exists()


def test_a_folder_in_use_is_left_alone(folder: Path, tmp_path: Path, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run.main([*PROBE, "--out", str(folder)]) == 2
    assert f"exists and is not empty: continue its run with --resume {folder}, or give another" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (tmp_path / "file").write_text("mine")
    assert run.main([*PROBE, "--out", str(tmp_path / "file" / "below")]) == 2
    assert "cannot be written (Not a directory): give a writable folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_in_training_is_named_and_can_be_read(folder: Path, tmp_path: Path, capsys):
    copy = shutil.copytree(folder, tmp_path / "copy")
    with hold_folder(copy):
        for arguments in (["--resume", str(copy)], [*PROBE, "--out", str(copy)]):
            assert run.main(arguments) == 2
            assert f"error: {copy} is in use by process {os.getpid()} on " in capsys.readouterr().err
        assert sweep.main(["--merge", str(folder), "--out", str(copy)]) == 2
        assert "is in use by" in capsys.readouterr().err
        assert sweep.main(["--merge", str(copy), "--out", str(tmp_path / "merged")]) == 0
        load_policy(copy)
    assert run.main(["--resume", str(copy)]) == 0


@pytest.mark.parametrize("name", ["a[/b] it's", "exp[seed=1]", "-rf :smile:", "训练 Läufe"])
def test_names_are_shown_as_they_are(name: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda session, console, resume=False: 15)
    assert run.main([*PROBE, f"--out={name}"]) == 143
    lines = capsys.readouterr().out.splitlines()
    assert f"Folder    {name}" in lines
    hints = [line for line in lines if "--resume" in line]
    assert len(hints) == 2
    for line in hints:
        hint = shlex.split(line.partition("ontinue with: ")[2])
        assert hint[:3] == ["mamt", "train", "--resume"] and Path(hint[3]) == Path(name)
        assert not hint[3].startswith("-") and len(hint) == 4
    Path(name).mkdir(parents=True)
    (Path(name) / "config.json").touch()
    assert run.main([*PROBE, f"--out={name}"]) == 2
    assert f"with --resume {shlex.quote(hint[3])}, or" in capsys.readouterr().err


def test_config_says_all_there_is_to_know(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    assert config["experiment"]["runs"] == [
        {"seed": 3, "learning_rate": 0.1},
        {"seed": 4, "learning_rate": 0.1},
        {"seed": 3, "learning_rate": 0.5},
        {"seed": 4, "learning_rate": 0.5},
    ]
    assert config["experiment"]["env_options"] == {"num_agents": 3}
    assert [each["learning_rate"] for each in config["algorithm_configs"]] == [0.1, 0.1, 0.5, 0.5]
    assert config["algorithm_configs"][0]["temperature"] == 0.2 and config["training"]["batch_size"] == 32
    assert config["versions"]["jax"] == jax.__version__ and config["device"]["platform"] == "cpu"
    assert config["references"]["scripted"] == 5.0 and 1.0 < config["references"]["random"] < 2.4


def test_metrics_has_a_row_for_every_evaluation_and_run(folder: Path):
    rows = read_rows(folder / "metrics.jsonl")
    assert [(row["run"], row["env_steps"]) for row in rows] == [(r, s) for s in (0, 100, 200, 300) for r in range(4)]
    needed = (
        "run seed env_steps episodes updates wall_seconds train_return eval_return eval_return_sampled eval_return_per_agent"
    )
    assert list(rows[0])[:10] == needed.split()
    assert rows[0]["loss"] is None and rows[0]["train_return"] is None and rows[-1]["loss"] > 0
    assert [path.name for path in (folder / "checkpoints").iterdir()].count("iteration_000000015.npz") == 1
    assert (folder / "learning_curve.png").exists()


def test_a_policy_is_loaded_without_its_environment(folder: Path):
    observation = jax.nn.one_hot(jnp.array([[0, 1, 2], [2, 2, 0]]), probe.SYMBOLS)
    for number in (2, 3):
        policy = load_policy(folder, run=number)
        np.testing.assert_array_equal(policy(observation), [[0, 1, 2], [2, 2, 0]])
        np.testing.assert_array_equal(policy(observation[0]), [0, 1, 2])
        sampled = policy(jnp.broadcast_to(observation, (400, 2, 3, 3)), jax.random.key(0))
        assert 0.5 < np.mean(sampled == policy(observation)[None]) < 1.0
    with pytest.raises(FolderError, match="run=4 is not valid: .* has runs 0 to 3"):
        load_policy(folder, run=4)


@pytest.mark.slow
def test_a_trained_run_is_played(folder: Path, tmp_path: Path, capsys):
    assert evaluate.main([str(folder), "--run", "2", "--episodes", "8"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("greedy return 5.00 ± 0.00 over 8 episodes (random ") and second == "  named  1 ± 0"
    assert evaluate.main([str(folder), "--absolute"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "absolute metric of run 3: 5.00 ± 0.00 over 200 episodes"
    assert lines[4:] == ["mean over 4 runs: 5.00, standard deviation 0.00"]
    for arguments, message in (
        (["--gif", "film.gif"], "symbols cannot be drawn: give its Environment a `scene`"),
        (["--gif", "film.png"], "--gif film.png is not valid: give a name that ends with .gif or .mp4."),
        (["--run", "4"], "run=4 is not valid"),
        (["--episodes", "0"], "--episodes 0 is not valid"),
        (["--fps", "0"], "--fps 0 is not valid: give a number from 0.1 to 100."),
        (["--size", "1"], "--size 1 is not valid: give a whole number from 64 to 4096."),
        (["--absolute", "--policy", "latest"], "--policy latest is not valid with --absolute"),
        (["--pretrained", "spread/maac"], "give either the folder of a run or --pretrained ENV/ALGO"),
    ):
        assert evaluate.main([str(folder), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_film_ends_with_its_episode():
    def policy(observation: jax.Array, key: jax.Array | None, action_mask: jax.Array | None) -> jax.Array:
        return jnp.zeros(observation.shape[:-1], jnp.int32)

    env = make("spread", episode_limit=6)
    assert len(film_episode(env, policy, False, jax.random.key(0)).frames) == 7


def test_a_finished_run_stays_finished(folder: Path, capsys):
    before = (folder / "metrics.jsonl").read_text()
    assert run.main(["--resume", str(folder)]) == 0
    assert (folder / "metrics.jsonl").read_text() == before
    events = [path.stat().st_size for path in (folder / "tensorboard").glob("*/events*")]
    assert len(events) == 4 and min(events) > 1000


def test_a_damaged_checkpoint_is_named_and_the_rest_kept(folder: Path, tmp_path: Path, capsys):
    copy = tmp_path / "copy"
    (copy / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl"):
        (copy / name).write_text((folder / name).read_text())
    assert run.main(["--resume", str(copy)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    (copy / "checkpoints" / "iteration_000000015.npz").write_bytes(b"not what it was")
    assert run.main(["--resume", str(copy)]) == 2
    assert "iteration_000000015.npz is damaged" in capsys.readouterr().err
    assert (copy / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="damaged"):
        load_policy(copy)
    (copy / "config.json").write_text("{")
    assert run.main(["--resume", str(copy)]) == 2
    assert "config.json cannot be read" in capsys.readouterr().err


def test_another_runs_checkpoint_is_refused(folder: Path, tmp_path: Path, capsys):
    config = json.loads((folder / "config.json").read_text())
    config["experiment"]["env_options"]["num_agents"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").symlink_to(folder / "checkpoints")
    assert run.main(["--resume", str(tmp_path)]) == 2
    assert "belongs to another experiment" in capsys.readouterr().err


@pytest.mark.slow
def test_help_lists_every_field(run_python: RunPython):
    script = ROOT / "experiments" / "run.py"
    text = run_python(script, "--env", "spread", "--algo", "mamt", "--help").stdout
    for option in ("--seeds", "--buffer-size", "--local-ratio", "--epsilon-min", "--num-heads", "--resume", "--preset"):
        assert option in text
    words = " ".join(text.split())
    assert "weight of the collision term in the reward, from 0 to 1. (default 0.5)" in words
    assert "Smallest trust region. (default 0.01)" in words
    assert "Transitions that the replay memory holds. (default 1000000)" in words


def test_fields_become_options():
    options = {option.name: option for option in config_options(probe.NamerConfig, several=is_float_leaf)}
    assert options["temperature"].help == "Of the softmax that explores." and options["temperature"].several
    assert options["size"].kind is int and not options["size"].several
    with pytest.raises(ValueError, match=r"\"\{'size'\" is not valid: give a value of type dict"):
        convert(Option("options", dict | None, None, ""), "{'size'")
    assert dashed(["--num_envs", "--out=a_b", "c_d"]) == ["--num-envs", "--out=a_b", "c_d"]


def test_a_preset_gives_what_the_command_line_does_not():
    def asked(*arguments: str) -> Experiment:
        return experiment_of(["--algo", "mamt", *arguments])

    preset = find_preset("tuned", "rover_tower", "mamt").options
    plain, own = asked(), asked("--hidden_size", "16", "--epsilon", "1", "2")
    assert dataclasses.asdict(plain.training).items() | plain.algo_options.items() >= preset.items()
    kept = {name: value for name, value in plain.algo_options.items() if name != "epsilon"}
    assert own.algo_options == kept | {"hidden_size": 16}
    assert [each["epsilon"] for each in own.runs] == [1.0, 2.0]


def test_a_short_run_has_fewer_environments_and_as_many_updates_a_step():
    short, whole = (experiment_of(["--algo", "maac", *more]).training for more in (["--episodes", "120"], []))
    assert (whole.num_envs, whole.update_interval, short.num_envs, short.update_interval) == (120, 1000, 12, 100)


def test_the_papers_settings_are_one_preset_away():
    paper = experiment_of(["--algo", "mamt", "--preset", "paper"])
    assert paper.algo_options == {} and paper.training == TrainingConfig(episodes=50_000, evaluation_interval=500)
    elsewhere = experiment_of(["--env", "matrix_game", "--algo", "maac"])
    assert elsewhere.algo_options == {} and elsewhere.training.batch_size == 1024  # nothing was measured there


def test_help_tells_the_presets_defaults(capsys: pytest.CaptureFixture[str]):
    for preset, size in (("tuned", 64), ("paper", 128)):
        with pytest.raises(SystemExit):
            run.read_arguments(["--algo", "maac", "--preset", preset, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert re.search(rf"--hidden-size INT [^-]*\(default {size}\)", text)
