"""What training leaves to use: the best policies, and exports that plain JAX runs."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import probe
import pytest
from conftest import RunPython

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from envs_jax import make  # noqa: E402
from experiments import evaluate, pretrained_returns, run  # noqa: E402
from experiments.options import underscored  # noqa: E402
from mamt_jax.algorithms import registry  # noqa: E402
from mamt_jax.training.best import merge_best, policy_leaves, policy_part, save_better  # noqa: E402
from mamt_jax.training.load_policy import load_policy  # noqa: E402
from mamt_jax.training.merge import read_experiment  # noqa: E402
from mamt_jax.training.writers import FolderError, read_config, read_rows  # noqa: E402

ARGUMENTS = [
    *["--env", "probe:symbols", "--algo", "probe:make", "--num_agents", "3", "--seeds", "3", "--learning-rate", "0.05"],
    *["--episodes", "60", "--num-envs", "4", "--update-interval", "10", "--num-updates", "1", "--buffer-size", "200"],
    *["--batch-size", "32", "--evaluation-interval", "4", "--evaluation-episodes", "20"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs that are still learning when they are over."""
    folder = tmp_path_factory.mktemp("policies") / "out"
    assert run.main([*ARGUMENTS, "--out", str(folder)]) == 0
    return folder


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files if name != "record"}


def test_the_first_of_the_highest_evaluations_is_kept(folder: Path):
    best, rows = read(folder / "best.npz"), read_rows(folder / "metrics.jsonl")
    firsts = [max((row for row in rows if row["run"] == number), key=lambda row: row["eval_return"]) for number in range(3)]
    np.testing.assert_array_equal(best[".eval_return"], [row["eval_return"] for row in firsts])
    np.testing.assert_array_equal(best[".env_steps"], [row["env_steps"] for row in firsts])
    assert set(best) == {".eval_return", ".env_steps", ".learner_state.value"} and (best[".env_steps"] < 300).any()


def test_each_run_keeps_its_own_best(tmp_path: Path):
    path, states = tmp_path / "best.npz", {"kept": np.arange(8.0).reshape(4, 2), "key": None}
    for number, returns in enumerate([[1, np.nan, 3], [2, -5, np.nan], [1.5, -6, 3]]):
        save_better(path, {**states, "kept": states["kept"] + 100 * number}, returns, 10 * number)
    best = read(path)
    np.testing.assert_array_equal(best[".eval_return"], [2, -5, 3])
    np.testing.assert_array_equal(best[".env_steps"], [10, 10, 0])
    np.testing.assert_array_equal(best[".learner_state['kept']"], [[100, 101], [102, 103], [4, 5]])
    merge_best([path, path], tmp_path / "merged.npz")
    np.testing.assert_array_equal(read(tmp_path / "merged.npz")[".env_steps"], [10, 10, 0] * 2)
    path.write_bytes(path.read_bytes()[:-50])
    save_better(path, states, [0, 0, 0], 40)
    np.testing.assert_array_equal(read(path)[".env_steps"], [40, 40, 40])


@pytest.mark.parametrize("algo", ["mamt", "maddpg", "mappo"])
def test_a_policy_is_a_small_part_of_what_learns(algo: str):
    spec = make("spread").spec
    algorithm = registry.make(algo, spec)
    config = algorithm.config(hidden_size=8)
    state = jax.eval_shape(algorithm.init, config, jax.random.key(0))
    part = policy_part(state, policy_leaves(algorithm, spec, config, state))
    names = {jax.tree_util.keystr(path).split(".")[-1].split("[")[0] for path, _ in jax.tree.leaves_with_path(part)}
    assert names == {"policy", "mean", "variance"}


