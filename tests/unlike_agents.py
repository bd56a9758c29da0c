"""Three unlike agents, random batches, and a one-step task with a known answer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from envs_jax.environment import Box, Discrete, EnvSpec
from mamt_jax.algorithms.base import Data
from mamt_jax.types import Trajectory, Transition

Act = Callable[[jax.Array, jax.Array], jax.Array]
"""(observation (B, n, d), key) -> action."""

DISCRETE = EnvSpec("probe", ("a_0", "b_0", "c_0"), (4, 2, 3), (Discrete(3), Discrete(2), Discrete(3)), 5)
CONTINUOUS = EnvSpec("probe", ("a_0", "b_0", "c_0"), (4, 2, 3), (Box(2), Box(1), Box(2, 0.0, 1.0)), 5)
DUO = EnvSpec("probe", ("a_0", "b_0"), (4, 2), (Discrete(3), Discrete(2)), 5)
CONTINUOUS_DUO = EnvSpec("probe", ("a_0", "b_0"), (4, 2), (Box(2), Box(1)), 5)
SMALL: dict[str, Any] = {"hidden_size": 16, "num_heads": 2}


def observations(spec: EnvSpec, key: jax.Array, batch_size: int) -> jax.Array:
    """(B, n, d) standard normal, zero in the padding."""
    shape = (batch_size, spec.num_agents, spec.observation_size)
    return jax.random.normal(key, shape) * spec.observation_mask[None]


def actions(spec: EnvSpec, key: jax.Array, batch_size: int) -> jax.Array:
    """(B, n) or (B, n, k) of each agent's own actions."""
    if spec.discrete:
        return jax.random.randint(key, (batch_size, spec.num_agents), 0, jnp.array(spec.action_sizes)[None], jnp.int32)
    low, high = (jnp.array([getattr(space, end) for space in spec.action_spaces])[None, :, None] for end in ("low", "high"))
    uniform = jax.random.uniform(key, (batch_size, spec.num_agents, spec.action_size), minval=0.02, maxval=0.98)
    return (low + uniform * (high - low)) * spec.action_mask[None]


def right_action(spec: EnvSpec, observation: jax.Array) -> jax.Array:
    """What the probe task asks for: the sign of the first entry picks action 0 or 1, or a low or high first component."""
    positive = observation[..., 0] > 0
    return positive.astype(jnp.int32) if spec.discrete else jnp.where(positive, 0.8, 0.2)


def probe_batch(spec: EnvSpec, key: jax.Array, batch_size: int, act: Act | None = None) -> Transition:
    """One-step episodes that reward each agent for its own right action; actions are random but for those of `act`."""
    observation_key, action_key, next_key = jax.random.split(key, 3)
    observation = observations(spec, observation_key, batch_size)
    action = act(observation, action_key) if act else actions(spec, action_key, batch_size)
    right = right_action(spec, observation)
    reward = (action == right).astype(jnp.float32) if spec.discrete else -jnp.square(action[..., 0] - right)
    next_observation = observations(spec, next_key, batch_size)
    return Transition(observation, action, reward, next_observation, jnp.ones_like(reward, bool))


def probe_data(spec: EnvSpec, data: Data, key: jax.Array, act: Act) -> Transition | Trajectory:
    """The probe as an algorithm wants it: 64 replayed rows, or a rollout of 8 steps of 8 environments played by `act`."""
    if data == "replay":
        return probe_batch(spec, key, 64)
    rows = jax.tree.map(lambda leaf: leaf.reshape(8, 8, *leaf.shape[1:]), probe_batch(spec, key, 64, act))
    return Trajectory(rows, jnp.zeros((8, 8), bool))


def probe_score(spec: EnvSpec, observation: jax.Array, action: jax.Array) -> jax.Array:
    """(n,) share of right greedy actions, or minus the mean distance from them."""
    right = right_action(spec, observation)
    return (action == right).mean(0) if spec.discrete else -jnp.abs(action[..., 0] - right).mean(0)
