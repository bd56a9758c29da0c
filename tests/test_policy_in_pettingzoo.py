"""A policy in PettingZoo: what it is shown and asked for, and that it earns there what it earns here."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpe2 import simple_spread_v3
from unlike_agents import CONTINUOUS, DISCRETE

from envs_jax import make, random_policy
from envs_jax.adapters.originals import make_original, original_options
from envs_jax.adapters.pettingzoo_episodes import episode_seed
from envs_jax.adapters.policy_in_pettingzoo import aec_actor, episode_returns, parallel_actor
from envs_jax.environment import Policy
from envs_jax.rollout import evaluate_policies
from mamt_jax.cli import evaluate
from mamt_jax.training.run_folder import BEST, CONFIG, write_json

ROOT = Path(__file__).parents[1]
PRETRAINED = ROOT / "mamt_jax" / "pretrained" / "spread" / "mappo"
OPTIONS: dict[str, dict[str, Any]] = {
    "spread": {"num_agents": 3, "local_ratio": 0.2, "episode_limit": 20},
    "pursuit": {
        **{"num_pursuers": 3, "num_evaders": 5, "x_size": 8, "y_size": 7, "episode_limit": 30, "observation_range": 5},
        **{"tag_reward": 0.3, "shared_reward": False, "surround": False},
    },
}


def to_own_landmark(observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """In Spread of three: agent i steers to landmark i; with a key sometimes anywhere."""
    own = jnp.stack([observation[..., i, 4 + 2 * i : 6 + 2 * i] for i in range(3)], -2)
    x, y = own[..., 0], own[..., 1]
    steered = jnp.where(jnp.abs(x) > jnp.abs(y), jnp.where(x > 0, 2, 1), jnp.where(y > 0, 4, 3))
    if key is None:
        return steered
    anywhere_key, where_key = jax.random.split(key)
    anywhere = jax.random.bernoulli(anywhere_key, 0.2, steered.shape)
    return jnp.where(anywhere, jax.random.randint(where_key, steered.shape, 0, 5), steered)


def chase(observation: jax.Array, key: jax.Array) -> jax.Array:
    """In Pursuit: samples a move, likelier to where evaders are seen."""
    evaders = observation.reshape(*observation.shape[:-1], 5, 5, 3)[..., 2]
    sides = (evaders[..., :2], evaders[..., 3:], evaders[..., 3:, :], evaders[..., :2, :])
    seen = [side.sum((-1, -2)) for side in sides]
    return jax.random.categorical(key, jnp.stack([*seen, jnp.zeros_like(seen[0])], -1))


@pytest.mark.parametrize(
    ("name", "policy"), [("spread", to_own_landmark), pytest.param("pursuit", chase, marks=pytest.mark.slow)]
)
def test_a_policy_earns_in_the_original_what_it_earns_here(name: str, policy: Policy) -> None:
    env = make(name, **OPTIONS[name])
    ours, chance = evaluate_policies(env, {"ours": policy, "chance": random_policy(env)}, jax.random.key(1), 1000).values()
    theirs = episode_returns(make_original(name, **OPTIONS[name]), parallel_actor(policy, env.spec, seed=2), 60, seed=3)
    error = theirs.std() / np.sqrt(len(theirs))
    assert abs(ours["return"] - theirs.mean()) < 3 * np.hypot(ours["return_std_error"], error)
    assert ours["return"] > chance["return"] + 6 * ours["return_std_error"]


@pytest.mark.parametrize("seed", [None, 5])
def test_turns_and_simultaneous_moves_come_to_the_same(seed: int | None) -> None:
    spec = make("spread", **OPTIONS["spread"]).spec
    together, in_turn = parallel_actor(to_own_landmark, spec, seed), aec_actor(to_own_landmark, spec, seed)
    played, total = [], 0.0

    def act(observations: Mapping[str, Any]) -> dict[str, Any]:
        actions = together(observations)
        played.extend(actions[agent] for agent in spec.agent_names)
        return actions

    returns = episode_returns(make_original("spread", **OPTIONS["spread"]), act, 2, seed=6)
    aec = simple_spread_v3.env(**original_options("spread", **OPTIONS["spread"]))
    moves = iter(played)
    for episode in range(2):
        aec.reset(seed=episode_seed(6, episode))
        for agent in aec.agent_iter():
            observation, reward, termination, truncation, _ = aec.last()
            total += reward
            action = None if termination or truncation else in_turn(agent, observation)
            assert action is None or action == next(moves)
            aec.step(action)
    assert next(moves, None) is None and len(set(played)) > 1
    assert total / 3 == pytest.approx(returns.sum(), abs=1e-9)


def test_a_seed_samples() -> None:
    spec = make("spread").spec

    def policy(observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return jnp.zeros(2, jnp.int32) if key is None else jax.random.randint(key, (2,), 0, 5)

    observations = dict.fromkeys(spec.agent_names, np.zeros(12))

    def draws(seed: int | None) -> list[dict[str, Any]]:
        act = parallel_actor(policy, spec, seed)
        return [act(observations) for _ in range(20)]

    assert draws(7) == draws(7) != draws(8) and draws(7)[0] != draws(7)[1]
    assert draws(None) == [dict.fromkeys(spec.agent_names, 0)] * 20


def test_rows_are_matched_by_name_and_padded() -> None:
    seen = []

    def policy(observation: np.ndarray) -> jax.Array:
        seen.append(observation)
        return jnp.array([2, 1, 0])

    actions = parallel_actor(policy, DISCRETE)({"c_0": np.ones((1, 3)), "a_0": np.arange(4).reshape(2, 2)})
    assert actions == {"c_0": 0, "a_0": 2} and all(type(action) is int for action in actions.values())
    np.testing.assert_array_equal(seen, [[[0, 1, 2, 3], [0, 0, 0, 0], [1, 1, 1, 0]]])
    assert seen[0].dtype == np.float32


def test_vectors_have_their_own_width() -> None:
    joint = jnp.array([[0.1, 0.2], [0.3, 0.0], [0.5, 0.6]])
    act = aec_actor(lambda observation: joint, CONTINUOUS)
    for agent, row, size, width in zip(CONTINUOUS.agent_names, joint, CONTINUOUS.observation_sizes, (2, 1, 2), strict=True):
        action = act(agent, np.zeros(size))
        assert isinstance(action, np.ndarray) and action.dtype == np.float32
        np.testing.assert_array_equal(action, row[:width])


@pytest.mark.parametrize(
    ("agent", "observation", "message"),
    [
        ("d_0", np.zeros(4), r"agent 'd_0' is not valid: the policy was trained for a_0, b_0, c_0"),
        (
            "b_0",
            np.zeros((2, 2)),
            r"observation of b_0 is not valid: it has 4 entries in shape \(2, 2\), but .* was trained on 2",
        ),
        ("a_0", np.zeros(3), r"observation of a_0 is not valid: it has 3 entries in shape \(3,\), but .* was trained on 4"),
        ("a_0", None, r"observation of a_0 is not valid: an array of numbers is expected, but the value is None"),
    ],
)
def test_strangers_and_other_observations_are_refused(agent: str, observation: np.ndarray, message: str) -> None:
    def never(observation: np.ndarray) -> jax.Array:
        raise AssertionError("the policy was asked")

    with pytest.raises(ValueError, match=message):
        parallel_actor(never, DISCRETE)({"c_0": np.zeros(3), agent: observation})
    with pytest.raises(ValueError, match=message):
        aec_actor(never, DISCRETE)(agent, observation)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "rover_tower",
            {},
            "rover_tower has no original in PettingZoo. The environments with an original are spread, pursuit, multiwalker",
        ),
        ("spread3_sep", {}, "spread3_sep has no original"),
        (
            "spread",
            {"position_first": False},
            "position_first=False is not valid: the original of spread supports only position_first=True",
        ),
        ("spread", {"num_agnts": 3}, "no option 'num_agnts'"),
    ],
)
def test_what_the_originals_lack_is_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_original(name, **options)


def test_originals_have_our_defaults() -> None:
    assert make_original("spread").possible_agents == ["agent_0", "agent_1"]
    space = make_original("spread", continuous_actions=True).action_space("agent_0")
    assert space.shape == (5,)


def test_a_missing_original_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpe2.simple_spread_v3", None)
    with pytest.raises(ValueError, match="The original of spread needs mpe2.*: install the extra `pettingzoo`"):
        make_original("spread")


def test_evaluate_plays_the_original(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate.main(["--pretrained", "spread/mappo", "--original", "--episodes", "5"]) == 0
    assert "\nreturn in the original environment -" in capsys.readouterr().out
    config = json.loads((PRETRAINED / CONFIG).read_text())
    config["experiment"]["env_options"]["position_first"] = False
    write_json(tmp_path / CONFIG, config)
    (tmp_path / BEST).symlink_to(PRETRAINED / BEST)
    assert evaluate.main([str(tmp_path), "--policy", "best", "--original"]) == 2
    captured = capsys.readouterr()
    assert "error: position_first=False is not valid: the original of spread" in captured.err and not captured.out
