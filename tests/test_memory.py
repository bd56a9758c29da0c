"""Policies with a memory: the GRU against a plain loop, training data against acting, and a task that takes a memory."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from pettingzoo.utils.conversions import parallel_to_aec

import mamt_jax
from envs_jax import make
from envs_jax.adapters.policy_in_pettingzoo import aec_actor, episode_returns, parallel_actor
from envs_jax.adapters.to_pettingzoo import to_pettingzoo
from mamt_jax.algorithms import mappo, on_policy, ppo
from mamt_jax.networks.memory import History, gru_per_agent, remember
from mamt_jax.training.rollout import Rollout, act_in, reset_batch, rollout, with_episodes
from mamt_jax.types import Trajectory

STEPS, ENVS, HIDDEN = 12, 4, 8
ENV = make("repeat_first", episode_limit=5)
SPEC = ENV.spec
CONFIG = mappo.MAPPOConfig(memory="gru", hidden_size=HIDDEN, num_minibatches=2)
ALGORITHM = mappo.make(SPEC)
LEARNER = jax.jit(functools.partial(ALGORITHM.init, CONFIG))(jax.random.key(0))


def test_the_gru_is_a_loop_over_time_that_forgets_where_episodes_begin() -> None:
    memory, sequences, steps = gru_per_agent((3, 2), HIDDEN), 4, 6
    params = memory.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, steps, sequences, 3)).astype(np.float32)
    begins = rng.random((2, steps, sequences)) < 0.3
    start = jnp.asarray(rng.normal(size=(2, sequences, HIDDEN)), jnp.float32)
    flat = (x.reshape(2, steps * sequences, *x.shape[3:]) for x in (inputs, begins))
    found = jax.jit(lambda x, begins: memory.apply(params, x, History(start, begins)))(*flat)
    one = jax.jit(lambda x, hidden: memory.apply(params, x, History(hidden)))
    hidden = start
    for step in range(steps):
        hidden = one(inputs[:, step], np.where(begins[:, step, :, None], 0.0, hidden))
        np.testing.assert_allclose(found.reshape(2, steps, sequences, HIDDEN)[:, step], hidden, atol=1e-6)


@functools.cache
def played() -> tuple[Trajectory, Any, list[Any]]:
    """A second rollout, which begins within episodes; the environments after it; and the hidden states after each action."""
    env, seen = with_episodes(ENV), []

    @jax.jit
    def play(key: jax.Array) -> tuple[Any, Rollout, Any]:
        start = reset_batch(env, jax.random.key(1), ENVS)._replace(hidden_state=ALGORITHM.hidden_state(CONFIG, (ENVS,)))
        act = functools.partial(ALGORITHM.act, CONFIG, LEARNER)
        middle, _ = rollout(env, act, start, key, STEPS)
        after, data = rollout(env, act, middle, jax.random.fold_in(key, 1), STEPS)
        return middle, data, after

    middle, data, after = play(jax.random.key(2))
    step = jax.jit(lambda batch: act_in(functools.partial(ALGORITHM.greedy, CONFIG, LEARNER), batch))
    batch, done = middle, data.truncated
    for number in range(STEPS):
        _, hidden_state = step(batch._replace(env_state=None, observation=data.transitions.observation[number]))
        seen.append(hidden_state)
        batch = batch._replace(hidden_state=jnp.where(done[number][:, None, None], 0.0, hidden_state))
    np.testing.assert_allclose(batch.hidden_state, after.hidden_state, atol=1e-6)
    return Trajectory(data.transitions, data.truncated, middle.hidden_state), after, seen


def test_training_sees_the_hidden_states_with_which_the_rollout_was_played() -> None:
    trajectory, _, seen = played()
    assert trajectory.truncated.any() and not trajectory.truncated[-1].any()
    assert trajectory.hidden_state is not None and jnp.abs(trajectory.hidden_state).min() > 0
    parts = on_policy.build(SPEC, CONFIG)
    rows = jax.jit(functools.partial(ppo.value_rollout, CONFIG, parts))(LEARNER, trajectory)
    for number, hidden_state in enumerate(seen):
        found = rows.critic_input.reshape(2, STEPS, ENVS, -1)[:, number, :, :HIDDEN]
        np.testing.assert_allclose(found, hidden_state.swapaxes(0, 1), atol=1e-6)


def test_a_minibatch_has_whole_sequences() -> None:
    parts = on_policy.build(SPEC, CONFIG)
    rows = jax.jit(functools.partial(ppo.value_rollout, CONFIG, parts))(LEARNER, played()[0])
    some = jax.jit(lambda rows: ppo.take(rows, jnp.array([3, 1])))(rows)
    outputs = jax.jit(functools.partial(ppo.outputs, parts, LEARNER.policy))
    whole, part = (outputs(each).reshape(2, STEPS, -1, SPEC.action_size) for each in (rows, some))
    np.testing.assert_allclose(part, whole[:, :, [3, 1]], atol=1e-6)
    np.testing.assert_allclose(
        parts.distribution.log_prob(outputs(some), some.action), some.log_prob, atol=1e-6, err_msg="ratios must begin at 1"
    )


def test_the_next_value_remembers_one_step_more() -> None:
    trajectory, parts = played()[0], on_policy.build(SPEC, CONFIG)
    batch, history = on_policy.prepare(CONFIG, LEARNER, trajectory), on_policy.history(trajectory)
    inputs = remember(parts.memory, LEARNER.policy, batch.observation, history)
    after = on_policy.next_inputs(parts, LEARNER.policy, inputs, batch.next_observation)
    before, after = (x.reshape(2, STEPS, ENVS, -1) for x in (inputs, after))
    continues = ~trajectory.truncated[:-1]
    np.testing.assert_allclose(after[:, :-1][:, continues], before[:, 1:][:, continues], atol=1e-6)


def test_more_minibatches_than_environments_are_refused() -> None:
    config = dataclasses.replace(CONFIG, num_minibatches=ENVS + 1)
    with pytest.raises(ValueError, match="num_minibatches=5 exceeds the 4 environments of a rollout: give at most 4, or inc"):
        jax.eval_shape(functools.partial(ALGORITHM.update, config), LEARNER, played()[0], jax.random.key(0))


@functools.cache
def trained(algo: str, memory: str) -> tuple[Any, np.ndarray]:
    """The policy after training on the probe, and the returns of its evaluations."""
    options: dict[str, Any] = {"episode_limit": 5, "num_envs": 64, "update_interval": 640, "gamma": 0.5, "hidden_size": 16}
    own = {"max_divergence": 0.03} if algo == "hatrpo" else {"policy_learning_rate": 1e-2}
    options |= {"critic_learning_rate": 1e-2, "num_minibatches": 2} | own
    trainer = mamt_jax.make_trainer("repeat_first", algo, memory=memory, episodes=12_800, evaluations=2, **options)
    learner_state, metrics = jax.jit(trainer.train)(jax.random.key(0), trainer.config)
    return trainer.policy(learner_state), np.asarray(metrics["eval_return"])


def test_a_policy_with_memory_solves_the_probe() -> None:
    assert trained("mappo", "gru")[1][-1] > 0.95


@pytest.mark.slow
def test_a_policy_without_memory_cannot_solve_the_probe() -> None:
    best = (1 + 4 / 4) / 5  # the symbol in the first of five steps, and a guess among four in the others
    assert trained("mappo", "none")[1][-1] < best + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ippo", "happo", "hatrpo"])
def test_others_with_memory_solve_the_probe(algo: str) -> None:
    assert trained(algo, "gru")[1][-1] > 0.9


def test_a_policy_remembers_in_pettingzoo_and_by_hand() -> None:
    policy, _ = trained("mappo", "gru")
    assert mamt_jax.evaluate(policy, ENV, jax.random.key(3), 50)["return"] > 0.95
    env = to_pettingzoo(ENV)
    for seed in range(3):
        assert episode_returns(env, parallel_actor(policy, SPEC), 1, seed) > 0.95
    turns = parallel_to_aec(env)
    turns.reset(seed=0)
    act, total = aec_actor(policy, SPEC), 0.0
    for agent in turns.agent_iter():
        observation, reward, terminated, truncated, _ = turns.last()
        total += reward
        turns.step(None if terminated or truncated else act(agent, observation))
    assert total / 2 > 0.95
    with pytest.raises(ValueError, match=r"hidden_state is float32 \(2, 3\), which is not valid: give the float32 \(2, 16\)"):
        policy(np.zeros((2, 4)), hidden_state=np.zeros((2, 3), np.float32))


TINY = {"memory": "gru", "hidden_size": 8, "num_envs": 4, "update_interval": 32, "num_minibatches": 2, "evaluation_episodes": 4}


@pytest.mark.slow
def test_a_run_goes_on_with_its_hidden_states_and_its_policy_is_exported(tmp_path: Path) -> None:
    options: dict[str, Any] = TINY | {"episode_limit": 5, "evaluation_interval": 8}
    whole = mamt_jax.train("repeat_first", "mappo", episodes=24, out=tmp_path / "whole", **options)
    mamt_jax.train("repeat_first", "mappo", episodes=16, out=tmp_path / "parts", **options)
    parts = mamt_jax.resume(tmp_path / "parts", episodes=24)
    assert [row["eval_return"] for row in whole.metrics()] == [row["eval_return"] for row in parts.metrics()]
    observation, policy = np.eye(4)[None, :2].repeat(3, 0).astype(np.float32), whole.policy("latest")
    action, hidden_state = policy(observation)
    later = policy(0 * observation, hidden_state=hidden_state)
    exported = jax.export.deserialize(bytearray(mamt_jax.export_policy(tmp_path / "parts")))
    first = exported.call(observation, np.zeros((3, 2, 8), np.float32))
    second = exported.call(0 * observation, first[1])
    jax.tree.map(np.testing.assert_array_equal, (first, second), ((action, hidden_state), later))


@pytest.mark.slow
def test_policies_remember_in_environments_outside_jax(tmp_path: Path) -> None:
    options: dict[str, Any] = TINY | {"num_epochs": 1, "evaluation_interval": 8, "update_interval": 28}
    run = mamt_jax.train("symbols_in_processes:make", "mappo", episodes=16, seeds=2, out=tmp_path / "run", **options)
    assert np.isfinite([row["eval_return"] for row in run.metrics()]).all()
    with np.load(sorted((tmp_path / "run" / "checkpoints").glob("*.npz"))[-1]) as saved:
        hidden_state = saved[".env_batch.hidden_state"]
    assert hidden_state.shape == (2, 4, 2, 8) and (np.abs(hidden_state).max((0, 3)) > 0).any()
