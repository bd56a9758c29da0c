"""The campaign's commands describe the runs that are committed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import experiment_of

import paper
from mamt_jax.algorithms import registry
from mamt_jax.training.experiment import config_values, experiment_from_json, make_configs
from mamt_jax.training.run_folder import read_config, read_rows, spec_from_json

COMMANDS = paper.commands()
APART = {"episodes", "seed", "checkpoint_minutes"}
"""Fields of the training config that are compared otherwise, or that change no result."""


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two configs agree in the fields that both have: those of an older version are fewer."""
    return all(one[name] == other[name] for name in (one.keys() & other.keys()) - APART)


def test_every_committed_run_is_in_the_campaign():
    assert COMMANDS.keys() == {path.parent.relative_to(paper.RESULTS).as_posix() for path in paper.RESULTS.rglob("config.json")}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_of_the_campaign_are_those_of_the_results(name: str):
    content = read_config(paper.RESULTS / name)
    asked, kept = (
        experiment_of(COMMANDS[name]),
        experiment_from_json(content["experiment"]),
    )
    assert (asked.env, asked.env_options, asked.algo) == (kept.env, kept.env_options, kept.algo)
    assert [run["seed"] for run in asked.runs] == [run["seed"] for run in kept.runs]
    configs = config_values(make_configs(registry.make(asked.algo, spec_from_json(content["spec"])), asked))
    assert all(map(same, configs, content["algorithm_configs"]))
    assert same(vars(asked.training), json.loads(json.dumps(content["training"])))
    rows = read_rows(paper.RESULTS / name / "metrics.jsonl")
    assert asked.training.episodes in (kept.training.episodes, max(row["episodes"] for row in rows))


@pytest.mark.slow
def test_what_is_missing_is_trained_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = "--episodes 256 --evaluation-interval 256 --evaluation-episodes 4 --hidden-size 8"
    monkeypatch.setattr(paper, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(paper, "CAMPAIGN", {"spread_n3": {"mappo_shared": f"{options} --share-policy True"}})
    for _ in range(2):  # the second time nothing is missing
        monkeypatch.setattr("sys.argv", ["paper.py", "--work", str(tmp_path / "work")])
        paper.main()
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
    kept = tmp_path / "results" / "spread_n3" / "mappo_shared"
    assert {path.name for path in kept.iterdir()} == {"config.json", "metrics.jsonl"}
    assert read_config(kept)["experiment"]["algo"] == "mappo"
