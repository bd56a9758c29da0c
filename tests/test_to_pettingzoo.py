"""Our environments in PettingZoo: its own conformance tests, and what they do not look at."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pettingzoo.test import (
    api_test,
    max_cycles_test,
    parallel_api_test,
    parallel_seed_test,
    render_test,
    state_test,
)
from pettingzoo.utils import parallel_to_aec

from envs_jax import environment_names, make
from envs_jax.adapters.to_pettingzoo import to_pettingzoo
from envs_jax.environment import Discrete, Environment, EnvSpec, TimeStep, make_timestep

OPTIONS: dict[str, dict[str, Any]] = {"pursuit": {"num_evaders": 4}, "spread": {"num_agents": 3}}
NAMES = [*environment_names(), "continuous"]


@functools.cache
def environment(name: str, episode_limit: int) -> Environment:
    if name == "continuous":
        return make("spread", continuous_actions=True, episode_limit=episode_limit)
    return make(name, episode_limit=episode_limit, **OPTIONS.get(name, {}))


def parallel_env(name: str, episode_limit: int = 25, render_mode: Any = None) -> Any:
    return to_pettingzoo(environment(name, episode_limit), render_mode)


QUICK = ("rover_tower", "continuous")  # agents of two widths, and vectors
EACH = {name: name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES}


@pytest.mark.parametrize("name", [each for name, each in EACH.items() if name != "multiwalker"])
@pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # PettingZoo's tests warn of choices, as of observations that are not pictures
def test_pettingzoos_own_tests_pass(name: str) -> None:
    parallel_api_test(parallel_env(name), num_cycles=60)
    parallel_seed_test(lambda: parallel_env(name), num_cycles=5)
    api_test(parallel_to_aec(parallel_env(name)), num_cycles=60)
    par, aec = parallel_env(name), parallel_to_aec(parallel_env(name))
    for env in (par, aec):
        env.reset(seed=0)
    state_test(aec, par)
    render_test(
        lambda render_mode=None: (  # pyright: ignore[reportArgumentType]  it is called with a render_mode
            parallel_to_aec(parallel_env(name, render_mode=render_mode))
        )
    )
    module = SimpleNamespace(
        parallel_env=lambda max_cycles: parallel_env(name, max_cycles),
        env=lambda max_cycles: parallel_to_aec(parallel_env(name, max_cycles)),
    )
    max_cycles_test(module)


def play(env: Any, seed: int, episodes: int = 2) -> list[Any]:
    """All that whole episodes of random actions show; the second goes on with the stream of the first."""
    seen = []
    for episode in range(episodes):
        observations, _ = env.reset(seed=seed if episode == 0 else None)
        for i, agent in enumerate(env.possible_agents):
            env.action_space(agent).seed(seed + i)
        seen.append(observations)
        while env.agents:
            step = env.step({agent: env.action_space(agent).sample() for agent in env.agents})
            for agent, observation in step[0].items():
                assert env.observation_space(agent).contains(observation)
            assert all(type(flag) is bool for flags in step[2:4] for flag in flags.values())
            seen.append(step)
    return seen


@pytest.mark.parametrize("name", EACH.values())
def test_a_seed_settles_whole_episodes(name: str) -> None:
    env = parallel_env(name)
    first, again, other = play(env, 1), play(parallel_env(name), 1), play(env, 2)
    assert len(first) == len(again) and all(first[25][3].values())
    for ours, theirs in zip(first, again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    same_start = np.array_equal(first[0][env.possible_agents[0]], other[0][env.possible_agents[0]])
    assert same_start == (name == "matrix_game")  # whose start is always the same


def counting(active: bool) -> Environment:
    """a_0 may not take action t % 3; with `active`, b_0 is there from step 2 on only, and a_0 until step 2."""
    spec = EnvSpec("counting", ("a_0", "b_0"), (1, 1), (Discrete(3),) * 2, 4, has_action_masks=True)

    def show(t: jax.Array) -> tuple[jax.Array, TimeStep]:
        mask = jnp.stack([jnp.arange(3) != t % 3, jnp.ones(3, bool)])
        living = jnp.stack([t < 2, t >= 2])
        timestep = make_timestep(spec, jnp.full((2, 1), 1.0 * t), truncated=t >= 4, action_mask=mask)
        return t, timestep._replace(terminated=~living & (t > 0), active=living) if active else timestep

    return Environment(spec, lambda key: show(jnp.zeros((), jnp.int32)), lambda state, action, noise: show(state + 1))


def test_masks_are_in_the_infos() -> None:
    env = to_pettingzoo(counting(active=False))
    _, infos = env.reset(seed=0)
    told = [infos]
    while env.agents:
        told.append(env.step(dict.fromkeys(env.agents, 0))[4])
    for t, infos in enumerate(told):
        assert infos["a_0"]["action_mask"].tolist() == [int(action != t % 3) for action in range(3)]
        assert infos["b_0"]["action_mask"].tolist() == [1, 1, 1] and infos["b_0"]["action_mask"].dtype == np.int8
    parallel_api_test(to_pettingzoo(counting(active=False)), num_cycles=20)


def test_agents_that_are_born_join() -> None:
    env = to_pettingzoo(counting(active=True))
    observations, _ = env.reset(seed=0)
    seen = [(list(observations), env.agents)]
    while env.agents:
        observations, rewards, terminations, truncations, _ = env.step(dict.fromkeys(env.agents, 0))
        assert set(rewards) == set(terminations) == set(truncations) == set(seen[-1][1])
        seen.append((list(observations), env.agents))
    a, b, both = ["a_0"], ["b_0"], ["a_0", "b_0"]
    assert seen == [(a, a), (a, a), (both, b), (b, b), (b, [])]


def test_wrong_actions_are_named() -> None:
    env = parallel_env("spread")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 7 of agent_1 is not valid: give an element of Discrete\(5\)"):
        env.step({"agent_0": 0, "agent_1": 7, "agent_2": 0})
    box = parallel_env("continuous")
    box.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 0.5 of agent_0 is not valid: give an element of Box"):
        box.step({"agent_0": 0.5, "agent_1": np.zeros(5)})
    with pytest.raises(KeyError, match="agent_2"):
        env.step({"agent_0": 0, "agent_1": 0})
