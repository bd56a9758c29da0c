"""check_environment passes every environment of ours, and names each fault that is planted in a sound one."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax import (
    Box,
    Discrete,
    Environment,
    EnvSpec,
    TimeStep,
    auto_reset,
    check_environment,
    environment_names,
    episode_statistics,
    make,
    make_timestep,
)
from envs_jax.conformance import _scripted_faults
from envs_jax.reference_policies import idle_action

SPEC = EnvSpec("walk", ("walker_0", "walker_1"), (2, 1), (Discrete(2), Discrete(3)), 4)
SLOW = pytest.mark.slow
State = dict[str, jax.Array]


def show(state: State, reward: jax.Array | None = None) -> TimeStep:
    observation = jnp.stack([state["place"], jnp.zeros(2)]).at[1, 0].set(state["place"][1])
    return make_timestep(SPEC, observation, reward, truncated=state["step"] >= 4, metrics={"place": state["place"].mean()})


def reset(key: jax.Array) -> tuple[State, TimeStep]:
    state = {"place": jax.random.normal(key, (2,)), "step": jnp.zeros((), jnp.int32)}
    return state, show(state)


def sample_noise(key: jax.Array, state: State) -> jax.Array:
    del state
    return jax.random.normal(key, (2,))


def transition(state: State, action: jax.Array, noise: jax.Array) -> tuple[State, TimeStep]:
    state = {"place": state["place"] + action + noise, "step": state["step"] + 1}
    return state, show(state, reward=-jnp.abs(state["place"]))


def scripted(key: jax.Array, state: State) -> jax.Array:
    del key
    return (state["place"] < 0).astype(jnp.int32)


SOUND = Environment(SPEC, reset, transition, sample_noise, scripted)


def after_step(change: Callable[[State, TimeStep], tuple[Any, Any]]) -> Environment:
    """The sound environment with something done to what a step returns."""
    return SOUND._replace(transition=lambda state, action, noise: change(*transition(state, action, noise)))


def after_both(change: Callable[[TimeStep], TimeStep]) -> Environment:
    """The sound environment with something done to every timestep."""

    def changed_reset(key: jax.Array) -> tuple[State, TimeStep]:
        state, timestep = reset(key)
        return state, change(timestep)

    return after_step(lambda state, timestep: (state, change(timestep)))._replace(reset=changed_reset)


def timestep_with(**fields: Callable[[TimeStep], Any]) -> Environment:
    return after_both(lambda timestep: timestep._replace(**{name: field(timestep) for name, field in fields.items()}))


class OwnStep(Environment):
    """An environment whose step is not its transition under its noise."""

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        return self.transition(state, action, 2 * self.sample_noise(key, state))


TRACES = itertools.count()


def drawn_on_host() -> float:
    """Another number at every tracing, as a host's generator would give, and never by chance the same."""
    return float(next(TRACES))


def reset_with_host_draw(key: jax.Array) -> tuple[State, TimeStep]:
    state, timestep = reset(key)
    return state | {"place": jnp.full(2, drawn_on_host())}, timestep


STATIC: dict[str, tuple[Environment, str]] = {
    "unhashable": (SOUND._replace(spec=dataclasses.replace(SPEC, observation_sizes=[2, 1])), "`spec` is not hashable"),
    "missing agent": (SOUND._replace(spec=dataclasses.replace(SPEC, agent_names=("walker_0",))), "1 agent_names"),
    "same name": (SOUND._replace(spec=dataclasses.replace(SPEC, agent_names=("a_0", "a_0"))), "same name twice"),
    "mixed spaces": (
        SOUND._replace(spec=dataclasses.replace(SPEC, action_spaces=(Discrete(2), Box(3)))),
        "mixes Discrete and Box",
    ),
    "no limit": (SOUND._replace(spec=dataclasses.replace(SPEC, episode_limit=0)), "episode_limit` is 0"),
    "bad box": (SOUND._replace(spec=dataclasses.replace(SPEC, action_spaces=(Box(2, 1.0, 0.0),) * 2)), "Box from 1.0 to 0.0"),
    "python branch": (
        after_step(lambda state, timestep: (state, timestep) if state["step"] > 0 else (state, timestep)),
        "`step(key, state, action)` cannot be compiled: TracerBoolConversionError",
    ),
    "key twice": (
        SOUND._replace(sample_noise=lambda key, state: jax.random.normal(key, (2,)) + jax.random.uniform(key, (2,))),
        "`step(key, state, action)` uses the same key twice",
    ),
    "scripted fails": (
        SOUND._replace(scripted=lambda key, state: state["nowhere"]),
        "`scripted(key, state)` cannot be compiled",
    ),
    "not a timestep": (after_step(lambda state, timestep: (state, tuple(timestep))), "does not return (state, TimeStep)"),
    "reward shape": (
        after_step(lambda state, timestep: (state, timestep._replace(reward=timestep.reward.sum()))),
        "`reward` from `step(key, state, action)` is float32 (), but float32 (2,) is expected.",
    ),
    "observation dtype": (
        timestep_with(observation=lambda t: t.observation.astype(jnp.int32)),
        "`observation` from `reset(key)` is int32 (2, 2), but float32 (2, 2)",
    ),
    "metric dtype": (timestep_with(metrics=lambda t: {"end": t.truncated}), "metric 'end' from `reset(key)` is bool ()"),
    "state dtype": (
        after_step(lambda state, timestep: (state | {"step": state["step"].astype(float)}, timestep)),
        "`state['step']` is int32 () after reset and float32 () after a step.",
    ),
    "state structure": (
        after_step(lambda state, timestep: (state | {"more": 0}, timestep)),
        "tree structure of the state after a step differs",
    ),
    "metrics appear": (
        after_step(lambda state, timestep: (state, timestep._replace(metrics={}))),
        "tree structure of the timestep after a step differs",
    ),
    "unknown last metric": (
        SOUND._replace(spec=dataclasses.replace(SPEC, last_metrics=("plaice",))),
        "`spec.last_metrics` contains 'plaice', but `reset(key)` returns no such metric",
    ),
    "active": (
        timestep_with(active=lambda t: jnp.ones(3, bool)),
        "`active` from `reset(key)` is bool (3,), but bool (2,) is expected.",
    ),
    "scripted dtype": (
        SOUND._replace(scripted=lambda key, state: state["place"]),
        "The action from `scripted` is float32 (2,)",
    ),
}


