"""Losses and returns by hand or brute force; LOLA on the iterated prisoner's dilemma by its exact value."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamt_jax.losses.actor import clipped_policy_loss
from mamt_jax.losses.coordination import (
    coordination_coefficients,
    dependence_coefficients,
    influence,
    relative_influence,
)
from mamt_jax.losses.critic import clipped_value_loss
from mamt_jax.losses.lookahead import dice_value, lookahead_value
from mamt_jax.losses.opponent_model import non_stationarity
from mamt_jax.losses.trust_region import decomposition_loss
from mamt_jax.returns import generalised_advantage, n_step_return
from mamt_jax.types import LaterRewards

GAMMA = 0.96
REWARD = np.array([-1.0, -3.0, 0.0, -2.0], np.float32)  # after CC, CD, DC, DD, one's own action first
START, CC, CD, DC, DD = range(5)
SWAPPED = np.array([START, CC, DC, CD, DD])  # the same states in the other's eyes


def test_advantage_is_the_sum_of_discounted_errors_to_the_episodes_end() -> None:
    steps, envs = 12, 4
    rng = np.random.default_rng(0)
    reward, value, next_value = rng.normal(size=(3, steps, envs))
    terminated, truncated = rng.random((2, steps, envs)) < 0.2
    gamma, gae_lambda = 0.9, 0.7
    delta = reward + gamma * next_value * ~terminated - value
    expected = np.zeros((steps, envs))
    for env in range(envs):
        for start in range(steps):
            for step in range(start, steps):
                expected[start, env] += (gamma * gae_lambda) ** (step - start) * delta[step, env]
                if terminated[step, env] or truncated[step, env]:
                    break
    advantage = jax.jit(generalised_advantage)(reward, value, next_value, terminated, truncated, gamma, gae_lambda)
    np.testing.assert_allclose(advantage, expected, atol=1e-5)


def test_clipped_losses_by_hand_and_no_nan_where_a_policy_moved_far() -> None:
    ratio, advantage = np.array([[1.5, 0.5, 1.5, 0.5, 1.1]]), np.array([[1.0, 1.0, -1.0, -1.0, 2.0]])
    loss = jax.jit(clipped_policy_loss)(np.log(ratio), np.zeros((1, 5)), advantage, 0.2)
    np.testing.assert_allclose(loss, [-(1.2 + 0.5 - 1.5 - 0.8 + 2.2) / 5], rtol=1e-6)
    value, old, target = np.array([[1.0, 0.1, 1.0]]), np.zeros((1, 3)), np.array([[1.0, 1.0, -1.0]])
    expected = [0.5 * (0.8**2 + 0.9**2 + 2.0**2) / 3]
    np.testing.assert_allclose(jax.jit(clipped_value_loss)(value, old, target, 0.2), expected, rtol=1e-6)

    @jax.grad
    def slope(log_prob: jax.Array) -> jax.Array:
        return clipped_policy_loss(log_prob, jnp.zeros((1, 2)), jnp.array([[1.0, -1.0]]), 0.2).sum()

    np.testing.assert_array_equal(jax.jit(slope)(jnp.array([[500.0, -500.0]])), 0.0)


def test_coordination_threshold_drops_weak_dependence() -> None:
    marginal = np.array([[[9.0], [2.0], [0.0]], [[0.0], [9.0], [0.0]], [[0.0], [0.0], [9.0]]], np.float32)
    coefficients = jax.jit(coordination_coefficients)(marginal, np.zeros((3, 1), np.float32), 0.2)[..., 0]
    strong = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(coefficients, [[0, strong, 0], [0.5, 0, 0.5], [0.5, 0.5, 0]], rtol=1e-5)


def test_influence_is_the_variance_over_possible_actions_and_dependence_its_share() -> None:
    q = np.array([[[0.0, 2.0, 0.0], [1.0, 4.0, 1.0]], [[3.0, 3.0, 3.0], [0.0, 0.0, 6.0]]], np.float32)[:, :, None]
    possible = np.array([[[True, True, False]], [[True, True, True]]])
    variance = jax.jit(influence)(q, possible)
    np.testing.assert_allclose(variance[..., 0], [[1.0, 2.0], [0.0, 8.0]], rtol=1e-6)
    two_rows = jnp.concatenate([variance, variance.at[0, 0].set(3.0)], -1)  # the mean influence of agent 0 on itself is 2
    ratio = jax.jit(relative_influence)(two_rows)
    np.testing.assert_allclose(ratio[0, 1], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(ratio[[0, 1, 1], [0, 0, 1]], 0.0)
    np.testing.assert_allclose(dependence_coefficients(ratio, 0.4)[0, 1], 0.5, rtol=1e-6)
    np.testing.assert_array_equal(dependence_coefficients(ratio, 0.6), 0.0)
    active = jnp.array([[True, True], [True, False]])
    np.testing.assert_array_equal(np.asarray(relative_influence(two_rows, active))[0, 1] > 0, [True, False])


def test_non_stationarity_and_decomposition_loss_by_hand() -> None:
    coordination = jnp.array([[[0.0], [0.6], [0.4]], [[1.0], [0.0], [0.0]], [[0.0], [0.0], [0.0]]])
    divergence = jnp.array([[[7.0], [2.0], [3.0]], [[9.0], [7.0], [1.0]], [[4.0], [4.0], [7.0]]])
    ours = non_stationarity(coordination, divergence, 5.0)
    np.testing.assert_allclose(ours[:, 0], [2.4, 5.0, 0.0], rtol=1e-6)
    assert float(decomposition_loss(jnp.array([[1.0], [1.0], [1.0]]), ours)) == pytest.approx(4.4**2)


def joint_policy(own: jax.Array, other: jax.Array) -> jax.Array:
    """(5, 4): probabilities of CC, CD, DC, DD in each state, from logits of cooperating (5,)."""
    p, q = jax.nn.sigmoid(own), jax.nn.sigmoid(other)[SWAPPED]
    return jnp.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], -1)


def exact_value(own: jax.Array, other: jax.Array) -> jax.Array:
    """The discounted return of endless play."""
    joint = joint_policy(own, other)
    return joint[START] @ jnp.linalg.solve(jnp.eye(4) - GAMMA * joint[CC:], jnp.asarray(REWARD))


@jax.jit
@jax.vmap
def learn(key: jax.Array, lookahead: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both climb from near-uniform policies, each looking ahead at the other; returns a step (2,), cooperation (2, 5)."""

    def both(theta: jax.Array, _: jax.Array) -> tuple[jax.Array, None]:
        def ahead(own: jax.Array, other: jax.Array) -> jax.Array:
            return lookahead_value(exact_value, exact_value, own, other, lookahead)

        return theta + 0.2 * jax.vmap(jax.grad(ahead))(theta, theta[::-1]), None

    theta, _ = jax.lax.scan(both, 0.1 * jax.random.normal(key, (2, 5)), None, 1000)
    return (1 - GAMMA) * jax.vmap(exact_value)(theta, theta[::-1]), jax.nn.sigmoid(theta)


