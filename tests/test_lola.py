"""LOLA with neural policies and sampled gradients, on the iterated prisoner's dilemma."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax import make
from mamt_jax.algorithms import lola
from mamt_jax.training.config import TrainingConfig, make_schedule
from mamt_jax.training.runs import make_runs, run_keys, stack_configs

ROUNDS, LENGTH = 300, 25
NAIVE, AHEAD = 0, 1


def test_lola_cooperates_as_long_as_the_other_does() -> None:
    env = make("matrix_game", game="prisoners_dilemma", episode_limit=LENGTH)
    algorithm = lola.make(env.spec)
    training = TrainingConfig(episodes=64 * ROUNDS, num_envs=64, update_interval=64 * LENGTH, evaluation_episodes=100)
    runs = make_runs(env, algorithm, training, make_schedule(training, LENGTH, algorithm.data), 2)
    configs = stack_configs([lola.LOLAConfig(gamma=0.96, hidden_size=16, lookahead=ahead) for ahead in (0.0, 1.0)])
    states = runs.advance(configs, runs.init(configs, run_keys([0, 0])), jnp.int32(0), jnp.int32(ROUNDS))
    returns = runs.evaluate(configs, states, jnp.int32(ROUNDS))["sampled"].episode_return
    np.testing.assert_allclose(returns[NAIVE] / LENGTH, -2.0, atol=0.1)  # both always defect
    np.testing.assert_allclose(returns[AHEAD] / LENGTH, -1.0, atol=0.15)  # both cooperate

    config, learner = jax.tree.map(lambda leaf: leaf[AHEAD], (configs, states.learner_state))
    remembered = jnp.broadcast_to(jnp.eye(5)[:, None], (5, 2, 5))
    act = jax.vmap(functools.partial(algorithm.act, config, learner, remembered))
    cooperation = (act(jax.random.split(jax.random.key(1), 500)) == 0).mean(0)  # (what was remembered, player)
    _, after_mutual_cooperation, after_being_exploited, _, after_mutual_defection = cooperation
    assert (after_mutual_cooperation > 0.9).all()
    assert (after_being_exploited < 0.5).all() and (after_mutual_defection < 0.5).all()
