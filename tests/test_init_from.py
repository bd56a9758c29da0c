"""--init-from: new runs that begin with the parameters of others."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import PROBE, SMALL

from envs_jax import make
from mamt_jax.algorithms import registry
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.cli import train as run
from mamt_jax.training import launch as train
from mamt_jax.training.checkpoint import latest_checkpoint, named_arrays, named_leaves
from mamt_jax.training.initial import Parameters, begin_from, wanted_part
from mamt_jax.training.merge import read_experiment
from mamt_jax.training.run_folder import read_rows

ROOT = Path(__file__).parents[1]

SPEC = make("spread", num_agents=2).spec
FRESH = ("optimizer", "updates")
TARGETS = ("target_policy", "old_policy")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in the middle of their learning."""
    folder = tmp_path_factory.mktemp("source") / "out"
    arguments = [*PROBE, *SMALL, "--seeds", "2", "--learning-rate", "0.005", "--episodes", "28", "--num-agents", "3"]
    assert run.main([*arguments, "--size", "2", "--out", str(folder)]) == 0
    return folder


def begin(source: Path, out: Path, *more: str) -> int:
    return run.main(["--init-from", str(source), *SMALL, "--seeds", "3", "--seed", "7", *more, "--out", str(out)])


def state(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / "checkpoints" / name) as archive:
        return {name: archive[name] for name in archive.files}


def origin(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["init_from"]


@pytest.mark.slow
def test_runs_begin_with_parameters_and_go_on_without_their_source(source: Path, tmp_path: Path, capsys):
    copy, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, copy)
    assert begin(copy, out, "--evaluation-episodes", "50") == 0
    assert "all parameters of runs 0, 1 of" in capsys.readouterr().out
    experiment = read_experiment(out)
    assert (experiment.env, experiment.algo, experiment.env_options) == ("probe:symbols", "probe:make", {"num_agents": 3})
    assert experiment.algo_options == {"size": 2}
    first, given = state(out, "iteration_000000000.npz"), state(source, "iteration_000000007.npz")
    for number in range(3):
        value = given[".learner_state.value"][number % 2]
        np.testing.assert_array_equal(first[".learner_state.value"][number], value)
    assert first[".learner_state.updates"].tolist() == [0, 0, 0] and given[".learner_state.updates"].min() > 0
    assert len(np.unique(first[".learner_state.key"], axis=0)) == 3
    before, now = (
        {row["run"]: row["eval_return"] for row in read_rows(folder / "metrics.jsonl") if condition(row["env_steps"])}
        for folder, condition in ((source, lambda steps: steps == 140), (out, lambda steps: steps == 0))
    )
    random = [row["eval_return"] for row in read_rows(source / "metrics.jsonl") if row["env_steps"] == 0]
    assert all(abs(now[number] - before[number % 2]) < 0.25 for number in now) and max(random) < min(before.values()) - 1
    found = origin(out)
    assert (found["runs"], found["env_steps"], found["file"]) == ([0, 1, 0], [140] * 3, "iteration_000000007.npz")
    assert found["parameters"] == "all" and len(found["sha256"]) == 64
    shutil.rmtree(copy)
    assert run.main(["--resume", str(out), "--episodes", "80"]) == 0
    assert read_rows(out / "metrics.jsonl")[-1]["env_steps"] == 400 and origin(out) == found


@pytest.mark.slow
def test_waves_begin_with_parameters_when_their_source_is_gone(source: Path, tmp_path: Path, monkeypatch):
    copy, out, whole, begun = tmp_path / "source", tmp_path / "out", train.train, []
    shutil.copytree(source, copy)
    monkeypatch.setattr(train, "runs_that_fit", lambda plan, capacity, available: 2)

    def stop_in_the_second(session, console, resume=False):
        begun.append(session.folder.name)
        if len(begun) == 2:
            shutil.rmtree(copy)
            return 15
        return whole(session, console, resume)

    monkeypatch.setattr(train, "train", stop_in_the_second)
    assert begin(copy / "best.npz", out) == 128 + 15
    assert run.main(["--resume", str(out)]) == 0 and begun == ["000", "001", "001"]
    with np.load(source / "best.npz") as best:
        for part, number, other in (("000", 0, 0), ("001", 0, 1), ("001", 1, 0)):
            value = state(out / "parts" / part, "iteration_000000000.npz")[".learner_state.value"][number]
            np.testing.assert_array_equal(value, best[".learner_state.value"][other])
    found = origin(out)
    assert (found["runs"], found["parameters"], found["file"]) == ([0, 1, 0], "policies", "best.npz")