def test_lola_finds_reciprocity_where_naive_learners_defect() -> None:
    lookahead = jnp.repeat(jnp.array([0.3, 0.0]), 10)
    played = learn(jax.random.split(jax.random.key(0), 20), lookahead)
    (value, naive_value), (cooperation, naive_cooperation) = (np.reshape(x, (2, 10, *x.shape[1:])) for x in played)
    np.testing.assert_allclose(naive_value, -2.0, atol=0.02)  # both always defect
    assert (naive_cooperation[..., [START, DD]] < 0.2).all()
    assert value.mean() > -1.3  # tit for tat has -1
    after_their_cooperation, after_their_defection = cooperation[..., [CC, DC]], cooperation[..., [CD, DD]]
    assert after_their_cooperation.mean() > after_their_defection.mean() + 0.2 and cooperation[..., CC].mean() > 0.9


def test_lookahead_gradient_by_finite_differences() -> None:
    own, other = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)

    def ahead(own: jax.Array) -> jax.Array:
        return lookahead_value(exact_value, exact_value, own, other, 0.5)

    gradient, naive = jax.jit(lambda own: (jax.grad(ahead)(own), jax.grad(exact_value)(own, other)))(own)
    offsets = 1e-2 * np.eye(5, dtype=np.float32)
    up, down = jax.jit(jax.vmap(ahead))(own + np.stack([offsets, -offsets]).reshape(10, 5)).reshape(2, 5)
    np.testing.assert_allclose(gradient, (up - down) / 2e-2, rtol=0.02, atol=0.02)
    assert np.abs(gradient - naive).max() > 0.1


