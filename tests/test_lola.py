"""LOLA with neural policies and sampled gradients, on the iterated prisoner's dilemma."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax import make
from mamt_jax.algorithms import lola
from mamt_jax.algorithms.on_policy import OnPolicyState
from mamt_jax.training.config import TrainingConfig, make_schedule
from mamt_jax.training.vectorized import make_runs, run_keys, stack_configs

ENVS, ROUNDS, LENGTH = 128, 200, 25
SEEDS, LOOKAHEADS = [0, 1, 2, 0], [1.0, 1.0, 1.0, 0.0]
AHEAD, NAIVE = slice(0, 3), slice(3, 4)


@pytest.mark.long
@pytest.mark.slow
def test_lola_cooperates_as_long_as_the_other_does() -> None:
    """In most seeds, as in the paper, whose 81 % is the share of tit-for-tat; a naive learner defects."""
    env = make("matrix_game", game="prisoners_dilemma", episode_limit=LENGTH)
    algorithm = lola.make(env.spec)
    training = TrainingConfig(episodes=ENVS * ROUNDS, num_envs=ENVS, update_interval=ENVS * LENGTH, evaluation_episodes=100)
    runs = make_runs(env, algorithm, training, make_schedule(training, LENGTH, algorithm.data), len(SEEDS))
    configs = stack_configs([lola.LOLAConfig(gamma=0.96, hidden_size=16, lookahead=ahead) for ahead in LOOKAHEADS])
    states = runs.advance(configs, runs.init(configs, run_keys(SEEDS)), jnp.int32(0), jnp.int32(ROUNDS))
    returns = runs.evaluate(configs, states, jnp.int32(ROUNDS))["sampled"].episode_return
    np.testing.assert_allclose(returns[NAIVE] / LENGTH, -2.0, atol=0.1)  # both always defect
    np.testing.assert_allclose(np.median(returns[AHEAD]) / LENGTH, -1.0, atol=0.1)  # both cooperate

    def cooperation(config: lola.LOLAConfig, learner: OnPolicyState) -> jax.Array:
        """How often each player cooperates: (what was remembered, player)."""
        remembered = jnp.broadcast_to(jnp.eye(5)[:, None], (5, 2, 5))
        act = jax.vmap(functools.partial(algorithm.act, config, learner, remembered))
        return (act(jax.random.split(jax.random.key(1), 500)) == 0).mean(0)

    of_runs = jax.vmap(cooperation)(configs, states.learner_state)[AHEAD].mean(-1)
    _, after_mutual_cooperation, after_being_exploited, _, after_mutual_defection = np.median(of_runs, 0)
    assert after_mutual_cooperation > 0.9
    assert after_being_exploited < 0.5 and after_mutual_defection < 0.5
