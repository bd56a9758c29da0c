"""The memory of on-policy algorithms, which use each rollout once: it holds the latest rollout as a whole."""

import jax
import jax.numpy as jnp

from envs_jax.environment import EnvSpec
from mamt_jax.training.replay import Replay
from mamt_jax.types import Trajectory, Transition


def rollout_buffer(spec: EnvSpec, num_steps: int, num_envs: int) -> Replay:
    """A memory for one iteration of `num_steps` steps in `num_envs` environments; `sample` returns it as a `Trajectory`.

    Its leaves have a leading axis of length 1, where those of a replay memory have an axis of iterations.
    """
    steps = (1, num_steps, num_envs, spec.num_agents)
    observation = (*steps, spec.observation_size)

    def init() -> Trajectory:
        transitions = Transition(
            observation=jnp.zeros(observation),
            action=jnp.zeros(steps, jnp.int32) if spec.discrete else jnp.zeros((*steps, spec.action_size)),
            reward=jnp.zeros(steps),
            next_observation=jnp.zeros(observation),
            terminated=jnp.zeros(steps, bool),
            active=None if spec.ends_together else jnp.zeros(steps, bool),
            action_mask=jnp.zeros((*steps, spec.action_size), bool) if spec.has_action_masks else None,
            next_action_mask=jnp.zeros((*steps, spec.action_size), bool) if spec.has_action_masks else None,
        )
        return Trajectory(transitions, jnp.zeros(steps[:-1], bool))

    def add(storage: Trajectory, transitions: Transition, truncated: jax.Array, iterations: jax.Array) -> Trajectory:
        del iterations
        latest = Trajectory(transitions, truncated)
        return jax.tree.map(lambda new, old: new[None].astype(old.dtype), latest, storage)

    def sample(
        storage: Trajectory, key: jax.Array, observation: jax.Array, iterations: jax.Array, *masks: jax.Array
    ) -> Trajectory:
        del key, observation, iterations, masks
        return jax.tree.map(lambda leaf: leaf[0], storage)

    return Replay(init, add, sample)
