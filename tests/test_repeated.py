"""--config: a run's config.json as options for a new one."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mamt_jax.algorithms import registry
from mamt_jax.cli.train import main, read_arguments
from mamt_jax.training.experiment import (
    Experiment,
    config_values,
    experiment_from_json,
    experiment_to_json,
    make_configs,
    make_env,
)

RESULTS = Path(__file__).parents[1] / "experiments" / "results"
TYPED = ["--env", "pursuit", "--shared-reward", "True", "--algo", "mamd", "--epsilon", "1", "3", "--gamma", "0.9", "0.8"]


def experiment_of(arguments: Sequence[str]) -> Experiment:
    experiment = read_arguments(arguments).experiment
    assert experiment is not None
    return experiment


def write(experiment: Experiment, path: Path) -> str:
    algorithm = registry.make(experiment.algo, make_env(experiment).spec)
    configs = config_values(make_configs(algorithm, experiment))
    path.write_text(json.dumps({"experiment": experiment_to_json(experiment), "algorithm_configs": configs}))
    return str(path)


def test_the_runs_of_a_config_are_made_again(tmp_path: Path) -> None:
    typed = experiment_of([*TYPED, "--seeds", "2", "--seed", "5", "--episodes", "100", "--share-policy", "True"])
    path = write(typed, tmp_path / "config.json")
    again = experiment_of(["--config", path])
    write(again, tmp_path / "again.json")
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("config.json", "again.json"))
    assert first["algorithm_configs"] == second["algorithm_configs"] and len(first["algorithm_configs"]) == 8
    assert all(first["experiment"][name] == second["experiment"][name] for name in ("env", "env_options", "runs", "training"))


def test_options_go_before_a_config(tmp_path: Path) -> None:
    path = write(experiment_of([*TYPED, "--episodes", "100"]), tmp_path / "config.json")
    changed = experiment_of(["--config", str(tmp_path), "--epsilon", "7", "--episodes", "50", "--shared-reward", "False"])
    assert [run["gamma"] for run in changed.runs] == [0.9, 0.8] and changed.algo_options["epsilon"] == 7.0
    assert changed.training.episodes == 50 and changed.env_options == {"shared_reward": False}
    assert experiment_of(["--config", path, "--algo", "maac"]).algo == "maac"


@pytest.mark.parametrize(
    "name", ["rover_tower/maac", "spread/lola", "spread_n3/mappo_annealed", "pursuit/maddpg", "tuned/spread/mamt"]
)
def test_committed_configs_can_be_repeated(name: str) -> None:
    before = experiment_from_json(json.loads((RESULTS / name / "config.json").read_text())["experiment"])
    again = experiment_of(["--config", str(RESULTS / name)])
    assert (again.env, again.runs, again.training) == (before.env, before.runs, before.training)


def test_what_is_no_config_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged = experiment_of(["--env", "spread", "--algo", "maac", "--seeds", "2", "--gamma", "0.9", "0.8"])
    path = Path(write(merged, tmp_path / "config.json"))
    content = json.loads(path.read_text())
    content["experiment"]["runs"].pop()
    content["algorithm_configs"].pop()
    path.write_text(json.dumps(content))
    assert main(["--config", str(path)]) == 2
    assert "it holds merged runs" in capsys.readouterr().err
    for broken in ({}, content | {"algorithm_configs": []}, content | {"algorithm_configs": content["algorithm_configs"][:1]}):
        path.write_text(json.dumps(broken))
        assert main(["--config", str(path)]) == 2
        assert "give the config.json of a run" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "nothing.json")]) == 2
    assert "nothing.json cannot be read" in capsys.readouterr().err
