"""Rover-Tower against every step of 64 recorded episodes of the original (MAAC's multi_speaker_listener)."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax import make
from envs_jax.environment import TimeStep
from envs_jax.particle.rover_tower import RoverTowerState, observe

GOLDEN = Path(__file__).parent / "data" / "rover_tower.npz"
TOLERANCE = 1e-9
EPISODES = 64


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """Initial states and actions, and the observations and rewards after each step, (64, 25, ...) float64.

    Columns 9-10 of a rover's observation are its position, 11-12 its velocity, 4-8 its tower's message.
    """
    with np.load(GOLDEN) as data:
        return dict(data)


def initial_states(golden: dict[str, np.ndarray]) -> RoverTowerState:
    return RoverTowerState(
        rover_position=jnp.asarray(golden["rover_pos"]),
        rover_velocity=jnp.zeros((EPISODES, 4, 2)),
        tower_position=jnp.asarray(golden["tower_pos"]),
        landmark_position=jnp.asarray(golden["landmark_pos"]),
        message=jnp.zeros((EPISODES, 4, 5)),
        rover_of_tower=jnp.asarray(golden["rover_of_tower"], jnp.int32),
        goal_of_tower=jnp.asarray(golden["goal_of_tower"], jnp.int32),
        step=jnp.zeros(EPISODES, jnp.int32),
    )


@pytest.fixture(scope="module")
def replay(golden: dict[str, np.ndarray]) -> tuple[RoverTowerState, TimeStep]:
    """Our states and timesteps under the recorded actions, (64, 25, ...) numpy arrays."""
    env = make("rover_tower")

    def episode(state: RoverTowerState, actions: jax.Array) -> tuple[RoverTowerState, TimeStep]:
        def step(state: RoverTowerState, action: jax.Array) -> tuple[RoverTowerState, tuple[RoverTowerState, TimeStep]]:
            state, timestep = env.transition(state, action, ())
            return state, (state, timestep)

        return jax.lax.scan(step, state, actions)[1]

    with jax.enable_x64(True):
        actions = jnp.asarray(golden["actions"], jnp.int32)
        return jax.device_get(jax.jit(jax.vmap(episode))(initial_states(golden), actions))


def test_every_observation_equals_the_original(golden: dict[str, np.ndarray], replay: tuple[RoverTowerState, TimeStep]) -> None:
    observation = replay[1].observation
    assert observation.dtype == np.float64
    np.testing.assert_allclose(observation[:, :, :4], golden["obs_rover"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(observation[:, :, 4:, :8], golden["obs_tower"], rtol=0, atol=TOLERANCE)
    assert not observation[:, :, 4:, 8:].any()


def test_every_state_equals_the_original(golden: dict[str, np.ndarray], replay: tuple[RoverTowerState, TimeStep]) -> None:
    state, rover = replay[0], golden["obs_rover"]
    np.testing.assert_allclose(state.rover_position, rover[..., 9:11], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(state.rover_velocity, rover[..., 11:13], rtol=0, atol=TOLERANCE)
    episode, time = np.ogrid[:EPISODES, :25]
    for tower in range(4):
        heard = rover[episode, time, golden["rover_of_tower"][:, None, tower], 4:9]
        np.testing.assert_array_equal(state.message[:, :, tower], heard)


def test_every_reward_equals_the_original(golden: dict[str, np.ndarray], replay: tuple[RoverTowerState, TimeStep]) -> None:
    reward = replay[1].reward
    np.testing.assert_allclose(reward, golden["rewards"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(replay[1].metrics["rovers_on_goal"], (golden["rewards"][..., :4] > 5).mean(-1))
    assert (reward > 5).mean() > 0.1


def test_recorded_episodes_end_by_the_clock(replay: tuple[RoverTowerState, TimeStep]) -> None:
    np.testing.assert_array_equal(replay[1].truncated, np.tile(np.arange(1, 26) == 25, (EPISODES, 1)))
    assert not replay[1].terminated.any()


def test_first_observations_equal_the_original(golden: dict[str, np.ndarray]) -> None:
    with jax.enable_x64(True):
        observation = np.asarray(jax.jit(jax.vmap(observe))(initial_states(golden)))
    np.testing.assert_allclose(observation[:, :4], golden["obs0_rover"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(observation[:, 4:, :8], golden["obs0_tower"], rtol=0, atol=TOLERANCE)


def test_speed_limit() -> None:
    env = make("rover_tower")
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    state = dataclasses.replace(state, rover_velocity=jnp.asarray([[3.0, 4.0], [0.0, -2.0], [0.3, 0.0], [0.0, 0.0]]))
    stepped, _ = jax.jit(env.transition)(state, jnp.zeros(8, jnp.int32), ())
    expected = np.array([[0.6, 0.8], [0.0, -1.0], [0.225, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(stepped.rover_velocity, expected, atol=1e-6)
    np.testing.assert_allclose(stepped.rover_position, state.rover_position + 0.1 * expected, atol=1e-6)


def test_reset_pairs_at_random_and_starts_still() -> None:
    count = 4000
    state, timestep = jax.device_get(jax.jit(jax.vmap(make("rover_tower").reset))(jax.random.split(jax.random.key(1), count)))
    np.testing.assert_array_equal(np.sort(state.rover_of_tower, axis=-1), np.tile(np.arange(4), (count, 1)))
    bound = 5 * math.sqrt(0.25 / count)
    for index, choices in ((state.rover_of_tower, 4), (state.goal_of_tower, 6)):
        shares = (np.asarray(index)[..., None] == np.arange(choices)).mean(0)
        np.testing.assert_allclose(shares, 1 / choices, atol=bound)
    shared_goal = (state.goal_of_tower[:, 0] == state.goal_of_tower[:, 1]).mean()
    assert abs(shared_goal - 1 / 6) < bound
    for position in (state.rover_position, state.tower_position, state.landmark_position):
        assert (np.abs(position) <= 1).all()
        np.testing.assert_allclose(position.mean(0), 0, atol=5 * math.sqrt(1 / 3 / count))
    assert not state.rover_velocity.any() and not state.message.any() and not timestep.reward.any()