@functools.cache
def fresh_states(name: str) -> tuple[Algorithm, Any, Any]:
    """An algorithm, a small config, and the states in which two runs start."""
    algorithm = registry.make(name, SPEC)
    config = algorithm.config(hidden_size=8)
    return algorithm, config, jax.jit(jax.vmap(algorithm.init, (None, 0)))(config, jax.random.split(jax.random.key(0), 2))


@pytest.mark.parametrize("policies", [False, True], ids=["all parameters", "policies alone"])
@pytest.mark.parametrize(
    "name", ["mappo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("maac", "mamd", "mamt", "maddpg", "lola"))]
)
def test_what_was_learnt_is_taken_over_and_nothing_else(name: str, policies: bool):
    algorithm, config, fresh = fresh_states(name)
    learnt = named_arrays(jax.tree.map(lambda leaf: (leaf[:1] + 1).astype(leaf.dtype), fresh))
    places = named_leaves(wanted_part(algorithm, config, policies)).keys()
    assert any("policy" in place for place in places) and any("critic" in place for place in places) != policies
    parameters = Parameters({place: learnt[place] for place in places}, {"runs": [0, 0]})
    begun, fresh = named_arrays(begin_from(parameters, fresh, num_runs=2)), named_arrays(fresh)
    assert begun.keys() == fresh.keys()
    for place, found in begun.items():
        target = next((field for field in TARGETS if field in place), None)
        if any(word in place for word in FRESH):
            expected = fresh[place]
        elif policies and target:
            expected = np.repeat(learnt[place.replace(target, "policy")], 2, 0)
        elif policies and place not in places:
            expected = fresh[place]
        else:
            expected = np.repeat(learnt[place], 2, 0)
        np.testing.assert_array_equal(found, expected, err_msg=place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrained/spread/maacs"], "--init-from pretrained/spread/maacs does not exist (did you mean 'spread/maac'?)"),
        (["absent"], "absent is not the folder of a run, because it has no config.json"),
        (["pretrained/spread/maac", "--env", "rover_tower"], "its policies are for 2 agents, but rover_tower has 8."),
        (
            ["pretrained/spread/maac", "--env", "matrix_game"],
            "for player_0 it was trained with observations of size 12, but matrix_game has",
        ),
        (["pretrained/spread/maac", "--num-agents", "4"], "its policies are for 2 agents, but spread has 4."),
        (["pretrained/spread_n3/maac", "--env", "pursuit"], "its policies are for 3 agents, but pursuit has 8."),
        (["pretrained/spread_n3/maac", "--hidden-size", "32"], "does not fit hidden_size=32: it was trained with hidden_size="),
        (["pretrained/spread_n3/mappo", "--share-policy", "False"], "it was trained with share_policy=True. Leave out"),
        (["pretrained/spread_n3/maac", "--algo", "mamt"], "does not fit: its .base.policy['params']"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main(["--init-from", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_option_may_repeat_what_is_inherited() -> None:
    asked = run.read_arguments(["--init-from", "pretrained/spread_n3/maac", "--num-agents", "3"])
    assert asked.experiment is not None and asked.experiment.env_options == {"num_agents": 3}


@pytest.mark.slow
def test_a_smaller_algorithm_begins_with_the_policies_of_another(tmp_path: Path, capsys):
    out = tmp_path / "out"
    arguments = ["--algo", "mamd", "--episodes", "12", "--evaluation-episodes", "2", "--batch-size", "8", "--num-envs", "2"]
    assert run.main(["--init-from", "pretrained/spread_n3/maac", *arguments, "--out", str(out)]) == 0
    assert (
        "best.npz holds only policies: all other parameters, such as those of critics, are initialised"
        in capsys.readouterr().out
    )
    pretrained = ROOT / "mamt_jax" / "pretrained" / "spread_n3" / "maac"
    first = latest_checkpoint(out / "checkpoints").with_name("iteration_000000000.npz")
    with np.load(first) as begun, np.load(pretrained / "best.npz") as best:
        name = ".learner_state.policy['params']['Dense_0']['kernel']"
        for place in (name, name.replace("policy", "target_policy"), name.replace("policy", "old_policy")):
            np.testing.assert_array_equal(begun[place][0], best[name][0])
