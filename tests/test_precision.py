"""Products of bfloat16 factors: everywhere in a program, and nothing else in it changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unlike_agents import probe_batch

from envs_jax.environment import Discrete, EnvSpec
from mamt_jax.algorithms import registry
from mamt_jax.precision import with_bfloat16_products


def coarse(x: jax.Array) -> np.ndarray:
    """Rounded to bfloat16, as float64."""
    return np.asarray(x.astype(jnp.bfloat16), np.float64)


@pytest.fixture
def factors() -> tuple[jax.Array, jax.Array]:
    left, right = jax.random.split(jax.random.key(0))
    return jax.random.normal(left, (5, 4)), jax.random.normal(right, (4, 5))


def test_factors_are_rounded_and_sums_are_not(factors):
    x, y = factors
    product = with_bfloat16_products(lambda x, y: {"product": x @ y, "sum": x + y.T})(x, y)
    np.testing.assert_allclose(product["product"], coarse(x) @ coarse(y), rtol=1e-5, atol=1e-6)
    assert product["product"].dtype == jnp.float32 and not np.allclose(product["product"], x @ y, rtol=1e-5)
    np.testing.assert_array_equal(product["sum"], x + y.T)


def test_accelerators_are_given_bfloat16(factors, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = jax.make_jaxpr(with_bfloat16_products(jnp.matmul))(*factors)
    (product,) = (each for each in program.eqns if each.primitive.name == "dot_general")
    assert [each.aval.dtype for each in product.invars] == [jnp.bfloat16] * 2
    assert product.outvars[0].aval.dtype == jnp.float32


def test_gradients_inside_are_covered(factors):
    x, y = factors
    gradient = jax.jit(with_bfloat16_products(jax.grad(lambda x: jnp.square(x @ y).sum())))(x)
    product = jnp.asarray(coarse(x) @ coarse(y), jnp.float32)
    np.testing.assert_allclose(gradient, coarse(2 * product) @ coarse(y).T, rtol=2e-2, atol=1e-6)


def test_loops_and_branches_are_covered(factors):
    x, y = factors

    def program(x: jax.Array) -> jax.Array:
        scanned = jax.lax.scan(lambda carry, _: (carry, carry @ y), x, length=2)[1].sum(0)
        looped = jax.lax.fori_loop(0, 2, lambda _, total: total + x @ y, jnp.zeros((5, 5)))
        chosen = jax.lax.cond(x[0, 0] > 10, lambda: jnp.zeros((5, 5)), lambda: jax.jit(jnp.matmul)(x, y))
        return jnp.stack([scanned / 2, looped / 2, chosen])

    due = np.broadcast_to(coarse(x) @ coarse(y), (3, 5, 5))
    np.testing.assert_allclose(with_bfloat16_products(program)(x), due, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(with_bfloat16_products(program))(x[None])[0], due, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_update_is_the_same_but_for_rounding():
    spec = EnvSpec("two", ("a_0", "a_1"), (3, 3), (Discrete(2),) * 2, 5)
    algorithm = registry.make("maddpg", spec)
    config = algorithm.config(hidden_size=8)
    state = jax.jit(algorithm.init)(config, jax.random.key(0))
    batch = probe_batch(spec, jax.random.key(1), 8)

    @jax.jit
    def both(state, batch, key):
        return [update(config, state, batch, key) for update in (algorithm.update, with_bfloat16_products(algorithm.update))]

    with jax.debug_key_reuse(False):  # both updates draw with one key
        (due, metrics), (found, coarse_metrics) = both(state, batch, jax.random.key(2))
    assert jax.tree.structure(found) == jax.tree.structure(due)
    facts = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in (found, due)]
    assert facts[0] == facts[1]
    np.testing.assert_allclose(coarse_metrics["critic_loss"], metrics["critic_loss"], rtol=2e-2)
    assert not np.array_equal(coarse_metrics["critic_loss"], metrics["critic_loss"])