def test_expected_derivatives_of_dice_are_those_of_the_value() -> None:
    random = np.random.default_rng(2)
    own, other = random.normal(size=(2, 5)).astype(np.float32)
    plays = np.array(list(itertools.product(range(4), repeat=3)))  # (64, 3): all games of three steps
    states = np.concatenate([np.full((64, 1), START), plays[:, :-1] + 1], 1)
    baseline: Any = random.normal(size=5).astype(np.float32)[states]  # any function of the state is right

    def log_probs(own: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.log(joint_policy(own, other))[states, plays]

    def value(own: jax.Array, other: jax.Array) -> jax.Array:
        discounted = (REWARD[plays] * GAMMA ** np.arange(3)).sum(1)
        return (jnp.exp(log_probs(own, other).sum(1)) * discounted).sum()

    def estimate(own: jax.Array, other: jax.Array) -> jax.Array:
        weight = jax.lax.stop_gradient(jnp.exp(log_probs(own, other).sum(1)))

        def each(log_prob: jax.Array, reward: jax.Array, baseline: jax.Array) -> jax.Array:
            column = [x[:, None] for x in (log_prob, reward, baseline)]
            return dice_value(*column, done=jnp.zeros((3, 1), bool), gamma=GAMMA)

        rewards: Any = REWARD[plays]
        return (weight * jax.vmap(each)(log_probs(own, other), rewards, baseline)).sum()

    def derivatives(function: Any) -> Any:
        of = (lambda f: f, jax.grad, lambda f: jax.jacobian(jax.grad(f), 1), jax.hessian)
        return jax.jit(lambda own, other: [each(function)(own, other) for each in of])(own, other)

    for ours, expected in zip(derivatives(estimate), derivatives(value), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_dice_begins_anew_after_an_episodes_end() -> None:
    log_prob, reward, baseline = np.random.default_rng(4).normal(size=(3, 6, 1)).astype(np.float32)
    done = np.zeros((6, 1), bool)
    done[2] = True

    @jax.jit
    def gradient(log_prob: jax.Array, reward: jax.Array, baseline: jax.Array, done: jax.Array) -> jax.Array:
        return jax.grad(lambda log_prob: dice_value(log_prob, reward, baseline, done, GAMMA))(log_prob)

    whole, first, second = (
        gradient(log_prob[rows], reward[rows], baseline[rows], done[rows]) for rows in (slice(0, 6), slice(0, 3), slice(3, 6))
    )
    np.testing.assert_allclose(whole, np.concatenate([first, second]), rtol=1e-5)


def test_returns_of_several_steps_by_hand() -> None:
    reward, gamma = jnp.array([[1.0, 2.0]]), jnp.float32(0.5)
    later = LaterRewards(jnp.array([[[4.0, 8.0], [4.0, jnp.nan]]]), jnp.array([[[True, True], [True, False]]]))
    earned, discount = n_step_return(reward, later, gamma)
    np.testing.assert_allclose(earned, [[1 + 0.5 * 4 + 0.25 * 8, 2 + 0.5 * 4]])
    np.testing.assert_allclose(discount, [[0.125, 0.25]])
    assert all(a is b for a, b in zip(n_step_return(reward, None, gamma), (reward, gamma), strict=True))