def many_at_reset(timestep: TimeStep) -> TimeStep:
    return timestep._replace(
        observation=timestep.observation + 1,
        final_observation=timestep.observation + 2,
        action_mask=jnp.ones_like(timestep.action_mask),
        reward=timestep.reward + 1,
        truncated=timestep.truncated & False,
    )


def many_later(state: State, timestep: TimeStep) -> tuple[State, TimeStep]:
    step = state["step"]
    return state, timestep._replace(
        reward=jnp.where(step == 2, jnp.nan, timestep.reward),
        action_mask=timestep.action_mask & (step != 3),
        truncated=step >= 3,
        terminated=jnp.array([False, True]) & (step == 2),
    )


PLAYED: dict[str, tuple[Environment, set[str]]] = {
    "host draw in reset": (
        SOUND._replace(reset=reset_with_host_draw),
        {"`reset` gives different results for the same arguments: it must draw all random numbers from its key."},
    ),
    "host draw in step": (
        after_step(lambda state, timestep: (state | {"place": state["place"] + drawn_on_host()}, timestep)),
        {"`step` gives different results for the same arguments: it must draw all random numbers from its key."},
    ),
    "own step": (
        OwnStep(*SOUND),
        {"`step(key, state, action)` differs from `transition(state, action, sample_noise(key, state))`."},
    ),
    "at reset": (
        after_both(many_at_reset)._replace(scripted=lambda key, state: jnp.full(2, 2)),
        {
            "After reset, `observation` is not zero beyond an agent's own width.",
            "After reset, `final_observation` is not zero beyond an agent's own width.",
            "After reset, `final_observation` differs from `observation` while the episode runs.",
            "After reset, `action_mask` allows an action that the agent does not have.",
            "After reset, `reward` is not zero.",
            "After step 4, `truncated` is not set at the episode limit of 4.",
            "`scripted` gives an action outside the agent's own action space.",
        },
    ),
    "later": (
        after_step(many_later),
        {
            "After step 2, `reward` is not finite.",
            "After step 3, `action_mask` leaves an agent without any action.",
            "After step 3, `truncated` is set before the episode limit.",
            "After step 3, `terminated` becomes False again within an episode.",
        },
    ),
    "over at reset": (timestep_with(terminated=lambda t: ~t.terminated), {"After reset, the episode is over."}),
}


@pytest.mark.parametrize(
    ("name", "options", "action"),
    [
        ("spread", {}, jnp.zeros((), int)),
        ("spread", {}, jnp.zeros((2, 5), int)),
        ("spread", {}, jnp.zeros(2)),
        ("spread", {"continuous_actions": True}, jnp.zeros(5)),
        ("matrix_game", {}, jnp.zeros(1, int)),
    ],
)
def test_a_step_takes_an_action_of_each_agent_and_nothing_else(name: str, options: dict, action: jax.Array) -> None:
    env = make(name, **options)
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    with pytest.raises(ValueError, match=rf"^action is \w+ \(.*\), which is not valid: {name} takes"):
        env.step(jax.random.key(1), state, action)


@pytest.mark.parametrize("fault", STATIC)
def test_a_fault_that_can_be_seen_without_playing_is_named(fault: str) -> None:
    env, sentence = STATIC[fault]
    found = check_environment(env)
    assert any(sentence in line for line in found), found


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=SLOW) if "host" in name or "own" in name else name for name in PLAYED]
)
def test_a_fault_that_shows_in_play_is_named(fault: str) -> None:
    env, sentences = PLAYED[fault]
    found = check_environment(env)
    assert {*found} == sentences, found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rover_tower", {}),
        pytest.param("spread", {"continuous_actions": True}, marks=SLOW),
        *(pytest.param(name, {}, marks=SLOW) for name in environment_names() if name != "rover_tower"),
        *(pytest.param("spread", {"num_agents": num_agents}, marks=SLOW) for num_agents in (1, 5)),
    ],
)
def test_our_environments_conform(name: str, options: dict[str, Any]) -> None:
    assert check_environment(make(name, episode_limit=6, **options)) == []


def test_padding_of_actions_is_outside_every_box() -> None:
    spec = dataclasses.replace(SPEC, action_spaces=(Box(1, -1.0, 1.0), Box(2, 2.0, 3.0)))
    assert _scripted_faults(spec, idle_action(spec)) == []
    assert _scripted_faults(spec, np.ones((2, 2))) == ["`scripted` gives an action outside the agent's own action space."]


def test_wrapped_environments_conform() -> None:
    assert check_environment(episode_statistics(auto_reset(SOUND)), jax.random.key(1), steps=11) == []
