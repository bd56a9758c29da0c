"""Rollouts and evaluation, on episodes that can be read off their observations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.environment import Discrete, Environment, EnvSpec, TimeStep, make_timestep
from envs_jax.rollout import play_episodes
from mamt_jax.training.rollout import no_episodes, reset_batch, rollout, with_episodes
from mamt_jax.training.trainer import mean_over_episodes

LIMIT = 4
SPEC = EnvSpec("counting", ("one_0", "other_0"), (2, 2), (Discrete(2),) * 2, LIMIT)


class CountingState(NamedTuple):
    episode: jax.Array
    step: jax.Array


def counting() -> Environment:
    """Shows a number drawn for the episode, and the step. Rewards (step, action). Action (1, 1) ends it, or the clock."""

    def show(state: CountingState, reward: jax.Array, terminated: jax.Array) -> tuple[CountingState, TimeStep]:
        seen = jnp.broadcast_to(jnp.stack([state.episode, state.step.astype(jnp.float32)]), (2, 2))
        truncated = (state.step >= LIMIT) & ~terminated.all()
        return state, make_timestep(SPEC, seen, reward, terminated, truncated, metrics={"steps": 1.0 * state.step})

    def reset(key: jax.Array) -> tuple[CountingState, TimeStep]:
        state = CountingState(jax.random.uniform(key), jnp.zeros((), jnp.int32))
        return show(state, jnp.zeros(2), jnp.zeros(2, bool))

    def transition(state: CountingState, action: jax.Array, noise: tuple[()]) -> tuple[CountingState, TimeStep]:
        state = state._replace(step=state.step + 1)
        reward = jnp.stack([state.step, action[1]]).astype(jnp.float32)
        return show(state, reward, jnp.broadcast_to(action.all(), (2,)))

    return Environment(SPEC, reset, transition)


def random_act(observation: jax.Array, key: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, 0.6, observation.shape[:-1]).astype(jnp.int32)


@pytest.fixture(scope="module")
def played():
    env, keys = with_episodes(counting()), jax.random.split(jax.random.key(0))
    start = reset_batch(env, keys[0], 5)
    batch, seen = jax.jit(lambda batch, key: rollout(env, random_act, batch, key, 30))(start, keys[1])
    return jax.device_get((start, batch, seen.transitions, seen.finished, seen.truncated))


def test_next_observation_is_the_true_successor(played):
    transitions = played[2]
    assert transitions.terminated.any() and (transitions.next_observation[..., 1] == LIMIT).any()
    np.testing.assert_array_equal(transitions.next_observation[..., 0], transitions.observation[..., 0])
    np.testing.assert_array_equal(transitions.next_observation[..., 1], transitions.observation[..., 1] + 1)


def test_the_next_step_sees_the_next_episode(played):
    start, batch, transitions, *_ = played
    over = transitions.terminated.all(-1) | (transitions.next_observation[..., 0, 1] == LIMIT)
    seen = np.concatenate([transitions.observation, batch.observation[None]])
    np.testing.assert_array_equal(seen[0], start.observation)
    np.testing.assert_array_equal(seen[1:][~over], transitions.next_observation[~over])
    assert (seen[1:][over][..., 1] == 0).all()
    assert (seen[1:][over][..., 0] != transitions.observation[over][..., 0]).all()


def test_a_time_limit_is_no_termination(played):
    _, _, transitions, _, truncated = played
    np.testing.assert_array_equal(transitions.terminated, np.broadcast_to(transitions.action.all(-1)[..., None], (30, 5, 2)))
    by_the_clock = (transitions.next_observation[..., 0, 1] == LIMIT) & ~transitions.terminated.all(-1)
    np.testing.assert_array_equal(truncated, by_the_clock)


def test_sums_are_those_of_finished_episodes(played):
    _, _, transitions, sums, _ = played
    over = transitions.terminated.all(-1) | (transitions.next_observation[..., 0, 1] == LIMIT)
    episodes, returns, steps = 0, np.zeros(2), 0.0
    for env in range(5):
        first = 0
        for last in np.flatnonzero(over[:, env]):
            episodes += 1
            returns += transitions.reward[first : last + 1, env].sum(0)
            steps += np.mean(np.arange(1, last - first + 2))
            first = last + 1
    assert sums.episodes == episodes
    np.testing.assert_allclose(sums.episode_return, returns, rtol=1e-6)
    np.testing.assert_allclose(sums.metrics["steps"], steps, rtol=1e-6)


def test_no_episodes_has_the_shape_of_sums(played):
    nothing = no_episodes(played[0].env_state.statistics)
    assert jax.tree.structure(nothing) == jax.tree.structure(played[3])
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), nothing, played[3])


@pytest.mark.parametrize(("ends", "expected"), [(False, [1 + 2 + 3 + 4, 0]), (True, [1 + 2, 1])])
def test_evaluation_counts_the_first_episode_of_each_environment(ends: bool, expected: list[float]):
    def policy(observation: jax.Array, key: jax.Array, state: CountingState) -> jax.Array:
        assert isinstance(state, CountingState)
        stop = (observation[..., 1] >= 1) & ends
        return stop.astype(jnp.int32)

    result = mean_over_episodes(play_episodes(counting(), policy, jax.random.key(2), 3))
    np.testing.assert_allclose(result.episode_return, expected)
    np.testing.assert_allclose(result.metrics["steps"], 1.5 if ends else 2.5)
