"""Spread against mpe2, the original MPE's order of integration, and the rewards of Spread-3 written out by hand."""

import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpe2 import simple_spread_v3

from envs_jax import make
from envs_jax.environment import Environment, TimeStep
from envs_jax.particle.spread import AGENT_RADIUS, SpreadState, observe
from envs_jax.particle.steering import assign
from envs_jax.particle.world import contact_force

TOLERANCE = 1e-9


def random_states(rng: np.random.Generator, n: int, count: int) -> dict[str, np.ndarray]:
    """Crowded and roomy states in turn, so that contacts of every depth occur."""
    crowding = rng.choice([0.1, 0.3, 1.0], (count, 1, 1))
    return {
        "agent_position": crowding * rng.uniform(-1, 1, (count, n, 2)),
        "agent_velocity": rng.normal(size=(count, n, 2)),
        "landmark_position": rng.uniform(-1, 1, (count, n, 2)),
    }


def states_of(arrays: dict[str, np.ndarray]) -> SpreadState:
    """The batch of states, in the arrays' own dtype: call it under x64."""
    count = len(arrays["agent_position"])
    return SpreadState(**{name: jnp.asarray(a) for name, a in arrays.items()}, step=jnp.zeros(count, jnp.int32))


@partial(jax.jit, static_argnames="env")
def batch_of_steps(env: Environment, state: SpreadState, action: jax.Array) -> tuple[SpreadState, TimeStep]:
    return jax.vmap(env.transition)(state, action, ())


def batched_transition(env: Environment, arrays: dict[str, np.ndarray], action: np.ndarray) -> dict[str, np.ndarray]:
    """One step from each of many states in float64; positions, velocities, observations and rewards as numpy."""
    with jax.enable_x64(True):
        state, timestep = batch_of_steps(env, states_of(arrays), jnp.asarray(action))
        results = {
            "position": state.agent_position,
            "velocity": state.agent_velocity,
            "observation": timestep.observation,
            "reward": timestep.reward,
            "collisions": timestep.metrics["collisions"],
            "landmarks_covered": timestep.metrics["landmarks_covered"],
        }
        assert all(x.dtype == jnp.float64 for x in results.values())
        return {name: np.asarray(x) for name, x in results.items()}


def mpe2_transitions(n: int, continuous: bool, arrays: dict[str, np.ndarray], action: np.ndarray) -> dict[str, np.ndarray]:
    """The same steps in mpe2, its world put into each state by hand."""
    original = simple_spread_v3.parallel_env(N=n, max_cycles=10**9, continuous_actions=continuous, benchmark_data=True)
    original.reset(seed=0)
    scenario, world = original.unwrapped.scenario, original.unwrapped.world
    rows: dict[str, list[Any]] = {name: [] for name in ("position", "velocity", "observation", "reward", "covered", "touched")}
    for t in range(len(action)):
        for i in range(n):
            world.agents[i].state.p_pos = arrays["agent_position"][t, i].copy()
            world.agents[i].state.p_vel = arrays["agent_velocity"][t, i].copy()
            world.landmarks[i].state.p_pos = arrays["landmark_position"][t, i].copy()
        move = {f"agent_{i}": action[t, i] if continuous else int(action[t, i]) for i in range(n)}
        _, reward, _, _, info = original.step(move)
        rows["position"].append([agent.state.p_pos for agent in world.agents])
        rows["velocity"].append([agent.state.p_vel for agent in world.agents])
        rows["observation"].append([scenario.observation(agent, world) for agent in world.agents])
        rows["reward"].append([reward[f"agent_{i}"] for i in range(n)])
        benchmark = [info[f"agent_{i}"]["benchmark_data"] for i in range(n)]
        rows["touched"].append(np.mean([b[1] for b in benchmark]))
        rows["covered"].append(benchmark[0][3] / n)
    original.close()
    return {name: np.array(values) for name, values in rows.items()}


