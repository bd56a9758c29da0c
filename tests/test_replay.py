"""The ring against a list of transitions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from envs_jax.environment import Discrete, EnvSpec
from mamt_jax.training.replay import uniform_replay
from mamt_jax.types import Transition

LIMIT = 4
SPEC = EnvSpec("counting", ("a_0", "a_1"), (2, 2), (Discrete(5),) * 2, LIMIT, "uint8", has_action_masks=True)


def stream(rng: np.random.Generator, steps: int, num_envs: int) -> dict[str, np.ndarray]:
    """(steps, E, ...) of environments whose every observation is its own, cut after LIMIT steps or by chance before."""
    observation = rng.permutation(np.arange(steps * num_envs)).reshape(steps, num_envs) + 1
    final = observation + 100
    length = np.zeros(num_envs, int)
    truncated, terminated = np.zeros((2, steps, num_envs), bool)
    for t in range(steps):
        length += 1
        truncated[t] = length == LIMIT
        terminated[t] = ~truncated[t] & (rng.random(num_envs) < 0.2)
        length[truncated[t] | terminated[t]] = 0
    following = np.append(observation[1:], observation[-1:] + 50, 0)
    return {
        "observation": observation,
        "truncated": truncated,
        "terminated": terminated,
        "next": np.where(truncated | terminated, final, following),
        "shown": following,
    }


def transitions(data: dict[str, np.ndarray], steps: slice) -> Transition:
    """Those steps, agents seeing (x, x + 1)."""

    def seen(name: str) -> jax.Array:
        agents = data[name][steps, :, None, None] + np.arange(2)[:, None]
        return jnp.asarray(np.concatenate([agents, np.zeros_like(agents)], -1), jnp.float32)

    number = data["observation"][steps]
    action = np.stack([number % 5, number % 3], -1)
    reward = np.stack([number, -number], -1)
    terminated = np.repeat(data["terminated"][steps, :, None], 2, -1)

    def allowed(name: str) -> jax.Array:
        return jnp.asarray(data[name][steps, :, None, None] % np.arange(1, 6) == np.arange(2)[:, None])

    return Transition(
        observation=seen("observation"),
        action=jnp.asarray(action, jnp.int32),
        reward=jnp.asarray(reward, jnp.float32),
        next_observation=seen("next"),
        terminated=jnp.asarray(terminated),
        active=jnp.asarray(number[..., None] % 3 != np.arange(2)),
        action_mask=allowed("observation"),
        next_action_mask=allowed("next"),
    )


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_memory_holds_and_samples_the_latest_transitions(steps: int, num_envs: int, kept: int, iterations: int, seed: int):
    data = stream(np.random.default_rng(seed), steps * iterations, num_envs)
    replay = uniform_replay(SPEC, kept, steps, num_envs, batch_size=1000)
    storage, add = replay.init(), jax.jit(replay.add)
    for number in range(iterations):
        part = slice(number * steps, (number + 1) * steps)
        storage = add(storage, transitions(data, part), jnp.asarray(data["truncated"][part]), jnp.asarray(number))
    shown = jnp.asarray(data["shown"][-1][:, None, None] + np.array([[0], [1]]), jnp.float32)
    shown = jnp.concatenate([shown, jnp.zeros_like(shown)], -1)
    mask = jnp.asarray(data["shown"][-1][:, None, None] % np.arange(1, 6) == np.arange(2)[:, None])
    batch = jax.device_get(jax.jit(replay.sample)(storage, jax.random.key(seed), shown, jnp.asarray(iterations), mask))

    latest = transitions(data, slice(max(0, iterations - kept) * steps, None))
    expected = {int(row): place for place, row in np.ndenumerate(np.asarray(latest.observation[..., 0, 0]))}
    drawn = batch.observation[:, 0, 0].astype(int)
    assert set(drawn) == set(expected)
    truth: Any = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)[expected[row]] for row in drawn]), latest)
    ended = truth.terminated.all(-1)
    truth.next_observation[ended], truth.next_action_mask[ended] = 0, False
    jax.tree.map(np.testing.assert_array_equal, batch, truth)
    assert [leaf.dtype for leaf in batch[:-1]] == [np.float32, np.int32, np.float32, np.float32, *[np.bool_] * 4]


@settings(max_examples=6, deadline=None)
@given(st.integers(2, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_several_steps_are_those_of_the_episode(n_steps: int, steps: int, kept: int, iterations: int, seed: int):
    data = stream(np.random.default_rng(seed), steps * iterations, 2)
    replay = uniform_replay(SPEC, kept, steps, 2, batch_size=200, n_steps=n_steps)
    storage = replay.init()
    for number in range(iterations):
        part = slice(number * steps, (number + 1) * steps)
        storage = replay.add(storage, transitions(data, part), jnp.asarray(data["truncated"][part]), jnp.asarray(number))
    shown = jnp.asarray(data["shown"][-1][:, None, None] + np.array([[0], [1]]), jnp.float32)
    shown, mask = jnp.concatenate([shown, jnp.zeros_like(shown)], -1), jnp.ones((2, 2, 5), bool)
    batch = jax.device_get(replay.sample(storage, jax.random.key(seed), shown, jnp.asarray(iterations), mask))
    every = jax.device_get(transitions(data, slice(None)))
    ended = data["terminated"] | data["truncated"]
    for row in range(200):
        step, env = np.argwhere(data["observation"] == batch.observation[row, 0, 0])[0]
        path = [step]
        while len(path) < n_steps and not ended[path[-1], env] and path[-1] + 1 < len(ended):
            path.append(path[-1] + 1)
        rest, counts = path[1:], batch.later.counts[row]
        np.testing.assert_array_equal(counts[:, : len(rest)], every.active[rest, env].T)
        np.testing.assert_array_equal(
            np.where(counts, batch.later.reward[row], 0)[:, : len(rest)], (every.reward * every.active)[rest, env].T
        )
        assert not counts[:, len(rest) :].any()
        np.testing.assert_array_equal(batch.terminated[row], every.terminated[path, env].any(0))
        led_to = every.next_observation[path[-1], env] * ~data["terminated"][path[-1], env]
        np.testing.assert_array_equal(batch.next_observation[row], led_to)


def test_sampling_is_uniform():
    replay = uniform_replay(SPEC, 2, 2, 2, batch_size=8000)
    data, storage = stream(np.random.default_rng(0), 4, 2), replay.init()
    for number in range(2):
        part = slice(2 * number, 2 * number + 2)
        storage = replay.add(storage, transitions(data, part), jnp.asarray(data["truncated"][part]), jnp.asarray(number))
    rows = (
        replay.sample(storage, jax.random.key(1), jnp.zeros((2, 2, 2)), jnp.asarray(2), jnp.ones((2, 2, 5), bool))
        .observation[:, 0, 0]
        .astype(int)
    )
    counts = np.bincount(rows, minlength=9)[1:]
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 24.3  # 0.1 % of fair draws exceed it with 7 degrees of freedom


def test_a_million_rows_of_pursuit_take_less_than_1300_megabytes():
    from envs_jax import make

    replay = uniform_replay(make("pursuit").spec, 3334, 25, 12, batch_size=1024)
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(replay.init))) < 1.3e9
