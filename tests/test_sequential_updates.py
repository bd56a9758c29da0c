"""HAPPO and HATRPO against brute force: the compound ratio, the Fisher solve, the limit of the KL divergence, and one agent."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from unlike_agents import CONTINUOUS, DISCRETE, probe_batch

from envs_jax.environment import Discrete, EnvSpec
from mamt_jax.algorithms import happo, hatrpo, mappo, on_policy, ppo
from mamt_jax.losses.actor import compound_ratio
from mamt_jax.types import Trajectory

STEPS, ENVS = 8, 4
ONE = EnvSpec("one", ("a_0",), (3,), (Discrete(3),), 5)
SMALL: dict[str, Any] = {"hidden_size": 4, "num_epochs": 2, "num_minibatches": 1}
ONE_PASS: dict[str, Any] = SMALL | {"num_epochs": 1}
MANY_ITERATIONS: dict[str, Any] = SMALL | {"cg_iterations": 200, "max_divergence": 0.02}


def rollout(spec: EnvSpec, algorithm: Any, config: Any, learner: Any) -> Trajectory:
    """A rollout of one-step episodes, which `learner` plays."""

    @jax.jit
    def play() -> Trajectory:
        act = functools.partial(algorithm.act, config, learner)
        batch = probe_batch(spec, jax.random.key(1), STEPS * ENVS, act)
        rows = jax.tree.map(lambda leaf: leaf.reshape(STEPS, ENVS, *leaf.shape[1:]), batch)
        return Trajectory(rows, jnp.zeros((STEPS, ENVS), bool))

    return play()


def started(module: Any, spec: EnvSpec, config: Any) -> tuple[Any, Any, Trajectory]:
    """Algorithm, learner and rollout."""
    algorithm = module.make(spec)
    learner = jax.jit(functools.partial(algorithm.init, config))(jax.random.key(0))
    return algorithm, learner, rollout(spec, algorithm, config, learner)


@pytest.mark.parametrize("some_inactive", [False, True])
def test_the_compound_ratio_is_the_product_over_agents(some_inactive: bool) -> None:
    rng = np.random.default_rng(0)
    new, old = rng.normal(size=(2, 3, 5)).astype(np.float32)
    active = rng.random((3, 5)) < 0.6 if some_inactive else np.ones((3, 5), bool)
    due = np.ones(5)
    for agent, row in itertools.product(range(3), range(5)):
        due[row] *= np.exp(new[agent, row]) / np.exp(old[agent, row]) if active[agent, row] else 1.0
    found = jax.jit(compound_ratio)(new, old, active if some_inactive else None)
    np.testing.assert_allclose(found, due, rtol=1e-5)


def test_happo_weights_each_agent_with_the_new_policies_of_those_before_it() -> None:
    config = happo.HAPPOConfig(**ONE_PASS)
    _, learner, trajectory = started(happo, DISCRETE, config)
    parts = happo.build(DISCRETE, config)

    @jax.jit
    def in_turn(key: jax.Array) -> tuple[Any, Any]:
        rows = ppo.value_rollout(config, parts, learner, trajectory)
        order = jnp.arange(STEPS * ENVS)[None]
        first, _ = happo.turn(config, parts, rows, order, key, learner, jnp.int32(2))
        log_prob = parts.distribution.log_prob(parts.policy.apply(first.policy, rows.observation), rows.action)
        standard = (rows.advantage - rows.advantage.mean(1)[:, None]) / rows.advantage.std(1)[:, None]
        ratio = jnp.exp(log_prob - rows.log_prob)[2:]  # of the agent that was updated before
        by_hand, _ = ppo.policy_step(config, parts, first, rows, ratio * standard, jax.random.fold_in(key, 0))
        second, _ = happo.turn(config, parts, rows, order, key, first, jnp.int32(0))
        return (first.policy, second.policy), by_hand.policy

    (first, second), by_hand = in_turn(jax.random.key(3))
    for before, after, own, due in zip(*map(jax.tree.leaves, (learner.policy, first, second, by_hand)), strict=True):
        np.testing.assert_array_equal(before[:2], after[:2])
        np.testing.assert_array_equal(after[1:], own[1:])
        np.testing.assert_allclose(own[0], due[0], atol=2e-6)
        assert np.abs(after[2] - before[2]).max() > 1e-4


def test_with_one_agent_happo_is_ppo() -> None:
    config = {**SMALL, "num_epochs": 3}
    algorithm, learner, trajectory = started(mappo, ONE, mappo.MAPPOConfig(**config))
    one = jax.jit(functools.partial(algorithm.update, mappo.MAPPOConfig(**config)))(learner, trajectory, jax.random.key(2))
    other = jax.jit(functools.partial(happo.make(ONE).update, happo.HAPPOConfig(**config)))(
        learner, trajectory, jax.random.key(2)
    )
    assert one[1].keys() == other[1].keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, other)


def test_with_one_agent_hatrpo_is_trpo_with_a_dense_fisher_matrix() -> None:
    config = hatrpo.HATRPOConfig(**MANY_ITERATIONS)
    algorithm, learner, trajectory = started(hatrpo, ONE, config)
    parts = hatrpo.build(ONE, config)
    flat, unravel = ravel_pytree(learner.policy)

    @jax.jit
    def by_hand() -> tuple[jax.Array, ...]:
        rows = ppo.value_rollout(config, parts, learner, trajectory)
        advantage = (rows.advantage - rows.advantage.mean()) / rows.advantage.std()
        before = jax.nn.log_softmax(parts.policy.apply(learner.policy, rows.observation))

        def gain(point: jax.Array) -> jax.Array:
            now = jax.nn.log_softmax(parts.policy.apply(unravel(point), rows.observation))
            own = jnp.take_along_axis(now - before, rows.action[..., None], -1)[..., 0]
            return (jnp.exp(own) * advantage).mean()

        def divergence(point: jax.Array) -> jax.Array:
            now = jax.nn.log_softmax(parts.policy.apply(unravel(point), rows.observation))
            return (jnp.exp(before) * (before - now)).sum(-1).mean()

        fisher = jax.hessian(divergence)(flat) + config.damping * jnp.eye(flat.size)
        gradient = jax.grad(gain)(flat)
        direction = jnp.linalg.solve(fisher, gradient)
        whole = jnp.sqrt(2 * config.max_divergence / (direction @ gradient)) * direction
        steps = flat[None] + jnp.outer(config.backtracking ** jnp.arange(config.line_search_steps), whole)
        return steps, jax.lax.map(gain, steps) - gain(flat), jax.lax.map(divergence, steps), gradient @ whole

    steps, gains, divergences, predicted = map(np.asarray, by_hand())
    shares = config.backtracking ** np.arange(config.line_search_steps)
    good = (gains > config.accept_ratio * shares * predicted) & (divergences <= config.max_divergence)
    updated, metrics = jax.jit(functools.partial(algorithm.update, config))(learner, trajectory, jax.random.key(2))
    assert good.any() and metrics["accepted"] == 1
    np.testing.assert_allclose(ravel_pytree(updated.policy)[0], steps[np.argmax(good)], atol=1e-5)


@pytest.mark.parametrize("spec", [DISCRETE, pytest.param(CONTINUOUS, marks=pytest.mark.slow)], ids=["discrete", "continuous"])
def test_no_agent_moves_further_than_its_limit(spec: EnvSpec) -> None:
    config = hatrpo.HATRPOConfig(**SMALL)
    algorithm, learner, trajectory = started(hatrpo, spec, config)
    parts = hatrpo.build(spec, config)

    @jax.jit
    def moved(limit: jax.Array, scale: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = config.replace(max_divergence=limit)  # pyright: ignore[reportAttributeAccessIssue]
        reward_key, update_key = jax.random.split(key)
        reward = scale * jax.random.cauchy(reward_key, trajectory.transitions.reward.shape)
        rewarded = trajectory._replace(transitions=trajectory.transitions._replace(reward=reward))
        updated, metrics = algorithm.update(own, learner, rewarded, update_key)
        observation = on_policy.prepare(own, learner, trajectory).observation
        old, new = (parts.policy.apply(params, observation) for params in (learner.policy, updated.policy))
        return parts.distribution.kl(old, new).mean(1), metrics["accepted"]

    accepted = 0
    for number, (limit, scale) in enumerate(itertools.product((1e-3, 0.05, 1.0), (1.0, 100.0))):
        divergence, taken = moved(jnp.float32(limit), jnp.float32(scale), jax.random.key(number))
        assert (divergence <= limit * 1.001).all()
        accepted += taken.sum()
    assert accepted > 9, "half of the steps are taken"


def test_runs_side_by_side_take_the_steps_that_each_takes_alone() -> None:
    config = hatrpo.HATRPOConfig(**SMALL)
    algorithm, learner, trajectory = started(hatrpo, DISCRETE, config)
    keys = jax.random.split(jax.random.key(4), 2)
    both = jax.jit(jax.vmap(functools.partial(algorithm.update, config), (None, None, 0)))(learner, trajectory, keys)
    update = jax.jit(functools.partial(algorithm.update, config))
    for run, key in enumerate(keys):
        alone = update(learner, trajectory, key)
        jax.tree.map(lambda a, b, run=run: np.testing.assert_allclose(a[run], b, rtol=1e-3, atol=1e-5), both, alone)
    assert (both[1]["accepted"] == 1).any()
