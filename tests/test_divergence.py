"""The paper's measures of stationarity on tabular games, against its closed forms and theorems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import estimation
import theory
from mamt_jax.divergence import joint_divergence, others_divergence, own_divergence, transition_divergence

SHAPES = st.sampled_from([(3, 2), (2, 3, 2), (2, 2, 2, 2)])
JOINT, OWN, OTHERS = jax.jit(joint_divergence), jax.jit(own_divergence), jax.jit(others_divergence)


def random_policies(shape: tuple[int, ...], seed: int, concentration: float) -> list[np.ndarray]:
    draws = np.random.default_rng(seed).dirichlet(np.full(int(np.prod(shape)), concentration), 2) + 1e-6
    return [np.asarray(draw.reshape(shape) / draw.sum(), np.float32) for draw in draws]


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 2**16), st.sampled_from([0.1, 1.0, 10.0]))
def test_theorem_2_on_any_joint_policies(shape: tuple[int, ...], seed: int, concentration: float) -> None:
    policy, previous = random_policies(shape, seed, concentration)
    joint = JOINT(policy, previous)
    assert (OTHERS(policy, previous) <= joint * (1 + 1e-4) + 1e-5).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**16))
def test_theorem_3_on_products_and_what_theorem_2_is_there(num_agents: int, seed: int) -> None:
    own = np.random.default_rng(seed).dirichlet(np.ones(3), (2, num_agents)) + 1e-4
    products = []
    for each in own / own.sum(-1, keepdims=True):
        product = np.ones(())
        for policy in each:
            product = product[..., None] * policy
        products.append(np.asarray(product, np.float32))
    joint = JOINT(*products)
    np.testing.assert_allclose(OWN(*products).sum(), joint, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(OTHERS(*products).mean(), joint * (num_agents - 1) / num_agents, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_figure_8_is_the_papers_formula_and_what_plays_show() -> None:
    for m in (0.1, 0.5, 0.9):
        before, after = theory.policies(jnp.float32(m))
        transition, policy = theory.closed_form(m)
        np.testing.assert_allclose(transition_divergence(theory.game(), before, after)[0], transition, rtol=1e-3)
        np.testing.assert_allclose(joint_divergence(before, after), policy, rtol=1e-4)
        seen = theory.simulated(jax.random.key(0), jnp.float32(m), 0, episodes=400_000)
        np.testing.assert_allclose(seen, (transition, policy), rtol=0.25, atol=3e-5)


@pytest.mark.slow
def test_estimates_know_only_what_they_should() -> None:
    """Uncoupled agents: the mean-field sum is the truth. Coupled ones: it is not, and neither is D_ns."""
    draw = jax.jit(estimation.draw_batch, static_argnums=2)
    alone, coupled = (draw(jnp.float32(coupling), jax.random.key(0), 64) for coupling in (0.0, 4.0))
    np.testing.assert_allclose(alone.mean_field, alone.truth, rtol=1e-3, atol=1e-5)
    for pairs in (alone, coupled):
        assert (pairs.truth >= 0).all() and (pairs.non_stationarity >= 0).all()
    assert np.abs(coupled.mean_field / coupled.truth - 1).mean() > 0.1
