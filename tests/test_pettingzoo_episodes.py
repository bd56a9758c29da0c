"""Episodes of PettingZoo environments as time steps: ends, births, limits, seeds, masks, and what is refused."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from pettingzoo import ParallelEnv

from envs_jax.adapters.from_pettingzoo import check_pettingzoo, from_pettingzoo, pettingzoo_spec
from envs_jax.adapters.pettingzoo_episodes import Episodes
from envs_jax.adapters.policy_in_pettingzoo import aec_actor, episode_returns, parallel_actor
from envs_jax.adapters.space_codec import make_codec
from envs_jax.environment import EnvSpec

Step = tuple[str, str, str]
"""Who a step terminates, who it truncates, and who is in `agents` after it, a letter each."""


class Script(ParallelEnv):
    """Agents a, b and c, who see how many steps they have been told of; what happens is written in `steps`."""

    metadata = {"name": "script"}
    moves: gymnasium.Space = Discrete(3)
    sight: gymnasium.Space = Box(0, 99, (2,))

    def __init__(self, *steps: Step, start: str = "ab") -> None:
        self.possible_agents, self.start, self.steps = list("abc"), list(start), steps
        self.seeds: list[Any] = []
        self.taken: list[dict] = []

    def observation_space(self, agent: str) -> gymnasium.Space:
        return self.sight

    def action_space(self, agent: str) -> gymnasium.Space:
        return self.moves

    def look(self, agents: Any) -> dict[str, Any]:
        return {agent: np.array([self.t + 1, "abc".find(agent)], np.float32) for agent in agents}

    def inform(self, agents: Any) -> dict[str, Any]:
        return {agent: {} for agent in agents}

    def reset(self, seed: int | None = None, options: dict | None = None) -> Any:
        self.t, self.agents = 0, self.start[:]
        self.seeds.append(seed)
        return self.look(self.agents), self.inform(self.agents)

    def step(self, actions: dict) -> Any:
        self.taken.append(actions)
        terminated, truncated, agents = self.steps[self.t] if self.t < len(self.steps) else ("", "", "".join(self.agents))
        before, self.agents, self.t = self.agents, list(agents), self.t + 1
        seen = sorted({*before, *agents})
        flags = ({agent: agent in ended for agent in before} for ended in (terminated, truncated))
        return self.look(seen), dict.fromkeys(before, 1.0), *flags, self.inform(seen)


def episodes(env: Script, limit: int = 99) -> Episodes:
    return Episodes(env, make_codec(pettingzoo_spec(env, limit)), ())


def played(env: Script, steps: int, limit: int = 99) -> list[dict[str, Any]]:
    """Rows of `steps` steps, after that of reset."""
    one = episodes(env, limit)
    return [one.reset(7)] + [one.step(np.zeros(3, int)) for _ in range(steps)]


def letters(flags: Any) -> str:
    return "".join(agent for agent, flag in zip("abc", flags, strict=True) if flag)


@pytest.mark.parametrize(
    ("steps", "start", "expected"),
    [
        # what the step says: terminated, truncated, active next; c is never there but where it is born
        ([("", "", "ab"), ("", "ab", "")], "ab", [("c", False, "ab"), ("c", True, "ab")]),
        ([("", "", "ab"), ("", "ab", "ab")], "ab", [("c", False, "ab"), ("c", True, "ab")]),  # listed all the same
        ([("ab", "", "ab")], "ab", [("abc", False, "ab"), ("abc", False, "ab")]),
        ([("a", "b", "")], "ab", [("ac", True, "ab")]),
        ([("a", "", "b"), ("", "", "b")], "ab", [("ac", False, "b"), ("ac", False, "b")]),
        ([("a", "", "ab"), ("", "", "ab"), ("b", "", "a")], "ab", [("ac", False, "b")] * 2 + [("abc", False, "ab")]),
        ([("", "a", "b"), ("b", "", "")], "ab", [("ac", False, "b"), ("abc", False, "ab")]),  # truncated alone: terminated
        ([("", "", "abc"), ("", "", "abc")], "ab", [("", False, "abc"), ("", False, "abc")]),  # c is born
        ([("ab", "", "c"), ("", "c", "")], "ab", [("ab", False, "c"), ("ab", True, "ab")]),  # born as the last ones end
        ([("", "ab", "c"), ("c", "", "")], "ab", [("ab", False, "c"), ("abc", False, "ab")]),
        ([("a", "", "b"), ("", "", "ab"), ("", "", "ab")], "ab", [("ac", False, "b"), ("c", False, "ab"), ("c", False, "ab")]),
    ],
)
def test_ends_and_births_are_read_from_agents_and_flags(steps: list, start: str, expected: list) -> None:
    first, *rows = played(Script(*steps, start=start), len(expected))
    assert letters(first["active"]) == start and not np.any(first["terminated"]) and not first["truncated"]
    assert [(letters(row["terminated"]), row["truncated"], letters(row["active"])) for row in rows] == expected
    for before, row in zip([first, *rows], rows, strict=False):
        over = row["truncated"] or all(row["terminated"])
        assert (row["observation"][:, 0].max() == 1) == over  # an episode begins exactly where one ends
        living = ~np.array(row["terminated"])
        np.testing.assert_array_equal(row["final_observation"][living, 1], np.arange(3)[living])
        assert (row["final_observation"][living, 0] > 1).all()
        assert not row["observation"][~np.array(row["active"]) & ~np.array(before["active"])].any()


def test_an_environment_without_a_limit_is_truncated_at_ours() -> None:
    rows = played(Script(), 7, limit=3)[1:]
    assert [row["truncated"] for row in rows] == [False, False, True, False, False, True, False]
    assert [row["final_observation"][0, 0] for row in rows] == [2, 3, 4, 2, 3, 4, 2]
    assert [letters(row["terminated"]) for row in rows] == ["c"] * 7
    returns = episode_returns(Script(), lambda seen: dict.fromkeys(seen, 0), 2, seed=0, episode_limit=3)
    np.testing.assert_allclose(returns, [2, 2])  # 3 steps of 2 of 3 agents


def test_actions_are_given_to_whoever_is_listed() -> None:
    env = Script(("a", "", "ab"), ("", "", "bc"))
    played(env, 3)
    assert [sorted(taken) for taken in env.taken] == [["a", "b"], ["a", "b"], ["b", "c"]]


def test_every_reset_has_a_seed_of_its_own() -> None:
    env, again, other = (Script(("ab", "", "")) for _ in range(3))
    for one, seed in ((env, 7), (again, 7), (other, 8)):
        group = episodes(one)
        one.seeds.clear()
        group.reset(seed)
        for _ in range(4):
            group.step(np.zeros(3, int))
    assert env.seeds == again.seeds and env.seeds[0] == 7 and len({*env.seeds, *other.seeds}) == 10
    by_policy = Script(("ab", "", ""))
    episode_returns(by_policy, lambda seen: dict.fromkeys(seen, 0), 5, seed=7)
    assert by_policy.seeds == env.seeds


class Broken(Script):
    """Its `fault` changes what reset and step return."""

    def __init__(self, fault: Callable[[Any, int], Any], *steps: Step) -> None:
        super().__init__(*steps)
        self.fault = fault

    def reset(self, seed: int | None = None, options: dict | None = None) -> Any:
        return self.fault(super().reset(seed), 0)

    def step(self, actions: dict) -> Any:
        result = super().step(actions)
        return self.fault(result, self.t)


def at(step: int, place: int, change: Callable[[dict], Any]) -> Callable[[Any, int], Any]:
    """A fault in one of the dicts that step number `step` returns, 0 for reset."""

    def fault(result: tuple, t: int) -> tuple:
        return tuple(change(dict(each)) if (i, t) == (place, step) else each for i, each in enumerate(result))

    return fault


def without(agent: str) -> Callable[[dict], dict]:
    return lambda values: {name: value for name, value in values.items() if name != agent}


FAULTS: dict[str, tuple[Callable[[Any, int], Any], str]] = {
    "wide": (at(0, 0, lambda seen: seen | {"b": np.zeros(5)}), "observation of b is not valid: the space declares shape (2,)"),
    "late": (at(3, 0, lambda seen: seen | {"b": np.zeros(5)}), "observation of b is not valid: the space declares shape (2,)"),
    "none": (at(1, 0, lambda seen: seen | {"a": None}), "observation of a is not valid: an array of numbers is expected"),
    "missing": (at(2, 0, without("a")), "observation of a is missing"),
    "nan": (at(0, 0, lambda seen: seen | {"b": np.array([0, np.nan])}), "observation after reset of b is not valid: finite"),
    "infinite": (at(1, 0, lambda seen: seen | {"b": [np.inf, 0]}), "observation after a step of b is not valid: finite"),
    "reward nan": (at(1, 1, lambda reward: reward | {"a": np.nan}), "reward of a is not valid: finite numbers"),
    "reward none": (
        at(2, 1, lambda reward: reward | {"a": None}),
        "reward of a is not valid: a number is expected, but it is None",
    ),
    "no reward": (at(2, 1, without("b")), "reward of b is not valid"),
    "no flag": (at(1, 2, without("b")), "termination of b is not valid: True or False is expected"),
    "odd flag": (
        at(1, 3, lambda flags: flags | {"a": "no"}),
        "truncation of a is not valid: True or False is expected, but it is 'no'",
    ),
    "four": (lambda result, t: result[:4] if t == 1 else result, "step must return five values (observations, rewards"),
    "one": (
        lambda result, t: result if t else result[0],
        "reset must return two values (observations, infos), but it returned one",
    ),
    "list": (at(1, 1, list), "rewards must be a dict over the agents, but they are of type list"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_interpreted_is_refused_in_one_sentence(fault: str) -> None:
    change, words = FAULTS[fault]
    with pytest.raises(ValueError) as failure:
        played(Broken(change), 4)
    message = str(failure.value)
    assert words in message and "\n" not in message and message.endswith("."), message


def test_last_observations_are_needed_of_whoever_is_truncated() -> None:
    gone = at(1, 0, without("b"))
    with pytest.raises(ValueError, match=r"observation of b is missing: .* or was truncated must have one"):
        played(Broken(gone, ("a", "b", "")), 1)
    with pytest.raises(ValueError, match=r"observation of a is missing: .* There are observations of no agent"):
        played(Broken(at(1, 0, lambda seen: {}), ("", "ab", "")), 1)
    assert all(played(Broken(gone, ("ab", "", "")), 1)[1]["terminated"])  # not of whoever has terminated
    with pytest.raises(ValueError, match="b is missing from agents after a step that neither terminated nor truncated it"):
        played(Script(("a", "", "")), 1)
    with pytest.raises(ValueError, match="agents lists 'd', but possible_agents contains only a, b, c"):
        played(Script(("", "", "abd")), 1)
    with pytest.raises(ValueError, match="agents is empty after reset"):
        played(Script(start=""), 0)


def test_the_checker_says_it_before_training() -> None:
    check_pettingzoo(Script())
    with pytest.raises(ValueError, match="observation of b is not valid"):
        check_pettingzoo(Broken(FAULTS["wide"][0]))
    with pytest.raises(ValueError, match="step must return five values"):
        check_pettingzoo(Broken(FAULTS["four"][0]))
    with pytest.raises(ValueError, match=r"metric 'speed' is missing: the infos of a, b must contain it"):
        check_pettingzoo(Script(), metrics=["speed"])
    for name, words in (("metadata", "has no metadata"), ("possible_agents", "possible_agents=None")):
        env = Script()
        setattr(env, name, None)
        with pytest.raises(ValueError, match=words):
            check_pettingzoo(env)
    with pytest.raises(ValueError, match=r"Unseeded.reset takes no seed: define it as reset\(self, seed=None"):
        check_pettingzoo(type("Unseeded", (Broken,), {"reset": lambda self: None})(lambda result, t: result))
    with pytest.raises(ValueError, match="int is not a PettingZoo ParallelEnv: it has no reset, step"):
        from_pettingzoo(lambda: 3, 5)  # pyright: ignore[reportArgumentType]


class Masked(Script):
    """Allows agent i of abc all actions but (t + i) % 3, told in `place`."""

    place = "info"

    def mask(self, agent: str) -> Any:
        return np.arange(3) != (self.t + "abc".index(agent)) % 3

    def observation_space(self, agent: str) -> gymnasium.Space:
        return self.sight if self.place == "info" else Dict(observation=self.sight, action_mask=Box(0, 1, (3,), np.int8))

    def look(self, agents: Any) -> dict[str, Any]:
        seen = super().look(agents)
        if self.place == "info":
            return seen
        return {agent: {"observation": each, "action_mask": np.int8(self.mask(agent))} for agent, each in seen.items()}

    def inform(self, agents: Any) -> dict[str, Any]:
        return {agent: {"action_mask": self.mask(agent)} if self.place == "info" else {} for agent in agents}


@pytest.mark.parametrize("place", ["info", "observation"])
def test_masks_are_found_and_given_with_every_observation(place: str) -> None:
    env = Masked(("", "", "ab"), ("", "ab", ""))
    env.place = place
    assert pettingzoo_spec(env, 9).has_action_masks and pettingzoo_spec(env, 9).observation_sizes == (2, 2, 2)
    first, second, third = played(env, 2)

    def expected(t: int) -> np.ndarray:
        agent = np.arange(3)[:, None]
        return (np.arange(3) != (t + agent) % 3) | (agent == 2)  # c is not there

    for row, now, last in ((first, 0, 0), (second, 1, 1), (third, 0, 2)):
        np.testing.assert_array_equal(row["action_mask"], expected(now))
        np.testing.assert_array_equal(row["final_action_mask"], expected(last))


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("place", ["info", "observation"])
def test_a_policy_is_given_the_masks(place: str, seed: int | None) -> None:
    env = Masked(("", "", "ab"), ("", "ab", ""))
    env.place = place
    spec = pettingzoo_spec(env, 9)

    def policy(observation: Any, key: Any = None, action_mask: Any = None) -> Any:
        return action_mask.argmin(-1)  # what it must not do, to be seen below

    observations, infos = env.reset(seed=0)
    assert parallel_actor(policy, spec, seed)(observations, infos) == {"a": 0, "b": 1}
    assert aec_actor(policy, spec, seed)("b", observations["b"], infos["b"]) == 1
    env.taken.clear()
    episode_returns(env, parallel_actor(policy, spec, seed), 1, seed=0)
    assert env.taken == [{"a": 0, "b": 1}, {"a": 1, "b": 2}]
    if place == "info":
        with pytest.raises(
            ValueError, match="The action_mask of a is missing: it is neither in its observation nor in its info"
        ):
            parallel_actor(policy, spec, seed)(observations)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (lambda env, agent: np.ones(2), r"action_mask of a is not valid: the space declares shape \(3,\)"),
        (lambda env, agent: np.full(3, -np.inf), "action_mask of a is not valid"),
        (lambda env, agent: np.ones(3) if env.t == 0 else None, "action_mask of a is missing"),
        (
            lambda env, agent: None if env.t == 0 else np.ones(3),
            "a has an action_mask, but had none after the first reset",
        ),
    ],
)
def test_wrong_masks_are_refused(mask: Callable, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Masked, "mask", mask)
    with pytest.raises(ValueError, match=words):
        played(Masked(), 1)


ACTIONS = {
    "discrete": Discrete(3, start=5),
    "several bounds": Box(np.array([0, -2], np.float32), np.array([10, 3], np.float32)),
    "one bound": Box(-20, 20, (2,)),
    "matrix": Box(-1, 1, (2, 2)),
    "integers": Box(0, 4, (2,), np.int64),
    "double": Box(-0.1, 0.3, (), np.float64),
    "multi": MultiDiscrete([2, 3], start=[1, -1]),
    "bits": gymnasium.spaces.MultiBinary((2, 2)),
}
SIGHTS = {
    "vector": Box(-1, 1, (3,)),
    "dict": Dict(x=Box(-1, 1, (2,)), y=Discrete(3)),
    "number": Discrete(4),
    "image": Box(0, 255, (2, 2, 3), np.uint8),
}


@pytest.mark.parametrize("moves", ACTIONS)
@pytest.mark.parametrize("sight", SIGHTS)
def test_a_policy_acts_in_deployment_as_in_training(moves: str, sight: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Script, "moves", ACTIONS[moves])
    monkeypatch.setattr(Script, "sight", SIGHTS[sight])
    monkeypatch.setattr(Script, "look", lambda self, agents: {agent: SIGHTS[sight].sample() for agent in agents})
    env = Script()
    spec = pettingzoo_spec(env, 99)
    rng, seen = np.random.default_rng(0), []

    def policy(observation: Any, key: Any = None) -> Any:
        seen.append(observation)
        return actions[len(seen) - 1]

    actions = _some_actions(spec, rng, 8)
    training = Episodes(env, make_codec(spec), ())
    shown = [training.reset(0)["observation"]] + [training.step(action)["observation"] for action in actions]
    act, in_turn = parallel_actor(policy, spec), aec_actor(policy, spec)
    assert env.taken and all(ACTIONS[moves].contains(each) for taken in env.taken for each in taken.values())
    observations = SIGHTS[sight].sample()
    for action, taken in zip(actions, env.taken, strict=True):
        deployed = act({"a": observations, "b": observations})
        np.testing.assert_equal(deployed, taken)
        assert {type(each) for each in deployed.values()} == {type(each) for each in taken.values()}
        seen.pop()
        np.testing.assert_equal(in_turn("b", observations), taken["b"])
        del action
    assert shown[0].shape == seen[0].shape


def _some_actions(spec: EnvSpec, rng: np.random.Generator, steps: int) -> np.ndarray:
    if spec.discrete:
        return rng.integers(0, spec.action_size, (steps, spec.num_agents))
    return rng.uniform(-25, 25, (steps, spec.num_agents, spec.action_size)).astype(np.float32)