def test_the_best_policy_is_loaded_and_a_missing_one_named(folder: Path, tmp_path: Path):
    value, observation = read(folder / "best.npz")[".learner_state.value"], np.eye(3)[None]
    for number in range(3):
        greedy = np.einsum("bnd,nda->bna", observation, value[number, ..., 0]).argmax(-1)
        np.testing.assert_array_equal(load_policy(folder, number, "best")(jnp.asarray(observation)), greedy)
    (tmp_path / "config.json").symlink_to(folder / "config.json")
    with pytest.raises(FolderError, match="has no best.npz"):
        load_policy(tmp_path, which="best")


CALL = """
import sys
sys.modules.update(dict.fromkeys(["mamt_jax", "envs_jax", "flax", "chex", "optax", "jraph"]))  # None: importing them fails
import json, pathlib, jax.export, numpy as np
policy = jax.export.deserialize(pathlib.Path(sys.argv[1]).read_bytes())
observation = np.array(json.loads(sys.argv[2]), np.float32)
seeds = [np.uint32(int(seed)) for seed in sys.argv[3:]]
print(json.dumps([policy.call(batch, *seeds).tolist() for batch in (observation, observation[:1])]))
"""


@pytest.mark.parametrize("seed", [None, 7])
def test_plain_jax_runs_an_exported_policy(folder: Path, tmp_path: Path, run_python: RunPython, seed: int | None):
    observation = np.asarray(jax.random.normal(jax.random.key(2), (40, 3, probe.SYMBOLS)))
    arguments = [] if seed is None else ["--sample"]
    assert evaluate.main([str(folder), "--run", "1", "--policy", "best", "--export", str(tmp_path / "policy"), *arguments]) == 0
    seeds = [] if seed is None else [str(seed)]
    printed = run_python("-I", "-c", CALL, tmp_path / "policy", json.dumps(observation.tolist()), *seeds, cwd=tmp_path).stdout
    policy = load_policy(folder, 1, "best")
    for actions, batch in zip(json.loads(printed), (observation, observation[:1]), strict=True):
        np.testing.assert_array_equal(actions, policy(batch, None if seed is None else jax.random.key(seed)))


def test_an_export_without_flatbuffers_says_what_to_install(folder: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate.importlib.util, "find_spec", lambda name: None)
    assert evaluate.main([str(folder), "--export", str(tmp_path / "policy")]) == 2
    assert "--export needs flatbuffers: pip install -e '.[export]'." in capsys.readouterr().err


def test_the_page_of_trained_policies_says_what_is_in_their_files():
    page = (pretrained_returns.PRETRAINED / "README.md").read_text()
    returns = json.loads(pretrained_returns.RETURNS.read_text())["returns"]
    assert returns.keys() == {pretrained_returns.name_of(folder) for folder in pretrained_returns.folders()}
    assert pretrained_returns.table(returns) in page and pretrained_returns.commands() in page


@pytest.mark.parametrize("folder", pretrained_returns.folders(), ids=pretrained_returns.name_of)
def test_a_trained_policy_is_small_and_of_its_command(folder: Path):
    assert (folder / "best.npz").stat().st_size < 1_000_000
    rows, best = read_rows(folder / "metrics.jsonl"), read(folder / "best.npz")
    assert best[".eval_return"] == max(row["eval_return"] for row in rows)
    _, *arguments = read_config(folder)["command"]
    assert run.make_experiment(run.read_arguments(underscored(arguments))) == read_experiment(folder)


def test_a_trained_policy_plays_where_it_was_trained(capsys: pytest.CaptureFixture):
    played = json.loads(pretrained_returns.RETURNS.read_text())["returns"]["rover_tower/mappo"]
    assert evaluate.main(["--pretrained", "rover_tower/mappo", "--episodes", "300"]) == 0
    mean, error = (float(each) for each in capsys.readouterr().out.split()[2:5:2])
    assert abs(mean - played["return"]) < 4 * error
    assert evaluate.main(["--pretrained", "rover_tower/mapo"]) == 2
    assert "--pretrained rover_tower/mapo is not there: did you mean rover_tower/mappo?" in capsys.readouterr().err
