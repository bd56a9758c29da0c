import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mamt_jax.algorithms.two_timescale import two_timescale
from unlike_agents import DISCRETE, SMALL, observations, probe_batch

from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms import mamt
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.mamd import trust_region
from mamt_jax.distributions import action_distribution
from mamt_jax.losses.opponent_model import non_stationarity
from mamt_jax.losses.trust_region import decomposition_loss
from mamt_jax.networks.trust_region_network import graph_convolution, symmetric_weights, trust_region_network

N, BATCH = 3, 64


def seen(observation: jax.Array, action: jax.Array | None = None) -> Batch:
    """A batch of which only that is read."""
    nothing: Any = None
    return Batch(observation, nothing if action is None else action, nothing, nothing, nothing)


@pytest.fixture(scope="module")
def policy_phase():
    """A learner a few steps in, so that current and old policies differ, and one joint action drawn from it."""
    config = mamt.MAMTConfig(**SMALL, policy_gradient="expected", epsilon=0.5)
    algorithm = mamt.make(DISCRETE)
    learner = algorithm.init(config, jax.random.key(0))
    update = jax.jit(algorithm.update)
    for number in range(3):
        batch_key, update_key = jax.random.split(jax.random.key(number + 1))
        learner, _ = update(config, learner, probe_batch(DISCRETE, batch_key, BATCH), update_key)
    parts = base.actor_critic(DISCRETE, config)
    observation = observations(DISCRETE, jax.random.key(9), BATCH).swapaxes(0, 1)
    return config, parts, learner.base, observation, base.evaluate_policies(parts, learner.base, observation, jax.random.key(8))


def test_gradients_through_a_step_are_those_of_finite_differences_and_not_zero(policy_phase) -> None:
    log_epsilon = jnp.log(jnp.array([0.2, 0.5, 1.0]))
    with jax.enable_x64(True):
        config, parts, learner, observation, joint = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64) if isinstance(x, jax.Array) and x.dtype == jnp.float32 else x, policy_phase
        )
        log_epsilon = log_epsilon.astype(jnp.float64)
        effects = jax.jit(functools.partial(mamt.after_step, config, parts, learner, seen(observation), joint))
        step = 1e-4
        moved = [[effects(log_epsilon.at[i].add(s)) for s in (step, -step)] for i in range(N)]
        numeric = np.array([[(up[k] - down[k])[i] / (2 * step) for i, (up, down) in enumerate(moved)] for k in range(2)])
        gradients = mamt.step_gradients(effects, log_epsilon)
    assert (np.abs(numeric) > 1e-6).all()
    np.testing.assert_allclose(gradients, numeric, rtol=1e-3)


def test_what_trust_regions_follow_is_a_choice(policy_phase) -> None:
    config, parts, learnt, observation, _ = policy_phase
    learner = dataclasses.replace(mamt.init(DISCRETE, config, jax.random.key(0)), base=learnt)

    def follow(**options):
        chosen = dataclasses.replace(config, epsilon_delay=1, reward_normalisation="none", **options)
        own, key = mamt.trust_region_parts(DISCRETE, chosen), jax.random.key(8)
        fresh = dataclasses.replace(learner, trust_region=mamt.init(DISCRETE, chosen, jax.random.key(0)).trust_region)
        dependence = mamt.measure_dependence(chosen, parts, own, fresh, seen(observation), key)
        state, metrics = mamt.trust_region_step(chosen, parts, own, fresh, seen(observation), dependence)
        return dependence, metrics["cost_gradient"], state.params["log_epsilon"] - jnp.log(config.epsilon)

    values, of_network, _ = follow(coordination="values")
    joint = values.joint
    q = jnp.take_along_axis(joint.q, joint.candidates.drawn[..., None], -1)[..., 0]
    apart = np.abs((joint.candidates.probability * joint.q).sum(-1)[None] - q[:, None])
    shares = np.exp(apart) * ~np.eye(N, dtype=bool)[..., None]
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(values.coordination, np.where(shares >= config.coordination_threshold, shares, 0), atol=1e-5)
    assert not np.allclose(values.coordination, follow()[0].coordination)

    _, of_policies, step = follow(divergence="policies", value_weight=0.0)
    assert not np.allclose(of_policies, of_network)
    np.testing.assert_array_equal(np.sign(step), -np.sign(of_policies))

    _, of_network, step = follow(value_weight=0.0, epsilon_space="linear", epsilon_learning_rate=0.05)
    np.testing.assert_allclose(config.epsilon * np.expm1(step), -0.05 * np.sign(of_network), rtol=1e-3)


