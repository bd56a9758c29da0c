"""Categorical and tanh-Gaussian policies against their definitions, and their reparameterized samples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unlike_agents import CONTINUOUS, DISCRETE

from envs_jax.environment import Box, EnvSpec
from mamt_jax.distributions import categorical, entropy, tanh_gaussian, tsallis_log
from mamt_jax.reparameterized_actions import noisy_tanh, straight_through

NUM_ACTIONS = (3, 2)
LOGITS: Any = np.array([[1.0, -0.5, 0.3], [0.2, 0.9, 7.0], [-1.0, 0.0, 1.0]], np.float32)[:, None]  # agent 1 has two actions


def test_categorical_agrees_with_its_definition() -> None:
    logits: Any = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    other = logits[:, ::-1]
    distribution = categorical(NUM_ACTIONS)

    @jax.jit
    def run(key: jax.Array) -> tuple:
        candidates = distribution.candidates(logits, key)
        return candidates, distribution.kl(logits, other), entropy(candidates), distribution.squared_norm(logits)

    candidates, kl, entropies, squared_norm = run(jax.random.key(0))
    for agent, size in enumerate(NUM_ACTIONS):
        p, p_other = (np.exp(x[agent, :, :size]) for x in (logits, other))
        p, p_other = p / p.sum(-1, keepdims=True), p_other / p_other.sum(-1, keepdims=True)
        np.testing.assert_allclose(candidates.probability[agent, :, :size], p, rtol=1e-5)
        assert not candidates.probability[agent, :, size:].any()
        np.testing.assert_allclose(kl[agent], (p * np.log(p / p_other)).sum(-1), atol=1e-6)
        np.testing.assert_allclose(entropies[agent], -(p * np.log(p)).sum(-1), atol=1e-6)
        np.testing.assert_allclose(squared_norm[agent], np.square(logits[agent, :, :size]).mean(-1), rtol=1e-5)


def test_actions_an_agent_lacks_are_never_taken_and_get_no_gradient() -> None:
    logits = np.zeros((2, 400, 3), np.float32)
    logits[1, :, 2] = 50.0
    distribution = categorical(NUM_ACTIONS)

    @jax.jit
    def run(logits: jax.Array) -> tuple:
        action = distribution.sample(logits, jax.random.key(0))
        gradient = jax.grad(lambda x: distribution.log_prob(x, action).sum() + distribution.kl(x, x + 1.0).sum())(logits)
        return action, distribution.mode(logits), gradient

    action, mode, gradient = run(logits)
    assert set(np.unique(action[0])) == {0, 1, 2} and set(np.unique(action[1])) == {0, 1}
    assert int(mode[1].max()) < 2
    assert not gradient[1, :, 2].any() and np.isfinite(gradient).all()


def test_alternatives_are_all_allowed_actions_or_uniform_whatever_the_policy() -> None:
    key, discrete = jax.random.key(0), categorical(NUM_ACTIONS)
    allowed = jnp.array([[[True, False, True]], [[True, True, False]]])
    every = discrete.alternatives(discrete.restrict(jnp.full((2, 1, 3), 50.0), allowed), key)
    np.testing.assert_array_equal(every.action, np.broadcast_to(np.arange(3), (2, 1, 3)))
    np.testing.assert_array_equal(every.possible, allowed)
    continuous = tanh_gaussian((Box(1, -2.0, 4.0), Box(2)), num_samples=4000)
    uniform = jax.jit(continuous.alternatives)(jnp.full((2, 1, 4), 9.0), key)
    assert uniform.possible.all() and not uniform.action[0, ..., 1].any()
    spans = uniform.action[0, 0, :, 0], uniform.action[1, 0, :, 1]
    np.testing.assert_allclose([(x.min(), x.mean(), x.max()) for x in spans], [(-2, 1, 4), (-1, 0, 1)], atol=0.1)


def test_tanh_gaussian_density_is_that_of_its_samples() -> None:
    distribution = tanh_gaussian((Box(1, -2.0, 4.0),), num_samples=20_000)
    parameters = jnp.array([[[0.3, -0.5]]])
    edges = np.linspace(-2.0, 4.0, 3001)
    centres: Any = np.array((edges[:-1] + edges[1:]) / 2, np.float32)

    @jax.jit
    def run(key: jax.Array) -> tuple:
        candidates = distribution.candidates(parameters, key)
        same, repeated = (jnp.broadcast_to(parameters, (1, size, 2)) for size in (len(centres), 20_000))
        density = jnp.exp(distribution.log_prob(same, centres[None, :, None]))[0]
        again = distribution.candidate_log_prob(parameters, candidates)
        return candidates, density, again, distribution.log_prob(repeated, candidates.action[0])

    candidates, density, again, of_actions = jax.tree.map(np.asarray, run(jax.random.key(0)))
    assert density.sum() * (edges[1] - edges[0]) == pytest.approx(1.0, abs=1e-3)
    sampled = candidates.action[0, 0, :, 0]
    for bound in (-1.0, 1.0, 2.5):
        expected = density[centres < bound].sum() * (edges[1] - edges[0])
        assert (sampled < bound).mean() == pytest.approx(expected, abs=0.015)
    np.testing.assert_allclose(again, candidates.log_prob, rtol=1e-5)
    np.testing.assert_allclose(of_actions, candidates.log_prob[0], atol=2e-2)


def test_tanh_gaussian_density_stays_exact_where_tanh_saturates() -> None:
    draw = jax.jit(tanh_gaussian((Box(1),), num_samples=100).candidates)
    candidates = draw(jnp.array([[[20.0, -1.0]]]), jax.random.key(0))
    np.testing.assert_allclose(candidates.action, 1.0, atol=1e-6)
    latent = np.asarray(candidates.latent)[..., 0]
    normal = -0.5 * ((latent - 20.0) / np.exp(-1.0)) ** 2 + 1.0 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(candidates.log_prob, normal - 2 * (np.log(2) - latent), rtol=1e-3)


def test_tanh_gaussian_kl_is_that_of_samples_and_ignores_padding() -> None:
    distribution = tanh_gaussian((Box(2), Box(1)), num_samples=50_000)
    parameters = jnp.array([[[0.1, -0.3, -0.4, 0.2]], [[0.5, -1.0, 9.0, 9.0]]])
    other = jnp.array([[[0.4, 0.1, -0.2, 0.0]], [[0.2, -0.6, -9.0, -9.0]]])

    @jax.jit
    def run(key: jax.Array) -> tuple:
        candidates = distribution.candidates(parameters, key)
        estimate = (candidates.log_prob - distribution.candidate_log_prob(other, candidates)).mean(-1)
        return candidates.action, estimate, distribution.kl(parameters, other)

    action, estimate, kl = run(jax.random.key(1))
    np.testing.assert_allclose(kl, estimate, atol=0.02)
    assert not action[1, ..., 1].any()


@pytest.mark.parametrize("q", [0.2, 0.9, 2.0])
def test_tsallis_logarithm(q: float) -> None:
    probability = jnp.array([0.05, 0.4, 1.0])
    expected = (np.asarray(probability) ** (1 - q) - 1) / (1 - q)
    tsallis = jax.jit(tsallis_log)
    np.testing.assert_allclose(tsallis(jnp.log(probability), q), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tsallis(jnp.log(probability), 1.0), jnp.log(probability), rtol=1e-6)


def test_straight_through_samples_are_the_policys_and_their_gradient_the_soft_samples() -> None:
    worth, temperature = np.array([0.3, -1.0, 2.0], np.float32), 0.5
    draw = straight_through(DISCRETE, temperature).reparameterized

    def soft(logits: jax.Array) -> jax.Array:
        noisy = jnp.where(DISCRETE.action_mask[:, None], logits + jax.random.gumbel(jax.random.key(3), logits.shape), -jnp.inf)
        return (jax.nn.softmax(noisy / temperature) * worth[None, None]).sum()

    def hard(logits: jax.Array) -> jax.Array:
        return (draw(logits, jax.random.key(3)) * worth[None, None]).sum()

    @jax.jit
    def run(logits: jax.Array, key: jax.Array) -> tuple:
        samples = jax.vmap(draw, (None, 0))(logits, jax.random.split(key, 20_000))[:, :, 0]
        return samples, jax.grad(hard)(logits), jax.grad(soft)(logits)

    samples, gradient, expected = (np.asarray(each) for each in run(LOGITS, jax.random.key(0)))
    np.testing.assert_allclose(samples, np.round(samples), atol=1e-6)
    np.testing.assert_allclose(samples.sum(-1), 1.0, atol=1e-6)
    for agent, size in enumerate(DISCRETE.action_sizes):
        probability = np.zeros(3)
        probability[:size] = np.exp(LOGITS[agent, 0, :size]) / np.exp(LOGITS[agent, 0, :size]).sum()
        np.testing.assert_allclose(samples[:, agent].mean(0), probability, atol=0.012)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.abs(gradient).max() > 0.01 and gradient[1, 0, 2] == 0


def test_noisy_tanh_explores_within_the_box_around_its_greedy_action() -> None:
    actions = noisy_tanh(CONTINUOUS, 0.1)
    latent: Any = np.array([[0.5, -3.0], [0.0, 9.0], [-0.2, 0.4]], np.float32)[:, None]

    @jax.jit
    def run(key: jax.Array) -> tuple:
        return actions.mode(latent)[:, 0], jax.vmap(actions.sample, (None, 0))(latent, jax.random.split(key, 5000))[:, :, 0]

    mode, drawn = run(jax.random.key(0))
    np.testing.assert_allclose(mode, [[np.tanh(0.5), np.tanh(-3.0)], [0, 0], [*(np.tanh([-0.2, 0.4]) + 1) / 2]], atol=1e-6)
    drawn = np.asarray(drawn)
    np.testing.assert_allclose(drawn[:, [0, 1, 2], 0].std(0), [0.1, 0.1, 0.05], rtol=0.05)
    assert drawn[:, 0].min() >= -1 and drawn[:, 2].min() >= 0 and not drawn[:, 1, 1].any()


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_kl_and_entropy_are_those_of_the_exploring_policies(spec: EnvSpec) -> None:
    actions = straight_through(spec, 1.0) if spec.discrete else noisy_tanh(spec, 0.1)
    one, other = LOGITS[..., : spec.action_size], -LOGITS[..., : spec.action_size]
    if spec.discrete:
        p, q = (np.exp(x[1, 0, :2]) / np.exp(x[1, 0, :2]).sum() for x in (one, other))
        expected = (p * np.log(p / q)).sum(), -(p * np.log(p)).sum()
    else:
        shift = (np.tanh(one) - np.tanh(other))[1, 0, 0]
        expected = shift**2 / (2 * 0.1**2), 0.5 * np.log(2 * np.pi * np.e * 0.1**2)
    kl, entropies = jax.jit(lambda one, other: (actions.kl(one, other), actions.entropy(one)))(one, other)
    np.testing.assert_allclose((kl[1, 0], entropies[1, 0]), expected, rtol=1e-5)
