"""MAMT's own parts: what trust regions follow, on which timescale, and what modelling policies learn."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from unlike_agents import SMALL, observations, probe_batch

from envs_jax.environment import Discrete, EnvSpec
from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms import mamt
from mamt_jax.algorithms import paper_trust_regions as paper
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.coordination import averaged_out, value_shortcut
from mamt_jax.algorithms.mamd import trust_region
from mamt_jax.algorithms.trust_regions import TIMESCALES, linear_steps, log_steps, policies_cost
from mamt_jax.distributions import action_distribution

N, BATCH = 3, 32
SPEC = EnvSpec("alike", ("a_0", "a_1", "a_2"), (3,) * N, (Discrete(3),) * N, 5)
CONFIG = mamt.MAMTConfig(**SMALL, policy_gradient="expected", epsilon=0.5, reward_normalisation="none", epsilon_delay=1)
PARTS = base.actor_critic(SPEC, CONFIG)


def seen(observation: jax.Array, action: jax.Array | None = None) -> Batch:
    """A batch of which only that is read."""
    nothing: Any = None
    return Batch(observation, nothing if action is None else action, nothing, nothing, nothing)


@pytest.fixture(scope="module")
def phase() -> Any:
    """A learner whose policies have taken a few steps away from the old ones, a batch and how agents depend on each other."""

    @jax.jit
    def prepare(key: jax.Array) -> Any:
        init_key, observation_key, steps_key, dependence_key = jax.random.split(key, 4)
        learner = mamt.init(SPEC, CONFIG, init_key)
        batch = seen(observations(SPEC, observation_key, BATCH).swapaxes(0, 1))

        def step(state: base.ActorCriticState, key: jax.Array) -> Any:
            joint = base.evaluate_policies(PARTS, state, batch.observation, key)
            regulariser = trust_region(CONFIG, jnp.full(N, CONFIG.epsilon))
            policy, optimizer, _ = base.policy_step(CONFIG, PARTS, state, batch, joint, regulariser)
            return dataclasses.replace(state, policy=policy, policy_optimizer=optimizer), None

        state, _ = jax.lax.scan(step, learner.base, jax.random.split(steps_key, 3))
        learner = dataclasses.replace(learner, base=state)
        own = paper.trust_region_parts(SPEC, CONFIG)
        dependence = paper.measure_dependence(CONFIG, PARTS, own, state, learner.trust_region, batch, dependence_key)
        shortcut = value_shortcut(CONFIG, PARTS, state, batch, dependence.joint)
        return learner, batch, dependence, shortcut

    return prepare(jax.random.key(0))


def test_gradients_through_a_step_are_those_of_finite_differences_and_not_zero(phase: Any) -> None:
    learner, batch, dependence, _ = phase
    with jax.enable_x64(True):
        learner, batch, joint = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64) if x.dtype == jnp.float32 else x, (learner.base, batch, dependence.joint)
        )
        log_epsilon = jnp.log(jnp.array([0.2, 0.5, 1.0], jnp.float64))
        effects = functools.partial(paper.after_step, CONFIG, PARTS, learner, batch, joint)
        step = 1e-4
        moved = log_epsilon[None] + step * jnp.concatenate([jnp.eye(N), -jnp.eye(N)])
        up, down = np.split(np.stack(jax.jit(jax.vmap(effects))(moved), 1), 2)  # (agent moved, V or KL, agent)
        gradients = jax.jit(functools.partial(paper.step_gradients, effects))(log_epsilon)
    numeric = np.stack([(up - down)[i, :, i] / (2 * step) for i in range(N)], 1)
    assert (np.abs(numeric) > 1e-6).all()
    np.testing.assert_allclose(gradients, numeric, rtol=1e-3)


def test_coordination_is_a_function_and_its_shortcut_takes_the_others_values(phase: Any) -> None:
    _, _, dependence, shortcut = phase
    joint = jax.tree.map(np.asarray, dependence.joint)
    q = np.take_along_axis(joint.q, joint.candidates.drawn[..., None], -1)[..., 0]
    apart = np.abs((joint.candidates.probability * joint.q).sum(-1)[None] - q[:, None])
    shares = np.exp(apart) * ~np.eye(N, dtype=bool)[..., None]
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(shortcut, np.where(shares >= CONFIG.coordination_threshold, shares, 0), atol=1e-5)
    assert CONFIG.coordination is averaged_out and not np.allclose(shortcut, dependence.coordination)


def test_what_trust_regions_follow_is_a_function(phase: Any) -> None:
    learner, batch, dependence, _ = phase

    def follow(**options: Any) -> Any:
        config = dataclasses.replace(CONFIG, **options)
        own = paper.trust_region_parts(SPEC, config)
        state, metrics = paper.trust_region_step(config, PARTS, own, learner.base, learner.trust_region, batch, dependence)
        return metrics["cost_gradient"], state.params["log_epsilon"] - jnp.log(config.epsilon)

    def twice_the_network(config: Any, log_epsilon: jax.Array, estimate: Any, own: jax.Array) -> jax.Array:
        return 2 * CONFIG.divergence(config, log_epsilon, estimate, own)

    @jax.jit
    def run() -> Any:
        linear = {"epsilon_space": linear_steps, "epsilon_learning_rate": 0.05, "value_weight": 0.0}
        return follow(divergence=policies_cost, value_weight=0.0), follow(**linear), follow(divergence=twice_the_network)

    (of_policies, log_step), (of_network, linear_step), (doubled, _) = jax.tree.map(np.asarray, run())
    assert CONFIG.epsilon_space is log_steps and not np.allclose(of_policies, of_network)
    np.testing.assert_array_equal(np.sign(log_step), -np.sign(of_policies))
    np.testing.assert_allclose(CONFIG.epsilon * np.expm1(linear_step), -0.05 * np.sign(of_network), rtol=1e-3)
    np.testing.assert_allclose(doubled, 2 * of_network, rtol=1e-5)


def test_no_draw_of_an_update_reuses_the_key_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def recording(function: Any) -> Any:
        def record(*arguments: Any) -> Any:
            used.extend(x for x in arguments if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
            return function(*arguments)

        return record

    for name in ("evaluate_policies", "critic_step"):
        monkeypatch.setattr(base, name, recording(getattr(base, name)))
    config, algorithm = mamt.MAMTConfig(**SMALL), mamt.make(SPEC)

    @jax.jit
    def keys_of_an_update(key: jax.Array) -> list[jax.Array]:
        learner = algorithm.init(config, jax.random.key(0))
        algorithm.update(config, learner, probe_batch(SPEC, jax.random.key(3), 8), key)
        return [jax.random.key_data(each) for each in [key, *used]]

    with jax.debug_key_reuse(False):  # keys are looked at more than once here
        drawn = {tuple(np.asarray(each).tolist()) for each in keys_of_an_update(jax.random.key(4))}
    assert len(used) == 3 and len(drawn) == 4


def test_modelling_policies_come_to_predict_what_others_do() -> None:
    parts = paper.trust_region_parts(SPEC, CONFIG)
    action = jnp.stack([jnp.full(BATCH, 2), jnp.full(BATCH, 1), jnp.zeros(BATCH)]).astype(jnp.int32)

    @jax.jit
    def learn(key: jax.Array) -> Any:
        init_key, observation_key = jax.random.split(key)
        opponents = parts.opponents.init(init_key)
        state = paper.TrustRegionState({}, (), opponents, parts.opponent_optimizer.init(opponents))
        batch = seen(observations(SPEC, observation_key, BATCH).swapaxes(0, 1), action)
        state, losses = jax.lax.scan(lambda state, _: paper.opponent_step(CONFIG, parts, state, batch), state, length=300)
        modelled = action_distribution(SPEC, (1, 2, 0, 2, 0, 1))
        return losses, modelled.mode(parts.opponents.apply(state.opponents, batch.observation))

    losses, predicted = jax.tree.map(np.asarray, learn(jax.random.key(0)))
    assert losses[0] > 0.7 and losses[-1] < 0.1
    np.testing.assert_array_equal(predicted[:, 0], [1, 0, 2, 0, 2, 1])


@pytest.mark.parametrize("kind", TIMESCALES)
def test_two_timescales(kind: str) -> None:
    rates: dict[str, Any] = {"epsilon_learning_rate": 1.0, "decomposition_learning_rate": 1.0}
    config = mamt.MAMTConfig(**rates, epsilon_delay=4, decay_horizon=10)
    optimizer = optax.partition(TIMESCALES[kind](config, optax.sgd, optax.sgd), {"log_epsilon": "slow", "network": "fast"})
    params = {"log_epsilon": jnp.zeros(2), "network": {"w": jnp.zeros(3)}}
    gradient = {"log_epsilon": jnp.array([1.0, 2.0]), "network": {"w": jnp.ones(3)}}

    def step(state: Any, _: None) -> Any:
        moved, state = optimizer.update(gradient, state, params)
        return state, [leaf.ravel()[0] for leaf in jax.tree.leaves(moved)]

    slow, fast = -np.array(jax.jit(lambda: jax.lax.scan(step, optimizer.init(params), length=8)[1])())
    if kind == "delayed":
        np.testing.assert_allclose(slow, [0, 0, 0, 1, 0, 0, 0, 1])
        np.testing.assert_allclose(fast, 1.0)
    else:
        k = np.arange(8)
        np.testing.assert_allclose(slow, (1 + k / 10) ** -1.0, rtol=1e-5)
        np.testing.assert_allclose(fast, (1 + k / 10) ** -0.6, rtol=1e-5)
        assert (np.diff(slow / fast) < 0).all()