def test_no_draw_of_an_update_reuses_the_key_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def recording(function):
        def record(*arguments, **named):
            used.extend(x for x in arguments if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
            return function(*arguments, **named)

        return record

    for name in ("evaluate_policies", "critic_step"):
        monkeypatch.setattr(base, name, recording(getattr(base, name)))
    config, key = mamt.MAMTConfig(**SMALL), jax.random.key(4)
    algorithm = mamt.make(DISCRETE)
    with jax.debug_key_reuse(False):  # keys are looked at more than once here
        algorithm.update(config, algorithm.init(config, jax.random.key(0)), probe_batch(DISCRETE, jax.random.key(3), 8), key)
    drawn = {tuple(np.asarray(jax.random.key_data(each)).tolist()) for each in [key, *used]}
    assert len(used) == 3 and len(drawn) == 4


def test_smaller_trust_region_keeps_policies_closer_to_the_old_ones() -> None:
    config = mamt.MAMDConfig(**SMALL, old_policy_interval=1000, entropy_bonus=0.0)
    learner = base.init(DISCRETE, config, jax.random.key(0))

    @jax.jit
    def train(epsilon: jax.Array) -> jax.Array:
        def step(learner, key):
            batch_key, update_key = jax.random.split(key)
            batch, keys = probe_batch(DISCRETE, batch_key, BATCH), base.split_update_key(update_key)
            regulariser = trust_region(config, jnp.full(N, epsilon))
            learner, metrics = base.update(DISCRETE, config, learner, batch, keys, regulariser)
            return learner, metrics["kl_old"]

        return jax.lax.scan(step, learner, jax.random.split(jax.random.key(1), 60))[1][-1]

    divergence = np.array([train(epsilon) for epsilon in (0.05, 0.5, 5.0)])
    assert (np.diff(divergence, axis=0) > 0).all(), divergence


def dense_graph_convolution(nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with_self = weights + np.eye(len(weights))
    scale = np.diag(with_self.sum(1) ** -0.5)
    return scale @ with_self @ scale @ nodes


def test_graph_convolution_equals_the_dense_formula_with_absent_edges() -> None:
    random = np.random.default_rng(0)
    weights = random.uniform(size=(4, 4)) * (random.uniform(size=(4, 4)) < 0.6)
    weights = (weights + weights.T) / 2 * ~np.eye(4, dtype=bool)
    weights[3], weights[:, 3] = 0.0, 0.0
    nodes = random.normal(size=(4, 5))
    ours = graph_convolution(jnp.array(nodes, jnp.float32), jnp.array(weights, jnp.float32))
    np.testing.assert_allclose(ours, dense_graph_convolution(nodes, weights), atol=1e-6)
    np.testing.assert_allclose(ours[3], nodes[3], atol=1e-6)


def test_decomposition_network_is_equivariant_under_renumbering_and_never_negative() -> None:
    network = trust_region_network(DISCRETE, 8)
    params = network.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    inputs = (jax.random.normal(keys[0], (N, BATCH, 4)), jax.random.normal(keys[1], (N, BATCH, 3)), jnp.array([-2.0, 0.0, 3.0]))
    weights = symmetric_weights(jax.random.uniform(keys[2], (N, N, BATCH)) * ~np.eye(N, dtype=bool)[..., None])
    order = np.array([2, 0, 1])
    renumbered = params | {name: jax.tree.map(lambda p: p[order], params[name]) for name in ("messages", "own")}
    estimate = network.apply(params, *inputs, weights)
    np.testing.assert_allclose(
        network.apply(renumbered, *(x[order] for x in inputs), weights[order][:, order]), estimate[order], atol=1e-5
    )
    assert (estimate >= 0).all() and np.ptp(estimate) > 0
    fewer_edges = network.apply(params, *inputs, weights * 0.0)
    assert not np.allclose(fewer_edges, estimate), "messages must matter"


def test_non_stationarity_and_decomposition_loss_by_hand() -> None:
    coordination = jnp.array([[[0.0], [0.6], [0.4]], [[1.0], [0.0], [0.0]], [[0.0], [0.0], [0.0]]])
    divergence = jnp.array([[[7.0], [2.0], [3.0]], [[9.0], [7.0], [1.0]], [[4.0], [4.0], [7.0]]])
    ours = non_stationarity(coordination, divergence, 5.0)
    np.testing.assert_allclose(ours[:, 0], [2.4, 5.0, 0.0], rtol=1e-6)
    assert float(decomposition_loss(jnp.array([[1.0], [1.0], [1.0]]), ours)) == pytest.approx(4.4**2)


def test_modelling_policies_come_to_predict_what_others_do() -> None:
    config = mamt.MAMTConfig(**SMALL)
    parts, state = mamt.trust_region_parts(DISCRETE, config), mamt.init(DISCRETE, config, jax.random.key(0)).trust_region
    observation = observations(DISCRETE, jax.random.key(1), BATCH).swapaxes(0, 1)
    action = jnp.stack([jnp.full(BATCH, 2), jnp.full(BATCH, 1), jnp.zeros(BATCH)]).astype(jnp.int32)

    def step(state, _):
        return mamt.opponent_step(config, parts, state, seen(observation, action))

    state, losses = jax.lax.scan(step, state, None, 300)
    assert losses[0] > 0.7 and losses[-1] < 0.1
    predicted = action_distribution(DISCRETE, (1, 2, 0, 2, 0, 1)).mode(parts.opponents.apply(state.opponents, observation))
    np.testing.assert_array_equal(predicted[:, 0], [1, 0, 2, 0, 2, 1])


@pytest.mark.parametrize("kind", ["delayed", "decaying"])
def test_two_timescales(kind) -> None:
    optimizer = two_timescale(kind, (optax.sgd, 1.0), (optax.sgd, 1.0), 4, 10, {"log_epsilon": "slow", "network": "fast"})
    params = {"log_epsilon": jnp.zeros(2), "network": {"w": jnp.zeros(3)}}
    gradient = {"log_epsilon": jnp.array([1.0, 2.0]), "network": {"w": jnp.ones(3)}}
    state, moves = optimizer.init(params), []
    for _ in range(8):
        step, state = optimizer.update(gradient, state, params)
        moves.append([leaf.ravel()[0] for leaf in jax.tree.leaves(step)])
    slow, fast = -np.array(moves).T
    if kind == "delayed":
        np.testing.assert_allclose(slow, [0, 0, 0, 1, 0, 0, 0, 1])
        np.testing.assert_allclose(fast, 1.0)
    else:
        k = np.arange(8)
        np.testing.assert_allclose(slow, (1 + k / 10) ** -1.0, rtol=1e-5)
        np.testing.assert_allclose(fast, (1 + k / 10) ** -0.6, rtol=1e-5)
        assert (np.diff(slow / fast) < 0).all()
