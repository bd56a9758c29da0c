"""MA-PPO's equations against brute force, and what its update may not confuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from unlike_agents import DISCRETE, observations, probe_batch

from mamt_jax.algorithms import mappo, on_policy
from mamt_jax.algorithms.on_policy import OnPolicyState
from mamt_jax.losses.actor import clipped_policy_loss
from mamt_jax.losses.critic import clipped_value_loss
from mamt_jax.returns import generalised_advantage
from mamt_jax.types import Trajectory

STEPS, ENVS = 12, 4
CONFIG = mappo.MAPPOConfig(hidden_size=8, reward_normalisation="none")


def test_advantage_is_the_sum_of_discounted_errors_to_the_episodes_end():
    rng = np.random.default_rng(0)
    reward, value, next_value = rng.normal(size=(3, STEPS, ENVS))
    terminated, truncated = rng.random((2, STEPS, ENVS)) < 0.2
    gamma, gae_lambda = 0.9, 0.7
    delta = reward + gamma * next_value * ~terminated - value
    expected = np.zeros((STEPS, ENVS))
    for env in range(ENVS):
        for start in range(STEPS):
            for step in range(start, STEPS):
                expected[start, env] += (gamma * gae_lambda) ** (step - start) * delta[step, env]
                if terminated[step, env] or truncated[step, env]:
                    break
    advantage = generalised_advantage(
        *map(jnp.array, (reward, value, next_value, terminated, truncated)), gamma=gamma, gae_lambda=gae_lambda
    )
    np.testing.assert_allclose(advantage, expected, atol=1e-5)


def test_clipped_losses_by_hand():
    ratio, advantage = jnp.array([[1.5, 0.5, 1.5, 0.5, 1.1]]), jnp.array([[1.0, 1.0, -1.0, -1.0, 2.0]])
    loss = clipped_policy_loss(jnp.log(ratio), jnp.zeros((1, 5)), advantage, 0.2)
    np.testing.assert_allclose(loss, [-(1.2 + 0.5 - 1.5 - 0.8 + 2.2) / 5], rtol=1e-6)
    value, old, target = jnp.array([[1.0, 0.1, 1.0]]), jnp.zeros((1, 3)), jnp.array([[1.0, 1.0, -1.0]])
    np.testing.assert_allclose(clipped_value_loss(value, old, target, 0.2), [0.5 * (0.8**2 + 0.9**2 + 2.0**2) / 3], rtol=1e-6)


def test_a_policy_that_moved_far_gets_no_gradient_of_nan():
    log_prob = jnp.array([[500.0, -500.0]])
    gradient = jax.grad(lambda new: clipped_policy_loss(new, jnp.zeros((1, 2)), jnp.array([[1.0, -1.0]]), 0.2).sum())(log_prob)
    np.testing.assert_array_equal(gradient, 0.0)


def rollout_of(learner: OnPolicyState, truncated: jax.Array) -> Trajectory:
    def act(observation: jax.Array, key: jax.Array) -> jax.Array:
        return on_policy.act(DISCRETE, CONFIG, learner, observation, key)

    batch = probe_batch(DISCRETE, jax.random.key(1), STEPS * ENVS, act)
    batch = batch._replace(terminated=jnp.zeros_like(batch.terminated))
    return Trajectory(jax.tree.map(lambda leaf: leaf.reshape(STEPS, ENVS, *leaf.shape[1:]), batch), truncated)


def test_rows_keep_time_environment_and_agent_apart():
    learner = on_policy.init(DISCRETE, CONFIG, jax.random.key(0))
    truncated = jax.random.bernoulli(jax.random.key(2), 0.3, (STEPS, ENVS))
    trajectory = rollout_of(learner, truncated)
    parts = on_policy.build(DISCRETE, CONFIG)
    rows = mappo.value_rollout(CONFIG, parts, learner, trajectory)
    for env in range(ENVS):
        alone = jax.tree.map(lambda leaf, env=env: leaf[:, env, None], trajectory)
        own = mappo.value_rollout(CONFIG, parts, learner, alone)
        together = jax.tree.map(lambda leaf, env=env: leaf.reshape(3, STEPS, ENVS, *leaf.shape[2:])[:, :, env], rows)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, own)


def test_truncation_bootstraps_from_the_true_successor():
    learner = on_policy.init(DISCRETE, CONFIG, jax.random.key(0))
    trajectory = rollout_of(learner, jnp.zeros((STEPS, ENVS), bool).at[5].set(True))
    successor = trajectory.transitions.next_observation.at[5].set(observations(DISCRETE, jax.random.key(3), ENVS))
    moved = trajectory._replace(transitions=trajectory.transitions._replace(next_observation=successor))
    data = (trajectory, moved)
    loss, other = (mappo.update(DISCRETE, CONFIG, learner, each, jax.random.key(4))[1]["critic_loss"] for each in data)
    assert loss != other


def test_each_agents_step_is_its_own():
    learner = on_policy.init(DISCRETE, CONFIG, jax.random.key(0))
    trajectory = rollout_of(learner, jnp.zeros((STEPS, ENVS), bool))
    reward = trajectory.transitions.reward.at[..., 0].multiply(-3.0)
    changed = trajectory._replace(transitions=trajectory.transitions._replace(reward=reward))
    one, two = (mappo.update(DISCRETE, CONFIG, learner, data, jax.random.key(4))[0].policy for data in (trajectory, changed))
    same = [jax.tree.map(lambda a, b, agent=agent: np.allclose(a[agent], b[agent], atol=1e-6), one, two) for agent in range(3)]
    assert [all(jax.tree.leaves(each)) for each in same] == [False, True, True]


def test_learning_rates_fall_to_nothing_over_the_horizon():
    config = dataclasses.replace(CONFIG, anneal_horizon=2, num_epochs=1, num_minibatches=2)
    learner = on_policy.init(DISCRETE, config, jax.random.key(0))
    trajectory, moves = rollout_of(learner, jnp.zeros((STEPS, ENVS), bool)), []
    for number in range(3):
        before = learner.policy
        learner, _ = mappo.update(DISCRETE, config, learner, trajectory, jax.random.key(number))
        change = jax.tree.map(lambda new, old: jnp.abs(new - old).max(), learner.policy, before)
        moves.append(max(jax.tree.leaves(change)))
    rate = config.policy_learning_rate  # Adam's first steps are of its rate, times 1 and 3/4, then 1/2 and 1/4
    assert 1.2 * rate < moves[0] <= 1.75 * rate * 1.01 and 0 < moves[1] <= 0.75 * rate * 1.3 and moves[2] == 0
