"""What training leaves to use: the best policies, and exports that plain JAX runs."""

import json
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import probe
import pytest
from conftest import RunPython, experiment_of

import pretrained_returns
from envs_jax import make
from mamt_jax.algorithms import registry
from mamt_jax.cli import evaluate
from mamt_jax.cli import train as run
from mamt_jax.training.best import describe_latest, merge_best, save_better
from mamt_jax.training.checkpoint import CheckpointError
from mamt_jax.training.merge import read_experiment
from mamt_jax.training.policies import load_policy
from mamt_jax.training.run_folder import FolderError, read_rows


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files if name != "record"}


def test_the_last_of_the_highest_evaluations_is_kept(finished_run: Path):
    best, rows = read(finished_run / "best.npz"), read_rows(finished_run / "metrics.jsonl")
    lasts = [
        max((row for row in rows[::-1] if row["run"] == number), key=lambda row: row["eval_return"]) for number in range(4)
    ]
    np.testing.assert_array_equal(best[".eval_return"], [row["eval_return"] for row in lasts])
    np.testing.assert_array_equal(best[".env_steps"], [row["env_steps"] for row in lasts])
    assert set(best) == {".eval_return", ".env_steps", ".learner_state.value"}


def test_each_run_keeps_its_own_best(tmp_path: Path):
    path, states = tmp_path / "best.npz", {"kept": np.arange(8.0).reshape(4, 2), "key": None}
    for number, returns in enumerate([[1, np.nan, 3], [2, -5, np.nan], [1.5, -6, 3], [2, np.inf, 2.9]]):
        save_better(path, {**states, "kept": states["kept"] + 100 * number}, returns, 10 * number)
    best = read(path)
    np.testing.assert_array_equal(best[".eval_return"], [2, -5, 3])
    np.testing.assert_array_equal(best[".env_steps"], [30, 10, 20])
    np.testing.assert_array_equal(best[".learner_state['kept']"], [[300, 301], [102, 103], [204, 205]])
    save_better(path, states, [2, -5, 2.9], 15)  # a run that was killed meets an evaluation again that a later one has equalled
    np.testing.assert_array_equal(read(path)[".env_steps"], [30, 15, 20])
    merge_best([path, path], tmp_path / "merged.npz")
    np.testing.assert_array_equal(read(tmp_path / "merged.npz")[".env_steps"], [30, 15, 20] * 2)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="best.npz is damaged"):
        save_better(path, states, [9, 9, 9], 40)


def test_equal_but_for_rounding_is_equal_and_does_not_add_up(tmp_path: Path):
    path, states = tmp_path / "best.npz", {"kept": np.zeros((2, 1))}
    for number in range(5):
        save_better(path, states, [-6e-6 * number, 1e-6 * (-1) ** number], number, rounding=[1e-5, 1e-5])
    np.testing.assert_array_equal(read(path)[".env_steps"], [1, 4])
    np.testing.assert_array_equal(read(path)[".eval_return"], [0, 1e-6])


def evaluations(agents: list[list[float]], sampled: list[float], training: list[float | None]) -> list[dict]:
    """Rows of metrics.jsonl of one run."""
    each = zip(agents, sampled, training, strict=True)
    return [
        {"run": 0, "eval_return": float(np.mean(greedy)), "eval_return_per_agent": greedy}
        | {"eval_return_sampled": drawn, "train_return": trained}
        for greedy, drawn, trained in each
    ]


