"""Whatever is given for an option is refused in a sentence that names it, or makes a config that can be trained with."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
from conftest import experiment_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mamt_jax.cli.train import reader
from mamt_jax.options import OptionError
from mamt_jax.training import launch as train
from mamt_jax.training.settings import find_settings
from mamt_jax.validation import LARGEST

ROOT = Path(__file__).parents[1]

PAIRS = (("spread", "mamt"), ("matrix_game", "lola"), ("matrix_game", "mappo"), ("spread", "maddpg"))
ABSURD = [
    *["nan", "inf", "-inf", "-1", "0", "-0.0", "1e-50", "1e9", "1e30", "1e400", "2147483648", "None", "[]", "((1,", "many"],
    "",
]
NUMBER = re.compile(r"-?(?:inf|nan|\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


def option_names(pair: tuple[str, str]) -> list[str]:
    places = find_settings(*pair, "tuned", reader([])).places
    return [name.replace("_", "-") for name in ("seeds", "preset", *places)]


OPTIONS = [(pair, name) for pair in PAIRS for name in option_names(pair)]
VALUES = st.one_of(st.sampled_from(ABSURD), st.floats().map(repr), st.integers().map(str), st.text(max_size=6))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(OPTIONS), VALUES)
def test_an_option_is_refused_in_a_sentence_or_sound(option: tuple[tuple[str, str], str], text: str):
    (env, algo), name = option
    try:
        experiment = experiment_of(["--env", env, "--algo", algo, f"--{name}={text}"])
        session = train.prepare(experiment, Path("nowhere"), {})
    except OptionError as error:
        names_it(name, text, str(error))
        return
    assert session.built.schedule.total_iterations > session.built.schedule.warmup_iterations >= 0
    for config in (session.experiment.training, *session.built.configs):
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if isinstance(value, int | float):
                assert not math.isnan(value) and (abs(value) <= LARGEST or isinstance(value, float)), field.name


def names_it(name: str, text: str, message: str) -> None:
    assert name in message.replace("_", "-") and message.count("\n") == 0 and len(message) < 1000, message
    try:
        value = float(text)
    except ValueError:
        assert repr(text) in message, message
    else:
        found = [float(each) for each in NUMBER.findall(message)]
        assert text in message or value in found, message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "4", "--gamma", *["0.9"] * 60, "--tau", *["0.1"] * 60], "--seeds 4 is not valid: it makes 14400 runs"),
        (["--seed", "2147483647", "--seeds", "2"], "seed=2147483648 is not valid"),
        (["--num_updates", "2147483647"], "num_updates=2147483647 is not valid: it makes 6442450941 updates in an iteration"),
        (["--update_interval", "2147483647"], "update_interval=2147483647 is not valid: it makes 257698037640 transitions"),
        (["--episode_limit", "2147483647"], "steps of each environment, with episode_limit=2147483647"),
        (["--num_agents", "1"], "attention critics need at least 2 agents, but spread has 1: use mappo"),
        (["--num_agents", "1001"], "num_agents=1001 is not valid: num_agents must be a positive integer of at most 1000"),
        (["--gamma", "1.5"], "gamma=1.5 is not valid: give a number from 0 to 1"),
        (["--policy_learning_rate", "inf"], "policy_learning_rate=inf is not valid: give a finite number"),
    ],
)
def test_what_overflows_is_named(arguments: list[str], message: str):
    with pytest.raises(OptionError, match=re.escape(message)):
        train.prepare(experiment_of(["--env", "spread", "--algo", "maac", *arguments]), Path("x"), {})
