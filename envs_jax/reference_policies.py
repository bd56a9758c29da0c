"""Policies to compare with, (key, state) -> action like `Environment.scripted`, and what a policy earns."""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Box, Discrete, Environment, EnvSpec, EnvState
from envs_jax.options import require_count
from envs_jax.wrappers import EpisodeStatistics, episode_statistics

Policy = Callable[[jax.Array, EnvState], jax.Array]


def sample_action(spec: EnvSpec, key: jax.Array, action_mask: jax.Array) -> jax.Array:
    """A uniformly random action of every agent among those allowed: (n,) int32, or (n, k) in each agent's own box.

    Args:
        spec: the environment's spec.
        key: consumed.
        action_mask: (n, A) bool; components of a box that it excludes are zero.
    """
    if spec.discrete:
        number = jnp.cumsum(action_mask, axis=-1)  # the k-th allowed action, k uniform
        k = jnp.floor(jax.random.uniform(key, action_mask.shape[:-1], jnp.float32) * number[..., -1])
        return jnp.argmax(action_mask & (number == k[..., None] + 1), axis=-1).astype(jnp.int32)
    uniform = jax.random.uniform(key, action_mask.shape, jnp.float32)
    low, high = _bounds(spec)
    return jnp.where(action_mask, low + (high - low) * uniform, 0.0)


def random_policy(spec: EnvSpec) -> Policy:
    """Uniform over each agent's own actions."""

    def act(key: jax.Array, state: EnvState) -> jax.Array:
        del state
        return sample_action(spec, key, jnp.asarray(spec.action_mask))

    return act


def do_nothing_policy(spec: EnvSpec) -> Policy:
    """The idle action of a discrete space; of a box the vector nearest to zero."""
    idle = np.array([space.idle for space in spec.action_spaces if isinstance(space, Discrete)], np.int32)

    def act(key: jax.Array, state: EnvState) -> jax.Array:
        del key, state
        if spec.discrete:
            return jnp.asarray(idle)
        low, high = _bounds(spec)
        return jnp.where(jnp.asarray(spec.action_mask), jnp.clip(0.0, low, high), 0.0)

    return act


def reference_policies(env: Environment) -> dict[str, Policy]:
    """The policies every table shows: `random`, `do_nothing`, and `scripted` where the environment has one."""
    policies = {"random": random_policy(env.spec), "do_nothing": do_nothing_policy(env.spec)}
    return policies if env.scripted is None else policies | {"scripted": env.scripted}


def _bounds(spec: EnvSpec) -> tuple[jax.Array, jax.Array]:
    """Lowest and highest action, (n, k) float32 each."""
    boxes = [space for space in spec.action_spaces if isinstance(space, Box)]
    low, high = (np.array([getattr(b, side) for b in boxes], np.float32)[:, None] for side in ("low", "high"))
    shape = (spec.num_agents, spec.action_size)
    return jnp.broadcast_to(low, shape), jnp.broadcast_to(high, shape)


def evaluate_policy(env: Environment, policy: Policy, key: jax.Array, episodes: int) -> dict[str, Any]:
    """Plays whole episodes, all at once on the device.

    Args:
        env: played without automatic reset, each episode to its own end.
        policy: (key, state) -> action.
        key: consumed.
        episodes: how many, E.

    Returns:
        `return`, the sum over an episode of one agent's reward, averaged over agents and episodes; `return_std_error` over
        episodes (nan for one episode); `return_per_agent` (n,) list; `episode_length`; `metrics`, the mean of each task metric.

    Raises:
        ValueError: if `episodes` is not a positive integer.
    """
    return evaluate_policies(env, {"policy": policy}, key, episodes)["policy"]


def evaluate_policies(env: Environment, policies: Mapping[str, Policy], key: jax.Array, episodes: int) -> dict[str, Any]:
    """Name -> what `evaluate_policy` returns, all policies in one program; each plays `episodes` episodes of its own."""
    require_count("episodes", episodes)
    keys = jax.random.split(key, (len(policies), episodes))
    played = jax.device_get(_play(env, tuple(policies.values()), keys))
    return {name: _summarise(jax.tree.map(operator.itemgetter(i), played), episodes) for i, name in enumerate(policies)}


def _summarise(played: EpisodeStatistics, episodes: int) -> dict[str, Any]:
    returns = played.episode_return.mean(-1)
    return {
        "return": float(returns.mean()),
        "return_std_error": float(returns.std(ddof=1) / np.sqrt(episodes)) if episodes > 1 else float("nan"),
        "return_per_agent": played.episode_return.mean(0).tolist(),
        "episode_length": float(played.episode_length.mean()),
        "metrics": {name: float(value.mean()) for name, value in played.metrics.items()},
    }


@functools.partial(jax.jit, static_argnames=("env", "policies"))
def _play(env: Environment, policies: tuple[Policy, ...], keys: jax.Array) -> EpisodeStatistics:
    """Statistics of one whole episode a key, leading axes (policies, E)."""
    counted = episode_statistics(env)

    def episode(which: jax.Array, key: jax.Array) -> EpisodeStatistics:
        reset_key, key = jax.random.split(key)
        state, _ = counted.reset(reset_key)

        def step(carry: tuple[Any, jax.Array], _: None) -> tuple[tuple[Any, jax.Array], None]:
            state, key = carry
            action_key, step_key, key = jax.random.split(key, 3)
            choices = [policy(jax.random.clone(action_key), state.env_state) for policy in policies]
            action = jnp.stack(choices)[which]  # one of them is used, so that they may share a key
            stepped = counted.step(step_key, state, action)[0]
            state = jax.tree.map(lambda old, new: jnp.where(state.statistics.done, old, new), state, stepped)
            return (state, key), None

        (state, _), _ = jax.lax.scan(step, (state, key), length=env.spec.episode_limit)
        return state.statistics

    return jax.vmap(jax.vmap(episode, (None, 0)))(jnp.arange(len(policies)), keys)
