"""Reference policies stay within each agent's own actions; evaluation counts whole episodes and nothing else."""

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
    do_nothing_policy,
    evaluate_policy,
    make,
    make_timestep,
    random_policy,
    reference_policies,
)

UNEQUAL = EnvSpec("unequal", ("agent_0", "agent_1"), (1, 1), (Discrete(2), Discrete(5)), 3)
BOXES = EnvSpec("boxes", ("agent_0", "agent_1"), (1, 1), (Box(1, -2.0, 2.0), Box(3, 1.0, 4.0)), 3)


def test_random_discrete_actions_are_uniform_over_each_agents_own() -> None:
    keys = jax.random.split(jax.random.key(0), 4000)
    actions = np.asarray(jax.jit(jax.vmap(lambda key: random_policy(UNEQUAL)(key, ())))(keys))
    assert actions.dtype == np.int32
    for agent, count in enumerate((2, 5)):
        shares = np.bincount(actions[:, agent], minlength=count) / len(keys)
        assert len(shares) == count
        np.testing.assert_allclose(shares, 1 / count, atol=5 * np.sqrt(0.25 / len(keys)))


def test_random_boxes_fill_each_agents_own() -> None:
    keys = jax.random.split(jax.random.key(0), 4000)
    actions = np.asarray(jax.jit(jax.vmap(lambda key: random_policy(BOXES)(key, ())))(keys))
    assert actions.shape == (4000, 2, 3) and not actions[:, 0, 1:].any()
    np.testing.assert_allclose(np.quantile(actions[:, 0, 0], [0, 0.5, 1]), [-2, 0, 2], atol=0.1)
    np.testing.assert_allclose(np.quantile(actions[:, 1], [0, 0.5, 1]), [1, 2.5, 4], atol=0.1)


def test_do_nothing() -> None:
    key = jax.random.key(0)
    np.testing.assert_array_equal(do_nothing_policy(UNEQUAL)(key, ()), [0, 0])
    np.testing.assert_array_equal(do_nothing_policy(BOXES)(key, ()), [[0, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("name", "random", "known"),
    [("spread", -21.1, -6.12), ("spread3_sep", -28.3, -7.88), ("spread3_mix", -37.6, -10.84), ("spread3_ful", -26.4, -7.97)],
)
def test_scripted_earns_far_more_than_random(name: str, random: float, known: float) -> None:
    env = make(name)
    result = evaluate_policy(env, reference_policies(env)["scripted"], jax.random.key(1), 1000)
    assert result["return"] > random / 2
    assert abs(result["return"] - known) < 5 * result["return_std_error"]


def ladder() -> Environment:
    """Ends by termination after a number of steps, 1 to 3, that reset draws; agent i earns i + 1 a step."""

    def show(state: jax.Array, reward: jax.Array | None = None) -> TimeStep:
        over = jnp.broadcast_to(state[0] >= state[1], (2,))
        return make_timestep(
            UNEQUAL, jnp.zeros((2, 1)), reward, over, state[0] >= 3, metrics={"step": state[0].astype(jnp.float32)}
        )

    def reset(key: jax.Array) -> tuple[jax.Array, TimeStep]:
        state = jnp.stack([0, jax.random.randint(key, (), 1, 4)])
        return state, show(state)

    def transition(state: jax.Array, action: jax.Array, noise: tuple[()]) -> tuple[jax.Array, TimeStep]:
        state = state + jnp.array([1, 0])
        return state, show(state, reward=jnp.array([1.0, 2.0]))

    return Environment(UNEQUAL, reset, transition)


def test_evaluation_stops_counting_when_an_episode_ends() -> None:
    env, episodes = ladder(), 300
    result = evaluate_policy(env, random_policy(env), jax.random.key(2), episodes)
    length = result["episode_length"]
    assert 1.8 < length < 2.2
    np.testing.assert_allclose(result["return_per_agent"], [length, 2 * length], rtol=1e-5)
    np.testing.assert_allclose(result["return"], 1.5 * length, rtol=1e-5)
    np.testing.assert_allclose(result["metrics"]["step"], (1 + length) / 2, rtol=1e-5)
    np.testing.assert_allclose(result["return_std_error"], 1.5 * np.sqrt(2 / 3 / episodes), rtol=0.1)


def test_the_same_key_gives_the_same_evaluation() -> None:
    env = ladder()
    policy = random_policy(env)
    first, second = (evaluate_policy(env, policy, jax.random.key(3), 10) for _ in range(2))
    assert first == second


def test_evaluation_wants_a_number_of_episodes() -> None:
    env = ladder()
    with pytest.raises(ValueError, match="episodes=0"):
        evaluate_policy(env, random_policy(env), jax.random.key(0), 0)
