"""Agents of a kind that share a policy, in every algorithm that offers it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unlike_agents import probe_data

from envs_jax.environment import Discrete, EnvSpec
from mamt_jax.algorithms import parameter_sharing as sharing
from mamt_jax.algorithms import registry

SPEC = EnvSpec("kinds", ("a_0", "b_0", "a_1"), (4, 2, 4), (Discrete(3),) * 3, 5)


def test_the_mean_is_taken_over_each_kind() -> None:
    gradient = jnp.array([[1.0, 2.0], [5.0, 7.0], [3.0, -2.0]])
    np.testing.assert_array_equal(sharing.average_over_kinds(SPEC, gradient), [[2, 0], [5, 7], [2, 0]])


@pytest.mark.parametrize("name", ["mappo", "maddpg"])
def test_agents_of_a_kind_stay_one_policy(name: str) -> None:
    algorithm = registry.make(name, SPEC)
    config = algorithm.config(hidden_size=8, share_policy=True)
    learner = algorithm.init(config, jax.random.key(0))
    data = probe_data(SPEC, algorithm.data, jax.random.key(1), functools.partial(algorithm.act, config, learner))
    after, _ = jax.jit(algorithm.update)(config, learner, data, jax.random.key(2))
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[0], leaf[2]), after.policy)
    before, kernel = (each.policy["params"]["Dense_1"]["kernel"] for each in (learner, after))
    assert not np.allclose(kernel[0], kernel[1]) and not np.allclose(kernel[0], before[0], atol=1e-5)
