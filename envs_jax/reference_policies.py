"""Policies to compare with, (key, state) -> action like `Environment.scripted`, and what a policy earns."""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Box, Discrete, Environment, EnvSpec, EnvState, takes_action_mask
from envs_jax.validation import require_count
from envs_jax.wrappers import EpisodeStatistics, episode_statistics

Policy = Callable[..., jax.Array]
"""(key, state) -> action; one that has a parameter `action_mask` is given it, (n, A) bool, as well."""


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
    """Uniform over the actions that each agent is allowed, all of its own without a mask."""

    def act(key: jax.Array, state: EnvState, action_mask: jax.Array | None = None) -> jax.Array:
        del state
        return sample_action(spec, key, jnp.asarray(spec.action_mask) if action_mask is None else action_mask)

    return act


def do_nothing_policy(spec: EnvSpec) -> Policy:
    """The idle action of a discrete space, or the first one allowed where it is masked; of a box the vector nearest to zero."""
    idle = np.array([space.idle for space in spec.action_spaces if isinstance(space, Discrete)], np.int32)

    def act(key: jax.Array, state: EnvState, action_mask: jax.Array | None = None) -> jax.Array:
        del key, state
        if spec.discrete and action_mask is not None:
            allowed = jnp.take_along_axis(action_mask, jnp.asarray(idle)[:, None], -1)[:, 0]
            return jnp.where(allowed, idle, action_mask.argmax(-1)).astype(jnp.int32)
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
        policy: (key, state) -> action, or (key, state, action_mask) -> action.
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
        state, timestep = counted.reset(reset_key)

        def choose(policy: Policy, key: jax.Array, env_state: EnvState, action_mask: jax.Array) -> jax.Array:
            mask = {"action_mask": action_mask} if takes_action_mask(policy) else {}
            return policy(jax.random.clone(key), env_state, **mask)

        def step(carry: tuple[Any, jax.Array, jax.Array], _: None) -> tuple[tuple[Any, jax.Array, jax.Array], None]:
            state, action_mask, key = carry
            action_key, step_key, key = jax.random.split(key, 3)
            choices = [choose(policy, action_key, state.env_state, action_mask) for policy in policies]
            action = jnp.stack(choices)[which]  # one of them is used, so that they may share a key
            stepped, timestep = counted.step(step_key, state, action)
            state = jax.tree.map(lambda old, new: jnp.where(state.statistics.done, old, new), state, stepped)
            return (state, timestep.action_mask, key), None

        (state, _, _), _ = jax.lax.scan(step, (state, timestep.action_mask, key), length=env.spec.episode_limit)
        return state.statistics

    return jax.vmap(jax.vmap(episode, (None, 0)))(jnp.arange(len(policies)), keys)
