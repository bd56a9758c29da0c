"""How defaults are found, and that they are what was found."""

import json
from pathlib import Path

import numpy as np
import pytest

import tuning
from analysis.time_to_return import reached
from mamt_jax.presets import UNTUNED, find_preset
from mamt_jax.training.settings import find_settings, make_experiment


def test_a_change_stays_if_its_score_is_higher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([1.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(tuning, "TRIALS", tmp_path)
    monkeypatch.setattr(tuning, "run_trial", lambda pair, options, work: {"options": dict(options), "score": next(scores)})
    tuning.make_trials("spread/maac", tmp_path)
    rates = [trial["options"]["policy_learning_rate"] for trial in tuning.read_trials("spread/maac")]
    assert rates == [0.002, 0.004, 0.001, 0.004, 0.004, 0.004, 0.004, 0.004]
    assert tuning.best_options(tuning.read_trials("spread/maac"))["policy_learning_rate"] == 0.004


def test_the_best_trial_is_one_that_was_not_rejected() -> None:
    trials = [{"options": {"tau": 0.1}, "score": 1.0}, {"options": {"tau": 0.2}, "score": 2.0, "rejected": "one seed stalls"}]
    assert tuning.best_options(trials) == {"tau": 0.1}


def test_every_pair_gets_as_many_trials() -> None:
    assert len({len(axes) for axes in tuning.AXES.values()}) == 1


@pytest.mark.parametrize("pair", [pair for pair in tuning.pairs() if tuning.next_options(pair) is None])
def test_defaults_are_the_best_trials(pair: str) -> None:
    task, algo = pair.split("/")
    options, length = find_preset("tuned", task, algo).options, {*UNTUNED.options, "evaluation_episodes", "lr_decay_updates"}
    best = tuning.best_options(tuning.read_trials(pair))
    assert {name: value for name, value in options.items() if name not in length} == best


def test_a_preset_may_change_the_environment_and_what_is_given_goes_first() -> None:
    settings = find_settings("pursuit", "mappo", "tuned", lambda options: {})
    assert make_experiment(settings, {}).env_options == {"shared_reward": False}
    assert make_experiment(settings, {"shared_reward": True}).env_options == {"shared_reward": True}


def test_a_trial_that_never_evaluated_has_no_score() -> None:
    assert tuning.summarise({}, [])["score"] == -np.inf
    json.dumps(tuning.summarise({"tau": 0.1}, [{"eval_return": 1.0, "updates": 2, "env_steps": 3}]))


def test_the_time_to_a_return_is_that_of_the_first_evaluation_that_has_it() -> None:
    seeds = {"0": {"seconds": [1.0, 2.0, 3.0], "return": [0.0, 5.0, 4.0]}, "1": {"seconds": [1.0], "return": [0.0]}}
    assert reached(seeds, "seconds", 4.5) == [2.0, np.inf]