@pytest.mark.parametrize(
    ("agents", "sampled", "training", "reason"),
    [
        ([[8, -8.00001], [0, 0], [-3, 3]], [0, 1e-6, 0], [None, 0, 0], "the agents' returns sum to 0 in every evaluation"),
        ([[7, 3, 5], [9, 1, 5]], [5, 5], [None, 5], "the agents' returns sum to 15 in every evaluation"),
        ([[0, 0], [0, 0], [0, 0]], [0, 0, 0], [None, 0, 0], "the mean return was 0 at every evaluation"),
        ([[0, 5], [5, 0]], [2.5, 3], [None, 2.8], "the mean return was 2.5 at every evaluation"),
        ([[8, -8], [0, 0.1]], [0, 0], [None, 0], None),
        ([[8, -8]], [0], [None], None),
    ],
    ids=["zero-sum", "constant-sum", "a reward nobody has found", "by chance", "nearly zero-sum", "one evaluation"],
)
def test_a_constant_sum_is_told_from_what_has_not_moved(agents: list, sampled: list, training: list, reason: str | None):
    said = describe_latest(evaluations(agents, sampled, training))
    assert (said == []) == (reason is None) and all(str(reason) in sentence for sentence in said)


@pytest.mark.slow
def test_the_best_policy_of_a_zero_sum_game_is_the_latest_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture):
    game = "--env matrix_game --game matching_pennies --algo mappo --hidden-size 8 --policy-learning-rate 0.03 --seeds 2"
    small = "--num-epochs 2 --num-minibatches 1 --episodes 40 --num-envs 4 --update-interval 100 --evaluation-interval 8"
    assert run.main([*game.split(), *small.split(), "--evaluation-episodes", "4", "--out", str(tmp_path / "out")]) == 0
    sentence = "Runs 0, 1: the agents' returns sum to 0 in every evaluation and in training, as in a zero-sum game."
    assert sentence in capsys.readouterr().out
    last = read_rows(tmp_path / "out" / "metrics.jsonl")[-1]
    np.testing.assert_array_equal(read(tmp_path / "out" / "best.npz")[".env_steps"], [last["env_steps"]] * 2)
    assert evaluate.main([str(tmp_path / "out"), "--policy", "best", "--run", "1", "--episodes", "2"]) == 0
    said = capsys.readouterr().out
    assert sentence.replace("Runs 0, 1", "Run 1") in said and "worse ones. best.npz holds the latest." in said


@pytest.mark.parametrize("algo", ["mamt", "maddpg", "mappo"])
def test_a_policy_is_a_small_part_of_what_learns(algo: str):
    spec = make("spread").spec
    algorithm = registry.make(algo, spec)
    config = algorithm.config(hidden_size=8)
    state = jax.eval_shape(algorithm.init, config, jax.random.key(0))
    part = algorithm.policy(state)
    names = {jax.tree_util.keystr(path).split(".")[-1].split("[")[0] for path, _ in jax.tree.leaves_with_path(part)}
    assert names == {"policy", "mean", "variance"}


def test_the_best_policy_is_loaded_and_a_missing_one_named(finished_run: Path, tmp_path: Path):
    value, observation = read(finished_run / "best.npz")[".learner_state.value"], np.eye(3)[None]
    for number in range(4):
        greedy = np.einsum("bnd,nda->bna", observation, value[number, ..., 0]).argmax(-1)
        np.testing.assert_array_equal(load_policy(finished_run, number, "best")(jnp.asarray(observation)), greedy)
    (tmp_path / "config.json").symlink_to(finished_run / "config.json")
    with pytest.raises(FolderError, match="has no best.npz"):
        load_policy(tmp_path, which="best")
    (tmp_path / "best.npz").symlink_to(finished_run / "best.npz")
    with pytest.raises(FolderError, match="holds no checkpoint, only its best policies: use them"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            (np.zeros(3),),
            r"observation has shape \(3,\), which is not valid: give \(..., 3, 3\), with one row for each of namer_0, namer_1",
        ),
        ((np.zeros((3, 4)),), r"observation has shape \(3, 4\)"),
        ((np.zeros((5, 1, 3)),), r"observation has shape \(5, 1, 3\)"),
        ((np.zeros((3, 3), complex),), "observation is complex64, which is not valid: give real numbers"),
        ((np.full((3, 3), "a"),), "observation is not valid: give an array of numbers"),
        ((np.zeros((3, 3)), 7), "key is 7, which is not valid: give one key"),
        ((np.zeros((3, 3)), jax.random.split(jax.random.key(0))), r"key is key<fry> \(2,\), which is not valid"),
        ((np.zeros((3, 3)), None, np.ones((3, 2), bool)), r"action_mask has shape \(3, 2\), which is not valid: give \(3, 3\)"),
        ((np.zeros((3, 3)), None, np.ones((3, 3))), "action_mask is float32, which is not valid: give bool"),
    ],
)
def test_a_policy_refuses_what_it_cannot_read(finished_run: Path, arguments: tuple, sentence: str):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        load_policy(finished_run)(*arguments)


