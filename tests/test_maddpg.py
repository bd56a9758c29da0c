"""MADDPG's own parts: actions that gradients flow through, central critics, and whose gradient goes where."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unlike_agents import CONTINUOUS, DISCRETE, observations, probe_batch

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import maddpg
from mamt_jax.networks.centralized_critic import joint_critic
from mamt_jax.reparameterized_actions import noisy_tanh, straight_through

LOGITS = jnp.array([[1.0, -0.5, 0.3], [0.2, 0.9, 7.0], [-1.0, 0.0, 1.0]])[:, None]  # agent 1 has two actions


def test_straight_through_samples_are_the_policys_and_never_a_missing_action():
    draw = jax.vmap(straight_through(DISCRETE, 0.5).relaxed, (None, 0))
    samples = draw(LOGITS, jax.random.split(jax.random.key(0), 20_000))[:, :, 0]
    np.testing.assert_allclose(samples, np.round(samples), atol=1e-6)
    np.testing.assert_allclose(samples.sum(-1), 1.0, atol=1e-6)
    for agent, size in enumerate(DISCRETE.action_sizes):
        expected = np.zeros(3)
        expected[:size] = jax.nn.softmax(LOGITS[agent, 0, :size])
        np.testing.assert_allclose(samples[:, agent].mean(0), expected, atol=0.012)


def test_straight_through_gradient_is_the_soft_samples():
    worth, temperature = jnp.array([0.3, -1.0, 2.0]), 0.5

    def soft(logits: jax.Array) -> jax.Array:
        noisy = jnp.where(DISCRETE.action_mask[:, None], logits + jax.random.gumbel(jax.random.key(3), logits.shape), -jnp.inf)
        return (jax.nn.softmax(noisy / temperature) * worth[None, None]).sum()

    def hard(logits: jax.Array) -> jax.Array:
        return (straight_through(DISCRETE, temperature).relaxed(logits, jax.random.key(3)) * worth[None, None]).sum()

    gradient = jax.grad(hard)(LOGITS)
    np.testing.assert_allclose(gradient, jax.grad(soft)(LOGITS), atol=1e-6)
    assert np.abs(gradient).max() > 0.01 and gradient[1, 0, 2] == 0


def test_noisy_tanh_explores_within_the_box_around_its_greedy_action():
    actions, latent = noisy_tanh(CONTINUOUS, 0.1), jnp.array([[0.5, -3.0], [0.0, 9.0], [-0.2, 0.4]])[:, None]
    greedy = actions.greedy(latent)[:, 0]
    drawn = jax.vmap(actions.explore, (None, 0))(latent, jax.random.split(jax.random.key(0), 5000))[:, :, 0]
    np.testing.assert_allclose(greedy, [[np.tanh(0.5), np.tanh(-3.0)], [0, 0], [*(np.tanh([-0.2, 0.4]) + 1) / 2]], atol=1e-6)
    np.testing.assert_allclose(drawn[:, [0, 1, 2], 0].std(0), [0.1, 0.1, 0.05], rtol=0.05)
    assert drawn[:, 0].min() >= -1 and drawn[:, 2].min() >= 0 and not drawn[:, 1, 1].any()


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_kl_and_entropy_are_those_of_the_exploring_policies(spec: EnvSpec):
    actions = straight_through(spec, 1.0) if spec.discrete else noisy_tanh(spec, 0.1)
    one, other = LOGITS[..., : spec.action_size], -LOGITS[..., : spec.action_size]
    if spec.discrete:
        p, q = jax.nn.softmax(one[1, 0, :2]), jax.nn.softmax(other[1, 0, :2])
        expected = (p * jnp.log(p / q)).sum(), -(p * jnp.log(p)).sum()
    else:
        shift = (jnp.tanh(one) - jnp.tanh(other))[1, 0, 0]
        expected = shift**2 / (2 * 0.1**2), 0.5 * np.log(2 * np.pi * np.e * 0.1**2)
    np.testing.assert_allclose((actions.kl(one, other)[1, 0], actions.entropy(one)[1, 0]), expected, rtol=1e-5)


def test_critics_see_every_true_observation_and_action_and_no_padding():
    critic = joint_critic(DISCRETE, 8, actions=True)
    params = jax.tree.map(lambda leaf: leaf[1], critic.init(jax.random.key(0)))
    inputs = (jnp.ones((3, 1, 4)), jnp.ones((3, 1, 3)))
    seen = jax.grad(lambda inputs: critic.apply(params, *inputs).sum())(inputs)
    np.testing.assert_array_equal(seen[0][:, 0] != 0, DISCRETE.observation_mask)
    np.testing.assert_array_equal(seen[1][:, 0] != 0, DISCRETE.action_mask)


def test_policy_gradient_is_each_agents_own_critic_by_finite_differences():
    config = maddpg.MADDPGConfig(hidden_size=8)
    learner = maddpg.init(CONTINUOUS, config, jax.random.key(0))
    parts = maddpg.build(CONTINUOUS, config)
    sgd = parts._replace(policy_optimizer=maddpg.optimizers.per_agent(maddpg.optax.sgd(1.0)))
    learner = dataclasses.replace(learner, policy_optimizer=sgd.policy_optimizer.init(learner.policy))
    batch = maddpg.agent_major.prepare(
        learner.observation_statistics, learner.reward_statistics, "none", probe_batch(CONTINUOUS, jax.random.key(1), 16)
    )
    moved, _, _ = maddpg.policy_step(CONTINUOUS, config, sgd, learner, batch, jax.random.key(2))
    direction = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), learner.policy)

    def objective(agent: int, size: float) -> float:
        """Minus agent's loss, its own policy moved alone, the others' actions as replayed."""
        policy = jax.tree.map(lambda leaf, step: leaf + size * step, learner.policy, direction)
        parameters = parts.policy.apply(policy, batch.observation)
        joint = parts.actions.features(batch.action).at[agent].set(parts.actions.greedy(parameters)[agent])
        q = parts.critic.apply(jax.tree.map(lambda leaf: leaf[agent], learner.critic), batch.observation, joint)
        return float((q - 1e-3 * parts.actions.squared_norm(parameters)[agent]).mean())

    for agent in range(3):
        slope = (objective(agent, 1e-3) - objective(agent, -1e-3)) / 2e-3
        along = jax.tree.map(lambda new, old, step: ((new - old) * step)[agent].sum(), moved, learner.policy, direction)  # noqa: B023
        np.testing.assert_allclose(sum(jax.tree.leaves(along)), slope, rtol=0.02, atol=4e-5)


def test_terminated_episodes_do_not_bootstrap():
    config = maddpg.MADDPGConfig(hidden_size=8, reward_normalisation="none")
    learner = maddpg.init(DISCRETE, config, jax.random.key(0))
    batch = probe_batch(DISCRETE, jax.random.key(1), 32)
    other = batch._replace(next_observation=observations(DISCRETE, jax.random.key(9), 32))
    loss, same = (maddpg.update(DISCRETE, config, learner, b, jax.random.key(2))[1]["critic_loss"] for b in (batch, other))
    running = other._replace(terminated=jnp.zeros_like(batch.terminated))
    different = maddpg.update(DISCRETE, config, learner, running, jax.random.key(2))[1]["critic_loss"]
    assert loss == same and loss != different
