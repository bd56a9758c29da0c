"""Trust regions that follow dependence: influence by whole critics, exact mirror steps, and which agents they constrain."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unlike_agents import CONTINUOUS, DISCRETE, SMALL, observations, probe_batch

from envs_jax.environment import Discrete, EnvSpec
from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms import dependence_trust_regions as regions
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.mamd import trust_region
from mamt_jax.algorithms.mamt import MAMTConfig
from mamt_jax.losses.mirror_step import divergence_slope, mirror_step, value_slope
from mamt_jax.networks.attention_critic import CriticOutput

N, BATCH, ACTIONS = 3, 32, 3
SPEC = EnvSpec("alike", ("a_0", "a_1", "a_2"), (3,) * N, (Discrete(ACTIONS),) * N, 5)
CONFIG = MAMTConfig(**SMALL, policy_gradient="expected", reward_normalisation="none", policy_learning_rate=1e-2, epsilon=1.0)
PARTS = base.actor_critic(SPEC, CONFIG)
OWN = np.array([1.0, 0.5, 2.0], np.float32)
"""Value of an agent's own actions 0, 1 and 2."""


def batch_of(key: jax.Array) -> Batch:
    """A batch of which only observations are read."""
    nothing: Any = None
    return Batch(observations(SPEC, key, BATCH).swapaxes(0, 1), nothing, nothing, nothing, nothing)


def known_critic() -> Any:
    """A critic in which agents 0 and 2 win what their actions earn together, and agent 1 wins what its own one earns."""
    earns = jnp.asarray(OWN)

    def others(own: jax.Array, features: jax.Array) -> jax.Array:
        """Adds to Q of each agent's candidates (n, B, K) what the actions of the other agents earn for it."""
        earned = features @ earns
        return own + jnp.stack([earned[2], jnp.zeros_like(earned[1]), earned[0]])[..., None]

    def values(params: Any, observation: jax.Array, features: jax.Array, candidates: jax.Array) -> CriticOutput:
        nothing: Any = None
        return CriticOutput(others(earns[candidates], features), nothing, nothing)

    def swapped(params: Any, observation: Any, action: jax.Array, features: jax.Array, candidates: jax.Array) -> jax.Array:
        one_hot = jax.nn.one_hot(candidates, ACTIONS)
        own = earns[action][..., None]
        q = []
        for j in range(N):
            joint = jnp.broadcast_to(features[:, :, None], (*features.shape[:2], ACTIONS, ACTIONS)).at[j].set(one_hot[j])
            earned = joint @ earns
            q.append(own + jnp.stack([earned[2], jnp.zeros_like(earned[1]), earned[0]]))
        return jnp.stack(q, 1)

    return PARTS.critic._replace(values=values, swapped_values=swapped)


def test_influence_equals_that_of_whole_critics() -> None:
    @jax.jit
    def measured(key: jax.Array) -> Any:
        init_key, batch_key, measure_key = jax.random.split(key, 3)
        learner, batch = base.init(base.actor_critic, SPEC, CONFIG, init_key), batch_of(batch_key)
        return learner.critic, batch, regions.measure(SPEC, CONFIG, PARTS, learner, batch, measure_key)

    critic, batch, found = measured(jax.random.key(0))
    drawn, action = np.asarray(found.joint.candidates.drawn), np.arange(ACTIONS, dtype=np.int32)

    @jax.jit
    @jax.vmap
    def values(joint: jax.Array) -> jax.Array:
        every = jnp.broadcast_to(jnp.arange(ACTIONS), (N, BATCH, ACTIONS))
        return PARTS.critic.values(critic, batch.observation, PARTS.distribution.features(joint), every).q

    joint = np.broadcast_to(drawn, (N, ACTIONS, N, BATCH)).copy()  # [j, a]: the joint action in which agent j takes a
    for j in range(N):
        joint[j, :, j] = action[:, None]
    q = np.asarray(values(joint.reshape(-1, N, BATCH))).reshape(N, ACTIONS, N, BATCH, ACTIONS)
    q = np.take_along_axis(q, joint[..., None], -1)[..., 0]  # Q_i of the joint action, (j, a, i, B)
    np.testing.assert_allclose(found.total_q, q.sum(2).transpose(0, 2, 1), rtol=1e-4, atol=1e-5)
    variance = q.var(1).swapaxes(0, 1)
    ratio = variance / np.diagonal(variance).mean(0)[:, None, None] * ~np.eye(N, dtype=bool)[..., None]
    np.testing.assert_allclose(found.ratio, ratio, rtol=1e-3, atol=1e-5)


def test_slopes_of_a_mirror_step_are_those_of_its_value_and_divergence() -> None:
    rng = np.random.default_rng(0)
    logits, q, value = jnp.asarray(rng.normal(size=(3, 2, 4, 5)), jnp.float32)
    old, log_epsilon = jax.nn.log_softmax(logits), jnp.log(jnp.array([0.5, 2.0]))

    def after(log_epsilon: jax.Array) -> tuple[jax.Array, jax.Array]:
        probability = mirror_step(old, q, jnp.exp(log_epsilon))
        return (probability * value).sum(-1), (probability * (jnp.log(probability) - old)).sum(-1)

    @jax.jit
    def run(log_epsilon: jax.Array) -> Any:
        epsilon = jnp.exp(log_epsilon)
        probability = mirror_step(old, q, epsilon)
        slopes = value_slope(probability, q, value, epsilon), divergence_slope(probability, q, epsilon)
        return slopes, jax.jvp(after, (log_epsilon,), (jnp.ones_like(log_epsilon),))[1], mirror_step(old, q, jnp.zeros(2))

    slopes, expected, unmoved = run(log_epsilon)
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(unmoved, jnp.exp(old), rtol=1e-5)


