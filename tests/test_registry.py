"""Names, options and own factories: what is right is built, what is wrong gets one sentence."""

import importlib
import re
from pathlib import Path

import pytest

from envs_jax import environment_names, make
from envs_jax.particle.rover_tower import rover_tower
from envs_jax.registry import make_any

OWN_MODULE = """
import sys
from envs_jax import make

def corridor(width: int, episode_limit: int = 25):
    return make("spread", num_agents=width, episode_limit=episode_limit)

def wrong():
    return "no environment"

def raises(size: int = 3):
    return {}["missing"][size]

def says(size: int = 3):
    raise RuntimeError("The simulator is not there.\\nSecond line.")

def refuses(size: int = 3):
    raise ValueError("The size is odd.")

def interrupted():
    raise KeyboardInterrupt

def raw():
    from symbols_in_processes import Symbols
    return Symbols()

def in_turn():
    from mpe2 import simple_spread_v3
    return simple_spread_v3.env()

def adapted(what: str, episode_limit: int = 5):
    from envs_jax.adapters.from_pettingzoo import from_pettingzoo
    from symbols_in_processes import Symbols

    class Nameless(Symbols):
        metadata = None

    class Empty(Symbols):
        def __init__(self):
            super().__init__()
            del self.possible_agents

    makers = {"in_turn": in_turn, "nameless": Nameless, "empty": Empty, "gone": lambda: raises(4)}
    return from_pettingzoo(makers[what], episode_limit)
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, which is not on the path."""
    (tmp_path / "own_environments.py").write_text(OWN_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    monkeypatch.delitem(__import__("sys").modules, "own_environments", raising=False)
    return "own_environments"


@pytest.mark.parametrize("name", environment_names())
def test_every_name_builds_what_it_says(name: str) -> None:
    env = make(name, episode_limit=7)
    assert (env.spec.name, env.spec.episode_limit) == (name, 7)
    assert env.scripted is not None


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("rover_towr", {}, ["'rover_towr'", "did you mean 'rover_tower'?", "spread3_sep", "package.module:Factory"]),
        ("zzz", {}, ["'zzz'", "rover_tower"]),
        ("jaxmar/spread", {}, ["'jaxmar/spread'", "jaxmarl/NAME"]),
        ("spread", {"num_agent": 3}, ["'num_agent'", "did you mean 'num_agents'?", "local_ratio"]),
        ("rover_tower", {"num_agents": 3}, ["'num_agents'", "episode_limit"]),
        ("spread", {"num_agents": 0}, ["num_agents=0", "positive integer"]),
        ("spread", {"num_agents": 2.5}, ["num_agents=2.5", "positive integer"]),
        ("spread", {"num_agents": True}, ["num_agents=True", "positive integer"]),
        ("spread", {"local_ratio": 1.5}, ["local_ratio=1.5", "from 0 to 1"]),
        ("spread", {"local_ratio": float("nan")}, ["local_ratio=nan", "from 0 to 1"]),
        ("spread3_ful", {"local_ratio": "half"}, ["local_ratio='half'", "from 0 to 1"]),
        ("spread3_mix", {"position_first": 1}, ["position_first=1", "True or False"]),
        ("spread3_sep", {"continuous_actions": "yes"}, ["continuous_actions='yes'", "True or False"]),
        ("multiwalker", {"num_walker": 2}, ["'num_walker'", "did you mean 'num_walkers'?", "terrain_length"]),
        ("multiwalker", {"fall_reward": "hard"}, ["fall_reward='hard'", "a number"]),
        ("multiwalker", {"num_walkers": 0}, ["num_walkers=0", "positive integer"]),
        ("rover_tower", {"episode_limit": -1}, ["episode_limit=-1", "positive integer"]),
        ("no_such_package.module:thing", {}, ["no_such_package.module:thing", "No module named"]),
        (":thing", {}, ["':thing'", "cannot be imported"]),
    ],
)
def test_bad_input_gets_one_sentence(name: str, options: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as failure:
        make(name, **options)
    message = str(failure.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and message.endswith(".")


def test_own_factory_is_imported_from_the_working_directory(own_module: str) -> None:
    assert make(f"{own_module}:corridor", width=3).spec.num_agents == 3
    Path("sweeps").mkdir()
    with pytest.raises(ModuleNotFoundError):  # a folder of another purpose is no package
        importlib.import_module("sweeps")


def test_factories_and_environments_are_taken_as_names_are() -> None:
    env = make(rover_tower, episode_limit=7)
    assert env.spec.episode_limit == 7 and make(env) is env
    for wrong, options, words in (
        (env, {"episode_limit": 7}, 'episode_limit cannot be set: Environment("rover_tower": 8 agents'),
        (rover_tower, {"limit": 7}, "Environment 'rover_tower' has no option 'limit'"),
        (lambda: 3, {}, "<lambda>' returned int, but an envs_jax.Environment is expected"),
        (3, {}, "Environment 3 is not valid: give a name, a factory or an envs_jax.Environment"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            make(wrong, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("attribute", "options", "words"),
    [
        ("corridr", {}, ["'corridr'", "did you mean 'corridor'?", "wrong"]),
        ("corridor", {"widht": 3}, ["'widht'", "did you mean 'width'?", "episode_limit"]),
        ("corridor", {}, ["needs the option width"]),
        ("wrong", {}, ["returned str"]),
        ("raises", {}, ["own_environments:raises' cannot be made with its default options: KeyError: 'missing'."]),
        ("says", {"size": 4}, ["own_environments:says' cannot be made with size=4: RuntimeError: The simulator is not there."]),
        ("refuses", {"size": 4}, ["own_environments:refuses' cannot be made with size=4: The size is odd."]),
        ("raw", {}, ["returned Symbols", "Return envs_jax.adapters.from_pettingzoo.from_pettingzoo(make_env, episode_limit)"]),
        ("in_turn", {}, ["It is turn-based", "pettingzoo.utils.aec_to_parallel"]),
        (
            "adapted",
            {"what": "in_turn"},
            ["with what='in_turn': ", "turn-based (an AECEnv): wrap it in pettingzoo.utils.aec_to"],
        ),
        ("adapted", {"what": "nameless"}, ["with what='nameless': Nameless has no metadata: give its class metadata ="]),
        ("adapted", {"what": "empty"}, ["with what='empty': Empty has possible_agents=None"]),
        ("adapted", {"what": "gone"}, ["with what='gone': KeyError: 'missing'."]),
        ("", {}, ["has no function ''"]),
    ],
)
def test_own_factory_gets_the_same_care(own_module: str, attribute: str, options: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as failure:
        make(f"{own_module}:{attribute}", **options)
    message = str(failure.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and message.endswith(".") and not message.endswith(".."), message


def test_an_interrupt_of_a_factory_is_one(own_module: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(f"{own_module}:interrupted")


@pytest.mark.parametrize("name", ["pettingzoo/mpe2.simple_spread_v3", "jaxmarl/coin_game"])
def test_other_libraries_constructors_get_one_sentence(name: str) -> None:
    with pytest.raises(ValueError) as failure:
        make_any(name, options={"legs": 4})
    message = str(failure.value)
    assert name.rpartition("/")[2] in message and "{'legs': 4}" in message and "TypeError" in message, message
    assert "\n" not in message and message.endswith(".")
