"""Reference policies stay within each agent's own actions; whole episodes are counted and nothing else; rollouts."""

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
    Policy,
    TimeStep,
    do_nothing_policy,
    evaluate_policy,
    make,
    make_timestep,
    random_policy,
    reference_policies,
    rollout,
    scripted_policy,
)
from envs_jax.rollout import evaluate_policies

UNEQUAL = EnvSpec("unequal", ("agent_0", "agent_1"), (1, 1), (Discrete(2), Discrete(5)), 3, last_metrics=("last",))
BOXES = EnvSpec("boxes", ("agent_0", "agent_1"), (1, 1), (Box(1, -2.0, 2.0), Box(3, 1.0, 4.0)), 3)


def ladder(spec: EnvSpec = UNEQUAL) -> Environment:
    """Ends by termination after a number of steps, 1 to 3, that reset draws; agent i earns i + 1 a step.

    Agent 1 may not take action t % 5.
    """

    def show(state: jax.Array, reward: jax.Array | None = None) -> TimeStep:
        over = jnp.broadcast_to(state[0] >= state[1], (2,))
        mask = jnp.asarray(spec.action_mask)
        if spec.discrete:
            mask &= jnp.stack([jnp.ones(5, bool), jnp.arange(5) != state[0] % 5])
        metrics = {"step": 1.0 * state[0], "last": 1.0 * state[0]}
        return make_timestep(spec, jnp.full((2, 1), 1.0 * state[0]), reward, over, state[0] >= 3, mask, metrics)

    def reset(key: jax.Array) -> tuple[jax.Array, TimeStep]:
        state = jnp.stack([0, jax.random.randint(key, (), 1, 4)])
        return state, show(state)

    def transition(state: jax.Array, action: jax.Array, noise: tuple[()]) -> tuple[jax.Array, TimeStep]:
        state = state + jnp.array([1, 0])
        return state, show(state, reward=jnp.array([1.0, 2.0]))

    return Environment(spec, reset, transition)


def test_random_actions_are_uniform_over_each_agents_own() -> None:
    policies = [random_policy(ladder(spec)) for spec in (UNEQUAL, BOXES)]
    both = jax.jit(lambda key: [policy(jnp.zeros((4000, 2, 1)), jax.random.clone(key)) for policy in policies])
    actions, boxes = map(np.asarray, both(jax.random.key(0)))
    assert actions.dtype == np.int32
    for agent, count in enumerate((2, 5)):
        shares = np.bincount(actions[:, agent], minlength=count) / len(actions)
        assert len(shares) == count
        np.testing.assert_allclose(shares, 1 / count, atol=5 * np.sqrt(0.25 / len(actions)))
    assert boxes.shape == (4000, 2, 3) and not boxes[:, 0, 1:].any()
    np.testing.assert_allclose(np.quantile(boxes[:, 0, 0], [0, 0.5, 1]), [-2, 0, 2], atol=0.1)
    np.testing.assert_allclose(np.quantile(boxes[:, 1], [0, 0.5, 1]), [1, 2.5, 4], atol=0.1)


def test_do_nothing() -> None:
    key, seen = jax.random.key(0), jnp.zeros((2, 1))
    np.testing.assert_array_equal(do_nothing_policy(ladder())(seen, key), [0, 0])
    np.testing.assert_array_equal(do_nothing_policy(ladder())(seen, key, jnp.arange(5)[None] > jnp.array([[-1], [2]])), [0, 3])
    np.testing.assert_array_equal(do_nothing_policy(ladder(BOXES))(seen[None], key), [[[0, 0, 0], [1, 1, 1]]])


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "options", "known"),
    [
        # policy -> return and its standard error, where it was measured elsewhere
        ("spread", {}, {"random": (-21.22, 0.39), "scripted": (-6.12, 0.06)}),
        pytest.param("rover_tower", {}, {"random": (-6.0, 1.8), "scripted": (132.3, 3.1)}, marks=SLOW),
        pytest.param("spread", {"num_agents": 3}, {"random": (-27.37, 0.45)}, marks=SLOW),
        pytest.param("spread3_sep", {}, {"random": (-28.3, 0.4), "scripted": (-7.88, 0.06)}, marks=SLOW),
        pytest.param("spread3_mix", {}, {"random": (-37.6, 0.6), "scripted": (-10.84, 0.08)}, marks=SLOW),
        pytest.param("spread3_ful", {}, {"random": (-26.4, 0.4), "scripted": (-7.97, 0.06)}, marks=SLOW),
    ],
)
def test_policies_earn_what_is_known(name: str, options: dict[str, Any], known: dict[str, tuple[float, float]]) -> None:
    env = make(name, **options)
    earned = evaluate_policies(env, reference_policies(env), jax.random.key(1), 1000)
    for policy, (value, error) in known.items():
        assert abs(earned[policy]["return"] - value) < 3.5 * np.hypot(earned[policy]["return_std_error"], error), policy
    assert earned["scripted"]["return"] > earned["random"]["return"] / 2


