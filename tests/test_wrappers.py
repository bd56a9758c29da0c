"""Automatic reset and episode statistics against the same steps taken by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax import Discrete, Environment, EnvSpec, TimeStep, auto_reset, episode_statistics, make, make_timestep
from envs_jax.wrappers import FEW, replace_where, reset_key

EPISODE_LIMIT = 5
SPEC = EnvSpec("countdown", ("agent_0", "agent_1"), (2, 1), (Discrete(2), Discrete(3)), EPISODE_LIMIT, last_metrics=("last",))


def countdown(terminate_at: tuple[int, int]) -> Environment:
    """State (step, id of the episode); the reward is (step, action of agent 1); agent i terminates at its own step."""

    def show(state: jax.Array, reward: jax.Array | None = None) -> TimeStep:
        observation = jnp.stack([state.astype(float), jnp.stack([state[0], 0]).astype(float)])
        return make_timestep(
            SPEC,
            observation,
            reward=reward,
            terminated=state[0] >= jnp.asarray(terminate_at),
            truncated=state[0] >= EPISODE_LIMIT,
            action_mask=jnp.asarray(SPEC.action_mask) & ((state[0] > 0) | (jnp.arange(3) < 1))[None, :],
            metrics=dict.fromkeys(("step", "last"), state[0].astype(float)),
        )

    def reset(key: jax.Array) -> tuple[jax.Array, TimeStep]:
        state = jnp.stack([0, jax.random.randint(key, (), 1, 10**6)])
        return state, show(state)

    def transition(state: jax.Array, action: jax.Array, noise: tuple[()]) -> tuple[jax.Array, TimeStep]:
        state = state + jnp.array([1, 0])
        return state, show(state, jnp.stack([state[0], action[1]]).astype(float))

    return Environment(SPEC, reset, transition)


def roll(env: Environment, key: jax.Array, steps: int) -> tuple[object, TimeStep]:
    """States and timesteps after each of `steps` steps, leading axis (steps,)."""

    def step(carry: tuple, _: None) -> tuple:
        state, key = carry
        step_key, action_key, key = jax.random.split(key, 3)
        state, timestep = env.step(step_key, state, jax.random.randint(action_key, (env.spec.num_agents,), 0, 2))
        return (state, key), (state, timestep)

    reset_key, key = jax.random.split(key)
    return jax.lax.scan(step, (env.reset(reset_key)[0], key), length=steps)[1]


@functools.cache
def played(terminate_at: tuple[int, int]) -> tuple[Any, TimeStep]:
    """Seventeen steps of three environments that reset themselves, with statistics."""
    env = episode_statistics(auto_reset(countdown(terminate_at)))
    keys = jax.random.split(jax.random.key(2), 3)
    return jax.device_get(jax.jit(jax.vmap(lambda key: roll(env, key, 17)))(keys))


def test_auto_reset_shows_the_next_episode_and_keeps_the_last_observation() -> None:
    state, timestep = jax.tree.map(lambda leaf: leaf[0], played((9, 9)))
    step = 1 + np.arange(17) % EPISODE_LIMIT
    ended = step == EPISODE_LIMIT
    np.testing.assert_array_equal(timestep.truncated, ended)
    np.testing.assert_array_equal(timestep.final_observation[:, 0, 0], step)
    np.testing.assert_array_equal(timestep.observation[:, 0, 0], np.where(ended, 0, step))
    np.testing.assert_array_equal(timestep.reward[:, 0], step)
    np.testing.assert_array_equal(timestep.metrics["step"], step)
    np.testing.assert_array_equal(timestep.action_mask[:, 1, 2], ~ended)
    np.testing.assert_array_equal(state.env_state[:, 0], np.where(ended, 0, step))
    assert not timestep.terminated.any()
    episode = state.env_state[:, 1]
    np.testing.assert_array_equal(timestep.observation[:, 0, 1], episode)
    np.testing.assert_array_equal(np.diff(episode) != 0, ended[1:])
    np.testing.assert_array_equal(timestep.final_observation[1:, 0, 1], episode[:-1])


def test_auto_reset_waits_for_the_last_agent_to_terminate() -> None:
    timestep = jax.tree.map(lambda leaf: leaf[0, :6], played((2, 3))[1])
    np.testing.assert_array_equal(timestep.terminated, [[False] * 2, [True, False], [True] * 2] * 2)
    np.testing.assert_array_equal(timestep.observation[:, 0, 0], [1, 2, 0] * 2)
    assert not timestep.truncated.any()


def test_auto_reset_changes_nothing_within_an_episode() -> None:
    env = countdown(terminate_at=(9, 9))
    wrapped, reset = auto_reset(env), jax.jit(env.reset)
    transition, wrapped_transition = jax.jit(env.transition), jax.jit(wrapped.transition)
    state, _ = reset(jax.random.key(1))
    action = jnp.zeros(2, jnp.int32)
    for step in range(EPISODE_LIMIT):
        noise = wrapped.sample_noise(jax.random.key(step), state)
        bare_state, bare = transition(state, action, noise.noise)
        state, timestep = wrapped_transition(state, action, noise)
        np.testing.assert_array_equal(timestep.final_observation, bare.final_observation)
        np.testing.assert_array_equal(timestep.reward, bare.reward)
        assert bool(timestep.truncated) == bool(bare.truncated) == (step == EPISODE_LIMIT - 1)
        with jax.debug_key_reuse(False):
            expected = bare_state if step < EPISODE_LIMIT - 1 else reset(reset_key(noise.key))[0]
        jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_a_batch_resets_together_with_its_first_and_not_at_all_while_nobody_is_done() -> None:
    env = countdown(terminate_at=(9, 9))
    opened: list[int] = []

    def reset(key: jax.Array) -> tuple[jax.Array, TimeStep]:
        jax.debug.callback(lambda: opened.append(1))
        return env.reset(key)

    counted = auto_reset(env._replace(reset=reset))
    step = jax.jit(jax.vmap(jax.vmap(counted.step, in_axes=(0, 0, None)), in_axes=(0, None, None)))
    start, action = jnp.array([[0, 7], [1, 8], [3, 9]]), jnp.zeros(2, jnp.int32)
    keys = jax.random.split(jax.random.key(4), (2, 3))
    state, timestep = jax.block_until_ready(step(keys, start, action))
    jax.effects_barrier()
    assert not opened and not timestep.truncated.any()
    np.testing.assert_array_equal(state, np.broadcast_to(np.asarray(start) + [1, 0], (2, 3, 2)))

    keys = jax.random.split(jax.random.key(5), (2, 3))
    state, timestep = jax.block_until_ready(step(keys, start.at[2, 0].set(4), action))
    jax.effects_barrier()
    assert opened
    np.testing.assert_array_equal(timestep.truncated, [[False, False, True]] * 2)
    np.testing.assert_array_equal(state[:, :2], np.broadcast_to(np.asarray(start[:2]) + [1, 0], (2, 2, 2)))
    with jax.debug_key_reuse(False):
        np.testing.assert_array_equal(state[:, 2], jnp.stack([env.reset(reset_key(key))[0] for key in keys[:, 2]]))


@jax.jit
def replaced_and_made(wanted: jax.Array, keys: jax.Array, old: dict[str, jax.Array]) -> tuple[dict, dict]:
    def make(key: jax.Array) -> dict[str, jax.Array]:
        return {"place": jax.random.normal(key, (2,))}

    return jax.vmap(lambda *each: replace_where(make, *each))(wanted, keys, old), jax.vmap(make)(jax.random.clone(keys))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 2 * FEW])
def test_few_and_many_are_replaced_alike(count: int) -> None:
    wanted = np.random.default_rng(count).permutation(np.arange(2 * FEW) < count)
    keys, old = jax.random.split(jax.random.key(0), 2 * FEW), {"place": jnp.arange(4.0 * FEW).reshape(-1, 2)}

    new, made = replaced_and_made(jnp.asarray(wanted), keys, old)
    np.testing.assert_array_equal(new["place"], np.where(wanted[:, None], made["place"], old["place"]))


@pytest.mark.parametrize("terminate_at", [(9, 9), (2, 3)])
def test_statistics_are_complete_at_the_end_of_every_episode(terminate_at: tuple[int, int]) -> None:
    state, timestep = played(terminate_at)
    statistics, length = state.statistics, min(EPISODE_LIMIT, max(terminate_at))
    np.testing.assert_array_equal(statistics.done, np.tile(np.arange(1, 18) % length == 0, (3, 1)))
    for run in range(3):
        for end in np.flatnonzero(statistics.done[run]):
            episode = slice(end + 1 - length, end + 1)
            acted = np.arange(1, length + 1)[:, None] <= np.array(terminate_at)  # later rewards are not the agent's
            earned = np.where(acted, timestep.reward[run, episode], 0).sum(0)
            np.testing.assert_allclose(statistics.episode_return[run, end], earned, rtol=1e-6)
            np.testing.assert_allclose(statistics.metrics["step"][run, end], (length + 1) / 2, rtol=1e-6)
            assert statistics.metrics["last"][run, end] == length
            assert statistics.episode_length[run, end] == length


def test_wrapping_keeps_spec_and_scripted_policy() -> None:
    env = make("matrix_game")
    wrapped = episode_statistics(auto_reset(env))
    state, _ = jax.jit(wrapped.reset)(jax.random.key(3))
    assert wrapped.spec == env.spec
    assert wrapped.scripted is not None and env.scripted is not None
    np.testing.assert_array_equal(wrapped.scripted(jax.random.key(0), state), env.scripted(jax.random.key(0), state.env_state))
    assert episode_statistics(countdown((9, 9))).scripted is None