CALL = """
import sys
sys.modules.update(dict.fromkeys(["mamt_jax", "envs_jax", "flax", "chex", "optax", "jraph"]))  # None: importing them fails
import json, pathlib, jax.export, numpy as np

mode, draw = (jax.export.deserialize(pathlib.Path(name).read_bytes()) for name in ("mode", "draw"))
observation = np.array(json.loads(sys.argv[1]), np.float32)
actions = mode.call(observation), mode.call(observation[:1]), draw.call(observation, np.uint32(7))
print(json.dumps([each.tolist() for each in actions]))
"""


@pytest.mark.slow
def test_plain_jax_runs_an_exported_policy(finished_run: Path, tmp_path: Path, run_python: RunPython):
    for name, arguments in (("mode", []), ("draw", ["--sample"])):
        export = ["--run", "1", "--policy", "best", "--export", str(tmp_path / name), "--episodes", "2"]
        assert evaluate.main([str(finished_run), *export, *arguments]) == 0
    observation = np.asarray(jax.random.normal(jax.random.key(2), (40, 3, probe.SYMBOLS)))
    printed = run_python("-I", "-c", CALL, json.dumps(observation.tolist()), cwd=tmp_path).stdout
    policy = load_policy(finished_run, 1, "best")
    expected = policy(observation), policy(observation[:1]), policy(observation, jax.random.key(7))
    for actions, due in zip(json.loads(printed), expected, strict=True):
        np.testing.assert_array_equal(actions, due)


def test_an_export_without_flatbuffers_says_what_to_install(finished_run: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate.importlib.util, "find_spec", lambda name: None)
    assert evaluate.main([str(finished_run), "--export", str(tmp_path / "policy")]) == 2
    assert "--export needs flatbuffers: install it with `pip install -e '.[export]'`." in capsys.readouterr().err


def test_the_page_of_trained_policies_says_what_is_in_their_files():
    page = (pretrained_returns.PRETRAINED / "README.md").read_text()
    returns = json.loads(pretrained_returns.RETURNS.read_text())["returns"]
    assert returns.keys() == {pretrained_returns.name_of(folder) for folder in pretrained_returns.folders()}
    assert pretrained_returns.table(returns) in page and pretrained_returns.commands() in page


@pytest.mark.slow
@pytest.mark.parametrize("folder", pretrained_returns.folders(), ids=pretrained_returns.name_of)
def test_a_trained_policy_is_small_and_of_its_command(folder: Path):
    assert (folder / "best.npz").stat().st_size < 1_000_000
    rows, best = read_rows(folder / "metrics.jsonl"), read(folder / "best.npz")
    assert best[".eval_return"] == max(row["eval_return"] for row in rows)
    _, _, *arguments = shlex.split(pretrained_returns.command(folder))
    assert experiment_of(arguments) == read_experiment(folder)


def test_a_trained_policy_plays_where_it_was_trained(capsys: pytest.CaptureFixture):
    played = json.loads(pretrained_returns.RETURNS.read_text())["returns"]["rover_tower/mappo"]
    assert evaluate.main(["--pretrained", "rover_tower/mappo", "--episodes", "300"]) == 0
    mean, error = (float(each) for each in capsys.readouterr().out.split()[2:5:2])
    assert abs(mean - played["return"]) < 4 * error
    assert evaluate.main(["--pretrained", "rover_tower/mapo"]) == 2
    assert "--pretrained rover_tower/mapo does not exist (did you mean 'rover_tower/mappo'?)" in capsys.readouterr().err
