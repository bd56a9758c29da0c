"""Agents that end before the others: nothing that comes after an agent's own end is learnt, counted or normalised by."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unlike_agents import DISCRETE, DUO, SMALL, probe_batch

from envs_jax import Discrete, Environment, EnvSpec, auto_reset, episode_statistics, make, make_timestep
from envs_jax.environment import TimeStep
from envs_jax.wrappers import infer_spec
from mamt_jax.active import active_mean, active_standardise
from mamt_jax.algorithms import registry
from mamt_jax.cli import train as run
from mamt_jax.running_statistics import init_statistics, update_statistics
from mamt_jax.training.rollout import reset_batch, rollout, with_episodes
from mamt_jax.training.run_folder import METRICS, read_rows
from mamt_jax.types import Trajectory

LIMIT = 6
SYMBOLS = 3


def relay(early: int = 1) -> Environment:
    """Both agents name the symbol they see; one ends after `early` steps and is then offered 5 for naming the wrong symbol.

    Args:
        early: steps of the agent that ends first.
    """
    spec = EnvSpec("relay", ("stays_0", "leaves_0"), (SYMBOLS,) * 2, (Discrete(SYMBOLS),) * 2, LIMIT)

    def show(state: Any, reward: jax.Array | None) -> tuple[Any, TimeStep]:
        symbol, step = state
        ended = jnp.stack([jnp.zeros((), bool), step >= early])
        return state, make_timestep(spec, jax.nn.one_hot(symbol, SYMBOLS), reward, ended, step >= LIMIT)

    def draw(key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (2,), 0, SYMBOLS)

    def transition(state: Any, action: jax.Array, noise: jax.Array) -> tuple[Any, TimeStep]:
        symbol, step = state
        right = (action == symbol).astype(jnp.float32)
        gone = jnp.stack([jnp.zeros((), bool), step >= early])
        return show((noise, step + 1), jnp.where(gone, 5.0 * (1.0 - right), right))

    return Environment(
        spec, lambda key: show((draw(key), jnp.zeros((), jnp.int32)), None), transition, lambda key, state: draw(key)
    )


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["mappo", "maddpg"])
def test_an_agent_that_ends_first_learns_as_well_as_the_others(tmp_path: Path, algo: str) -> None:
    options = {
        "mappo": "--episodes 9600 --num-envs 64 --update-interval 384 --num-epochs 4 --num-minibatches 1 "
        "--policy-learning-rate 0.02 --critic-learning-rate 0.02",
        "maddpg": "--episodes 3000 --num-envs 16 --update-interval 16 --num-updates 1 --batch-size 128 --buffer-size 20000 "
        "--policy-learning-rate 0.01 --critic-learning-rate 0.01",
    }[algo]
    shared = "--hidden-size 16 --gamma 0.9 --evaluation-interval 3000 --evaluation-episodes 100"
    arguments = ["--env", "test_early_ends:relay", "--algo", algo, *options.split(), *shared.split()]
    assert run.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    stays, leaves = read_rows(tmp_path / "out" / METRICS)[-1]["eval_return_per_agent"]
    assert leaves > 0.95 and stays > 0.95 * LIMIT, (stays, leaves)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mappo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mamt", "maddpg", "lola"))]
)
def test_no_update_depends_on_rewards_after_an_end(name: str) -> None:
    spec = DUO if name == "lola" else DISCRETE
    algorithm = registry.make(name, spec)
    own = {field.name for field in dataclasses.fields(algorithm.config)}
    config = algorithm.config(**{option: value for option, value in SMALL.items() if option in own})
    batch = probe_batch(spec, jax.random.key(1), 64)
    active = jax.random.bernoulli(jax.random.key(2), 0.7, batch.reward.shape)
    learner, update = algorithm.init(config, jax.random.key(0)), jax.jit(algorithm.update)

    def learnt(late_reward: float, active: jax.Array) -> Any:
        rows = batch._replace(reward=jnp.where(active, batch.reward, late_reward), active=active)
        if algorithm.data == "rollout":
            rows = Trajectory(jax.tree.map(lambda leaf: leaf.reshape(8, 8, *leaf.shape[1:]), rows), jnp.zeros((8, 8), bool))
        return jax.device_get(update(config, learner, rows, jax.random.key(3))[0])

    zero = learnt(0.0, active)
    jax.tree.map(np.testing.assert_array_equal, zero, learnt(7.0, active))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(zero))
    everyone = learnt(0.0, jnp.ones_like(active))
    assert not all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(zero), jax.tree.leaves(everyone), strict=True))
    nobody = learnt(0.0, active.at[:, 0].set(False))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nobody)), "an agent without a single row"


@pytest.mark.slow
def test_walkers_end_together_where_a_fall_ends_all() -> None:
    envs = [make("multiwalker", terminate_on_fall=terminate) for terminate in (True, False)]
    assert [infer_spec(env).spec.ends_together for env in envs] == [True, False]


def test_that_agents_end_together_is_found_in_the_programs_of_an_environment() -> None:
    together = [make(name) for name in ("spread", "rover_tower", "pursuit", "matrix_game")]
    spread = together[0]

    def reset(key: jax.Array) -> tuple[Any, TimeStep]:
        state, timestep = spread.reset(key)
        return state, timestep._replace(active=~timestep.terminated)

    apart = [relay(2), spread._replace(reset=reset)]
    assert [infer_spec(env).spec.ends_together for env in together + apart] == [True] * 4 + [False] * 2


def test_rollouts_say_who_acts_and_pay_nobody_else() -> None:
    env = with_episodes(relay(2))
    batch = reset_batch(env, jax.random.key(0), 3)
    _, seen = rollout(env, lambda observation, key: observation.argmax(-1), batch, jax.random.key(1), 2 * LIMIT)
    of_one = [[True, t % LIMIT < 2] for t in range(2 * LIMIT)]
    np.testing.assert_array_equal(seen.transitions.active, np.repeat(np.array(of_one)[:, None], 3, 1))
    np.testing.assert_array_equal(seen.transitions.reward, np.asarray(seen.transitions.active, np.float32))
    np.testing.assert_array_equal(seen.finished.episode_return, [6 * LIMIT, 12])


def with_births(env: Environment) -> Environment:
    """`relay` whose second agent acts in steps 2 and 3 of each episode only."""

    def tell(result: tuple[Any, TimeStep]) -> tuple[Any, TimeStep]:
        state, timestep = result
        there = (state[1] >= 2) & (state[1] < 4)
        return state, timestep._replace(active=jnp.stack([jnp.ones((), bool), there]))

    return env._replace(reset=lambda key: tell(env.reset(key)), transition=lambda *given: tell(env.transition(*given)))


def test_births_are_told_by_the_environment() -> None:
    counted = episode_statistics(auto_reset(with_births(relay(LIMIT))))
    state, _ = jax.jit(counted.reset)(jax.random.key(0))
    acts, step = [], jax.jit(counted.step)
    for number in range(2 * LIMIT):
        acts.append(bool(state.statistics.active[1]))
        state, _ = step(jax.random.key(number + 1), state, state.env_state[0])
    assert acts == 2 * [False, False, True, True, False, False]
    assert state.statistics.done and state.statistics.episode_return.tolist() == [LIMIT, 2]


def test_means_moments_and_deviations_are_those_of_the_active_rows() -> None:
    rng = np.random.default_rng(0)
    x, active = rng.normal(3.0, 2.0, (40, 2)).astype(np.float32), rng.random((40, 2)) < 0.6
    active[:, 1] = False
    x[~active] = np.nan  # whatever an environment shows of those who have ended
    rows = x[active[:, 0], 0]
    by_agent, active_rows = jnp.asarray(x.T), jnp.asarray(active.T)
    np.testing.assert_allclose(active_mean(by_agent, active_rows), [rows.mean(), 0.0], rtol=1e-5)
    standard = np.asarray(active_standardise(by_agent, active_rows))[0][active[:, 0]]
    np.testing.assert_allclose(standard, (rows - rows.mean()) / rows.std(), rtol=1e-4)
    statistics = init_statistics((2,))
    for part in (slice(0, 7), slice(7, 40)):
        statistics = update_statistics(statistics, jnp.asarray(x[part]), jnp.asarray(active[part]))
    np.testing.assert_allclose(statistics.mean, [rows.mean(), 0.0], rtol=1e-5)
    np.testing.assert_allclose(statistics.variance, [rows.var(), 1.0], rtol=1e-4)
    assert statistics.count.tolist() == [len(rows), 0]