def test_evaluation_stops_counting_when_an_episode_ends() -> None:
    env, episodes = ladder(), 300
    policy = random_policy(env)
    result, again = (evaluate_policy(env, policy, jax.random.key(2), episodes) for _ in range(2))
    assert result == again
    length = result["episode_length"]
    assert 1.8 < length < 2.2
    np.testing.assert_allclose(result["return_per_agent"], [length, 2 * length], rtol=1e-5)
    np.testing.assert_allclose(result["return"], 1.5 * length, rtol=1e-5)
    np.testing.assert_allclose(result["metrics"]["step"], (1 + length) / 2, rtol=1e-5)
    np.testing.assert_allclose(result["metrics"]["last"], length, rtol=1e-5)
    np.testing.assert_allclose(result["return_std_error"], 1.5 * np.sqrt(2 / 3 / episodes), rtol=0.1)
    with pytest.raises(ValueError, match="episodes=0"):
        evaluate_policy(env, policy, jax.random.key(0), 0)


def test_a_rollout_shows_the_reset_and_every_step() -> None:
    env = make("matrix_game", episode_limit=3)
    play = jax.jit(jax.vmap(lambda key: rollout(env, scripted_policy(env), key, 3)))
    states, timesteps = play(jax.random.split(jax.random.key(0), 2))
    np.testing.assert_array_equal(states.action, [[[-1, -1], [0, 0], [0, 0], [0, 0]]] * 2)
    np.testing.assert_array_equal(states.step, [[0, 1, 2, 3]] * 2)
    np.testing.assert_array_equal(timesteps.reward, [[[0, 0], [-1, -1], [-1, -1], [-1, -1]]] * 2)
    np.testing.assert_array_equal(timesteps.done, [[False, False, False, True]] * 2)


def test_a_policy_is_given_what_its_parameters_ask_for() -> None:
    def plain(observation: jax.Array, key: jax.Array) -> jax.Array:
        assert observation.shape == (2, 1)
        return jnp.zeros(2, jnp.int32)

    def curious(observation: jax.Array, key: jax.Array, state: jax.Array, action_mask: jax.Array | None = None) -> jax.Array:
        given.append((state.shape, None if action_mask is None else action_mask.shape))
        return random_policy(ladder(BOXES) if action_mask is None else ladder())(observation, key)

    given: list[Any] = []

    def trace(env: Environment, policy: Policy) -> None:
        jax.eval_shape(lambda key: rollout(env, policy, key, 2), jax.random.key(0))

    trace(ladder(), plain)
    trace(ladder(), curious)
    trace(ladder(BOXES), curious)
    assert {*given} == {((2,), (2, 5)), ((2,), None)}
    with pytest.raises(ValueError, match="unequal has no scripted policy: give its Environment a function `scripted`"):
        scripted_policy(ladder())


def test_an_environment_describes_itself_in_a_line() -> None:
    assert repr(make("spread", num_agents=3)) == 'Environment("spread": 3 agents, 5 actions, 18 observations, 25 steps)'
    assert repr(ladder(BOXES)) == 'Environment("boxes": 2 agents, 1 to 3 continuous actions, 1 observations, 3 steps)'