@pytest.mark.parametrize(
    ("n", "continuous", "steps"),
    [
        (2, False, 500),
        (3, True, 500),
        *(pytest.param(n, continuous, 5000, marks=pytest.mark.slow) for n in (2, 3) for continuous in (False, True)),
    ],
)
def test_every_step_equals_mpe2(n: int, continuous: bool, steps: int) -> None:
    rng = np.random.default_rng(n)
    arrays = random_states(rng, n, steps)
    action = rng.random((steps, n, 5)).astype(np.float32) if continuous else rng.integers(5, size=(steps, n))
    ours = batched_transition(make("spread", num_agents=n, continuous_actions=continuous), arrays, action)
    theirs = mpe2_transitions(n, continuous, arrays, action)
    for name in ("position", "velocity", "observation", "reward"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(ours["collisions"], theirs["touched"], atol=TOLERANCE)
    np.testing.assert_allclose(ours["landmarks_covered"], theirs["covered"], atol=TOLERANCE)
    offset = arrays["agent_position"][:, 0] - arrays["agent_position"][:, 1]
    contacts = (np.linalg.norm(offset, axis=-1) < 2 * AGENT_RADIUS).sum()
    assert steps // 4 < contacts < steps
    assert (ours["landmarks_covered"] > 0).sum() > steps // 50


def test_the_original_order_lets_the_first_action_move_the_agent() -> None:
    arrays = random_states(np.random.default_rng(1), 2, 100)
    arrays["agent_position"] = np.tile([[-1.0, 0.0], [1.0, 0.0]], (100, 1, 1))
    action = np.full((100, 2), 2)
    ours = batched_transition(make("spread", position_first=False), arrays, action)
    velocity = 0.75 * arrays["agent_velocity"] + np.array([0.5, 0.0])
    np.testing.assert_allclose(ours["velocity"], velocity, atol=TOLERANCE)
    np.testing.assert_allclose(ours["position"], arrays["agent_position"] + 0.1 * velocity, atol=TOLERANCE)


def test_continuous_actions_are_clipped() -> None:
    arrays = random_states(np.random.default_rng(2), 2, 50)
    action = np.random.default_rng(3).normal(scale=2, size=(50, 2, 5)).astype(np.float32)
    env = make("spread", continuous_actions=True)
    wild, tame = batched_transition(env, arrays, action), batched_transition(env, arrays, action.clip(0, 1))
    np.testing.assert_array_equal(wild["velocity"], tame["velocity"])
    assert not np.array_equal(wild["velocity"], batched_transition(env, arrays, action * 0)["velocity"])


def brute_force_rewards(name: str, position: np.ndarray, landmark: np.ndarray) -> list[float]:
    """Spread-3 (App. F), written out for one state."""
    d = [[math.dist(p, q) for q in landmark] for p in position]
    touch = [[i != j and math.dist(position[i], position[j]) < 0.3 for j in range(3)] for i in range(3)]
    if name == "spread3_sep":
        return [-d[i][i] for i in range(3)]
    if name == "spread3_mix":
        ends = -min(d[0][0], d[2][0]) - min(d[0][2], d[2][2]) - touch[0][2]
        return [ends, -d[1][1], ends]
    shared = -sum(min(d[i][m] for i in range(3)) for m in range(3))
    return [0.5 * shared - 0.5 * sum(touch[i]) for i in range(3)]


@pytest.mark.parametrize("name", ["spread3_sep", "spread3_mix", "spread3_ful"])
def test_spread3_rewards_and_collisions(name: str) -> None:
    rng = np.random.default_rng(4)
    arrays = random_states(rng, 3, 500)
    ours = batched_transition(make(name), arrays, np.zeros((500, 3), int))
    expected = [brute_force_rewards(name, p, q) for p, q in zip(ours["position"], arrays["landmark_position"], strict=True)]
    np.testing.assert_allclose(ours["reward"], expected, atol=TOLERANCE)
    pushed = np.abs(ours["velocity"] - 0.75 * arrays["agent_velocity"]).sum(-1) > 1e-3
    assert pushed.any(0).tolist() == {"sep": [False] * 3, "mix": [True, False, True], "ful": [True] * 3}[name[-3:]]


def positions(n: int) -> st.SearchStrategy[np.ndarray]:
    """n points of a grid so fine that they are often in contact, sometimes in one place."""
    point = st.tuples(st.integers(-20, 20), st.integers(-20, 20))
    return st.lists(point, min_size=n, max_size=n).map(lambda points: np.array(points) / 50)


@settings(deadline=None, max_examples=50)
@given(positions(4))
def test_contact_forces_sum_to_zero_and_push_apart(position: np.ndarray) -> None:
    force = np.asarray(push_apart(jnp.asarray(position, jnp.float32)))
    np.testing.assert_allclose(force.sum(0), 0, atol=1e-4)
    distance = [np.linalg.norm(a - b) for a, b in itertools.combinations(position, 2)]
    if min(distance) > 0.32:
        assert np.abs(force).max() < 1e-5
    if sum(0 < d < 0.28 for d in distance) == 1 and sum(d > 0.32 for d in distance) == 5:
        assert np.abs(force).max() > 1.0
    towards = sum((force[i] - force[j]) @ (position[i] - position[j]) for i, j in itertools.combinations(range(4), 2))
    assert towards >= -1e-4


@jax.jit
def push_apart(position: jax.Array) -> jax.Array:
    return contact_force(position, AGENT_RADIUS, jnp.asarray(~np.eye(4, dtype=bool)))


def test_renumbering_agents_renumbers_everything() -> None:
    rng, env = np.random.default_rng(5), make("spread", num_agents=3)
    arrays, action = random_states(rng, 3, 200), rng.integers(5, size=(200, 3))
    plain = batched_transition(env, arrays, action)
    for order in itertools.permutations(range(3)):
        renumbered = {name: a if name == "landmark_position" else a[:, order] for name, a in arrays.items()}
        turned = batched_transition(env, renumbered, action[:, order])
        for name in ("reward", "position", "velocity"):
            np.testing.assert_allclose(plain[name][:, order], turned[name], atol=TOLERANCE)


def test_agents_in_one_place_have_finite_forces_and_gradients() -> None:
    everyone = jnp.asarray(~np.eye(2, dtype=bool))
    loss = jax.jit(jax.value_and_grad(lambda position: contact_force(position, AGENT_RADIUS, everyone).sum()))
    force, gradient = loss(jnp.zeros((2, 2)))
    assert jnp.isfinite(force) and jnp.isfinite(gradient).all()


def test_reset_draws_the_square_evenly_and_shows_it() -> None:
    env = make("spread", num_agents=3)
    state, timestep = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 2000))
    for drawn in (state.agent_position, state.landmark_position):
        assert (jnp.abs(drawn) <= 1).all()
        np.testing.assert_allclose(drawn.mean(0), 0, atol=4 * math.sqrt(1 / 3 / 2000))
        np.testing.assert_allclose(jnp.square(drawn).mean(0), 1 / 3, atol=4 * math.sqrt(4 / 45 / 2000))
    assert not state.agent_velocity.any() and not state.step.any()
    np.testing.assert_array_equal(timestep.observation, jax.jit(jax.vmap(observe))(state))


def test_time_limit_truncates() -> None:
    env = make("spread", episode_limit=2)
    transition = jax.jit(env.transition)
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    seen = [bool(timestep.truncated)]
    for _ in range(2):
        state, timestep = transition(state, jnp.zeros(2, jnp.int32), ())
        seen.append(bool(timestep.truncated))
    assert seen == [False, False, True] and not timestep.terminated.any()


@pytest.mark.parametrize("n", [3, 6])
def test_assignment_is_a_matching(n: int) -> None:
    agents, landmarks = np.random.default_rng(6).uniform(-1, 1, (2, n, 2)).astype(np.float32)
    chosen = np.asarray(jax.jit(assign)(agents, landmarks))
    assert sorted(chosen) == list(range(n))
    cost = np.linalg.norm(agents[:, None] - landmarks[None], axis=-1)
    best = min(cost[np.arange(n), list(p)].sum() for p in itertools.permutations(range(n)))
    assert cost[np.arange(n), chosen].sum() <= best * (1.0001 if n == 3 else 1.5)
