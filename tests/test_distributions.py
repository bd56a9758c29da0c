import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.environment import Box
from mamt_jax.distributions import categorical, entropy, tanh_gaussian, tsallis_log

NUM_ACTIONS = (3, 2)


def test_categorical_agrees_with_its_definition() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    other = logits[:, ::-1]
    distribution = categorical(NUM_ACTIONS)
    candidates = distribution.candidates(jnp.array(logits), jax.random.key(0))
    kl = distribution.kl(jnp.array(logits), jnp.array(other))
    for agent, size in enumerate(NUM_ACTIONS):
        p, p_other = (np.exp(x[agent, :, :size]) for x in (logits, other))
        p, p_other = p / p.sum(-1, keepdims=True), p_other / p_other.sum(-1, keepdims=True)
        np.testing.assert_allclose(candidates.probability[agent, :, :size], p, rtol=1e-5)
        assert not candidates.probability[agent, :, size:].any()
        np.testing.assert_allclose(kl[agent], (p * np.log(p / p_other)).sum(-1), atol=1e-6)
        np.testing.assert_allclose(entropy(candidates)[agent], -(p * np.log(p)).sum(-1), atol=1e-6)
        np.testing.assert_allclose(
            distribution.squared_norm(jnp.array(logits))[agent], np.square(logits[agent, :, :size]).mean(-1), rtol=1e-5
        )


def test_actions_an_agent_lacks_are_never_taken_and_get_no_gradient() -> None:
    logits = jnp.full((2, 400, 3), 0.0).at[1, :, 2].set(50.0)
    distribution = categorical(NUM_ACTIONS)
    action = distribution.sample(logits, jax.random.key(0))
    assert set(np.unique(action[0])) == {0, 1, 2} and set(np.unique(action[1])) == {0, 1}
    assert int(distribution.mode(logits)[1].max()) < 2
    gradient = jax.grad(lambda x: distribution.log_prob(x, action).sum() + distribution.kl(x, x + 1.0).sum())(logits)
    assert not gradient[1, :, 2].any() and np.isfinite(gradient).all()


def test_tanh_gaussian_density_is_that_of_its_samples() -> None:
    distribution = tanh_gaussian((Box(1, -2.0, 4.0),), num_samples=20_000)
    parameters = jnp.array([[[0.3, -0.5]]])
    candidates = distribution.candidates(parameters, jax.random.key(0))
    edges = np.linspace(-2.0, 4.0, 3001)
    centres = jnp.array((edges[:-1] + edges[1:]) / 2, jnp.float32)
    same = jnp.broadcast_to(parameters, (1, len(centres), 2))
    density = np.exp(distribution.log_prob(same, centres[None, :, None]))[0]
    assert density.sum() * (edges[1] - edges[0]) == pytest.approx(1.0, abs=1e-3)
    sampled = np.asarray(candidates.action)[0, 0, :, 0]
    for bound in (-1.0, 1.0, 2.5):
        expected = density[np.asarray(centres) < bound].sum() * (edges[1] - edges[0])
        assert (sampled < bound).mean() == pytest.approx(expected, abs=0.015)
    np.testing.assert_allclose(distribution.candidate_log_prob(parameters, candidates), candidates.log_prob, rtol=1e-5)
    repeated = jnp.broadcast_to(parameters, (1, 20_000, 2))
    np.testing.assert_allclose(distribution.log_prob(repeated, candidates.action[0]), candidates.log_prob[0], atol=2e-2)


def test_tanh_gaussian_density_stays_exact_where_tanh_saturates() -> None:
    distribution = tanh_gaussian((Box(1),), num_samples=100)
    parameters = jnp.array([[[20.0, -1.0]]])
    candidates = distribution.candidates(parameters, jax.random.key(0))
    assert (candidates.action == 1.0).all()
    latent = np.asarray(candidates.latent)[..., 0]
    normal = -0.5 * ((latent - 20.0) / np.exp(-1.0)) ** 2 + 1.0 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(candidates.log_prob, normal - 2 * (np.log(2) - latent), rtol=1e-3)


def test_tanh_gaussian_kl_is_that_of_samples_and_ignores_padding() -> None:
    distribution = tanh_gaussian((Box(2), Box(1)), num_samples=50_000)
    parameters = jnp.array([[[0.1, -0.3, -0.4, 0.2]], [[0.5, -1.0, 9.0, 9.0]]])
    other = jnp.array([[[0.4, 0.1, -0.2, 0.0]], [[0.2, -0.6, -9.0, -9.0]]])
    candidates = distribution.candidates(parameters, jax.random.key(1))
    estimate = (candidates.log_prob - distribution.candidate_log_prob(other, candidates)).mean(-1)
    chex.assert_trees_all_close(distribution.kl(parameters, other), estimate, atol=0.02)
    assert not candidates.action[1, ..., 1].any()


@pytest.mark.parametrize("q", [0.2, 0.9, 2.0])
def test_tsallis_logarithm(q: float) -> None:
    probability = jnp.array([0.05, 0.4, 1.0])
    expected = (np.asarray(probability) ** (1 - q) - 1) / (1 - q)
    np.testing.assert_allclose(tsallis_log(jnp.log(probability), q), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tsallis_log(jnp.log(probability), 1.0), jnp.log(probability), rtol=1e-6)
