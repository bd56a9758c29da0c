"""An environment that earns nan where it is told to: what a bug in a user's environment looks like to training."""

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax import Environment, TimeStep, make
from envs_jax.matrix_game import MatrixGameState


def fragile(places: tuple = (), num_envs: int = 12) -> Environment:
    """The prisoner's dilemma, but for the reward of one step in a few runs.

    Args:
        places: (seed, round, vector step) of each reward that is nan, all in the first environment of the run.
        num_envs: environments of a run.
    """
    env = make("matrix_game")
    doomed = np.array([_step_key(place, num_envs) for place in places], np.uint32).reshape(-1, 2)

    def sample_noise(key: jax.Array, state: MatrixGameState) -> jax.Array:
        return (jax.random.key_data(key)[None] == doomed).all(-1).any()

    def transition(state: MatrixGameState, action: jax.Array, noise: jax.Array) -> tuple[MatrixGameState, TimeStep]:
        state, timestep = env.transition(state, action, ())
        return state, timestep._replace(reward=jnp.where(noise, jnp.nan, timestep.reward))

    return env._replace(sample_noise=sample_noise, transition=transition)


def _step_key(place: tuple[int, int, int], num_envs: int) -> np.ndarray:
    """(2,): the key data of that step, split as training splits its keys: make_init, round_keys, rollout, auto_reset."""
    seed, number, step = place
    run_key = jax.random.split(jax.random.key(seed), 4)[2]
    rollout_key, _ = jax.random.split(jax.random.fold_in(run_key, number))
    _, env_key = jax.random.split(jax.random.fold_in(rollout_key, step))
    own_key = jax.random.split(env_key, num_envs)[0]
    return np.asarray(jax.random.key_data(jax.random.fold_in(own_key, 0)))
