"""The campaign's commands describe the runs that are committed."""

import json
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