@pytest.mark.parametrize("agent", range(N))
def test_an_exact_mirror_step_gains_what_a_hundred_policy_steps_gain(agent: int) -> None:
    """The difference between two sizes in the value of all agents, by real policy steps and by the exact step."""
    parts, natural = PARTS._replace(critic=known_critic()), dataclasses.replace(CONFIG, tsallis_q=1.0)

    @jax.jit
    def run(key: jax.Array) -> Any:
        init_key, batch_key, measure_key = jax.random.split(key, 3)
        start, batch = base.init(base.actor_critic, SPEC, CONFIG, init_key), batch_of(batch_key)
        measured = regions.measure(SPEC, CONFIG, parts, start, batch, measure_key)

        def value(epsilon: jax.Array) -> jax.Array:
            """Value of all agents after policy steps of `agent` near the old policy."""
            sizes = jnp.full(N, 1e-2).at[agent].set(epsilon)

            def step(learner: base.ActorCriticState, key: jax.Array) -> Any:
                joint = base.evaluate_policies(parts, learner, batch.observation, key)
                regulariser = trust_region(natural, sizes)
                policy, optimizer, _ = base.policy_step(natural, parts, learner, batch, joint, regulariser)
                return dataclasses.replace(learner, policy=policy, policy_optimizer=optimizer), None

            learner, _ = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 100))
            after = parts.policy.apply(learner.policy, batch.observation)
            return (jax.nn.softmax(after)[agent] * measured.total_q[agent]).sum(-1).mean()

        def exact(epsilon: jax.Array) -> jax.Array:
            old = regions.old_log_probability(measured.joint.candidates, measured.joint.old_log_prob)
            return (mirror_step(old, measured.joint.q, jnp.full(N, epsilon)) * measured.total_q).sum(-1).mean(1)[agent]

        sizes = jnp.array([0.2, 0.4])
        return jax.vmap(value)(sizes), jax.vmap(exact)(sizes)

    real, exact = run(jax.random.key(2))
    np.testing.assert_allclose(real[1] - real[0], exact[1] - exact[0], rtol=0.05)


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_unlike_agents_that_end_are_measured_only_while_they_act(spec: EnvSpec) -> None:
    parts, trust_regions = base.actor_critic(spec, CONFIG), regions.dependence(spec, CONFIG)

    @jax.jit
    def update(key: jax.Array) -> Any:
        init_key, batch_key, update_key = jax.random.split(key, 3)
        learner = base.init(base.actor_critic, spec, CONFIG, init_key)
        batch = probe_batch(spec, batch_key, BATCH)
        active = jnp.ones((BATCH, N), bool).at[:, 1].set(False)
        prepared = base.prepare(CONFIG, learner, batch._replace(active=active))
        return trust_regions.update(parts, learner, trust_regions.init(jax.random.key(0)), prepared, update_key)

    state, metrics = update(jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    coefficients = np.asarray(metrics["coordination_mean"])
    assert not coefficients[1].any() and not coefficients[:, 1].any()
    assert metrics["value_gradient"][1] == metrics["cost_gradient"][1] == 0 < metrics["value_gradient"][0]


def test_agents_on_whom_nobody_depends_become_free_and_the_others_are_constrained() -> None:
    parts = PARTS._replace(critic=known_critic())

    @jax.jit
    def learn(key: jax.Array) -> Any:
        init_key, batch_key, keys = jax.random.split(key, 3)
        learner, batch = base.init(base.actor_critic, SPEC, CONFIG, init_key), batch_of(batch_key)
        trust_regions = regions.dependence(SPEC, CONFIG)

        def step(state: Any, key: jax.Array) -> Any:
            return trust_regions.update(parts, learner, state, batch, key)

        state = trust_regions.init(jax.random.key(0))
        state, metrics = jax.lax.scan(step, state, jax.random.split(keys, 200))
        return jnp.exp(state.log_epsilon), jax.tree.map(lambda metric: metric[-1], metrics)

    epsilon, metrics = learn(jax.random.key(0))
    np.testing.assert_array_equal(metrics["coordination_mean"] > 0, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    assert epsilon[1] > 5 * max(epsilon[0], epsilon[2])


def test_the_multiplier_moves_the_joint_divergence_towards_its_target() -> None:
    @jax.jit
    def step(key: jax.Array, target: jax.Array) -> Any:
        init_key, other_key, batch_key, update_key = jax.random.split(key, 4)
        learner, other = (base.init(base.actor_critic, SPEC, CONFIG, each) for each in (init_key, other_key))
        learner = dataclasses.replace(learner, old_policy=other.policy)
        trust_regions = regions.dependence(SPEC, dataclasses.replace(CONFIG, target_divergence=target))
        state = trust_regions.init(jax.random.key(0))
        parts = PARTS._replace(critic=known_critic())
        after, metrics = trust_regions.update(parts, learner, state, batch_of(batch_key), update_key)
        return metrics["joint_divergence"], after.log_multiplier - state.log_multiplier

    divergence, _ = step(jax.random.key(0), 1.0)
    assert divergence > 0
    assert step(jax.random.key(0), divergence / 2)[1] > 0 > step(jax.random.key(0), divergence * 2)[1]
