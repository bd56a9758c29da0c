"""Plays episodes: `rollout` and `play_episodes` on the device, `play_host_episodes` where the host steps the environment."""

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Environment, EnvSpec, EnvState, HostBatch, HostEnvironment, Policy, TimeStep, takes
from envs_jax.validation import require_count
from envs_jax.wrappers import EpisodeStatistics, auto_reset, episode_statistics, infer_spec

HOST_ENVS = 12
"""How many environments outside JAX `play` opens at most."""


class Episodes(NamedTuple):
    """Whole episodes, with any leading axes.

    Attributes:
        episode_return: (..., n), the sum of each agent's rewards up to its own end.
        episode_length: (...), steps.
        metrics: each task metric, reduced over the episode as its `EnvSpec` says, a dict of (...).
    """

    episode_return: Any
    episode_length: Any
    metrics: dict[str, Any]


def rollout(env: Environment, policy: Policy, key: jax.Array, num_steps: int) -> tuple[EnvState, TimeStep]:
    """Resets `env` and takes `num_steps` steps; may be jitted and vmapped.

    It goes on after the end of an episode as `env` does: give it `auto_reset(env)` for one episode after the other.

    Args:
        env: an environment that runs in JAX.
        policy: (observation (n, d), key) -> action; see `envs_jax.environment.Policy`.
        key: consumed.
        num_steps: T.

    Returns:
        States and time steps with a leading axis T + 1: entry 0 is the reset, entry t what step t led to.
    """
    reset_key, steps_key = jax.random.split(key)
    first, choose = env.reset(reset_key), _chooser(env, policy)

    def step(before: tuple[EnvState, TimeStep], number: jax.Array) -> tuple[Any, Any]:
        act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, number))
        after = env.step(env_key, before[0], choose(*before, act_key))
        return after, after

    _, later = jax.lax.scan(step, first, jnp.arange(num_steps))
    return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, later)


def play_episodes(env: Environment, policy: Policy, key: jax.Array, episodes: int) -> Episodes:
    """One whole episode of each of E environments, side by side; may be jitted and vmapped.

    Args:
        env: without automatic reset.
        policy: as in `rollout`; it is given all E environments at once, observation (E, n, d), and one key.
        key: consumed.
        episodes: E.

    Returns:
        Episodes with a leading axis E.
    """
    start_key, steps_key = jax.random.split(key)
    playing = episode_statistics(auto_reset(env))
    choose = _chooser(env, policy)
    state, timestep = jax.vmap(playing.reset)(jax.random.split(start_key, episodes))

    def step(carry: tuple[Any, TimeStep, EpisodeStatistics], number: jax.Array) -> tuple[Any, None]:
        state, timestep, first = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, number))
        action = choose(state.env_state, timestep, act_key)
        state, timestep = jax.vmap(playing.step)(jax.random.split(env_key, episodes), state, action)
        return (state, timestep, jax.vmap(_keep_first)(first, state.statistics)), None

    (_, _, first), _ = jax.lax.scan(step, (state, timestep, state.statistics), jnp.arange(env.spec.episode_limit))
    return Episodes(first.episode_return, first.episode_length, first.metrics)


def _keep_first(first: EpisodeStatistics, new: EpisodeStatistics) -> EpisodeStatistics:
    """`first` once it is done, else `new`: the episode in progress."""
    return jax.tree.map(lambda old, new: jnp.where(first.done, old, new), first, new)


def _chooser(env: Environment, policy: Policy) -> Callable[[EnvState, TimeStep, jax.Array], jax.Array]:
    """(state, timestep, key) -> action, by a policy that is given what its parameters ask for."""
    with_state, spec = takes(policy, "state"), env.spec
    with_mask = takes(policy, "action_mask") and spec.discrete
    with_mask = with_mask and (spec.has_action_masks or infer_spec(env).spec.has_action_masks)

    def choose(state: EnvState, timestep: TimeStep, key: jax.Array) -> jax.Array:
        given = ({"state": state} if with_state else {}) | ({"action_mask": timestep.action_mask} if with_mask else {})
        return policy(timestep.observation, key, **given)

    return choose


def play_host_episodes(
    spec: EnvSpec, batch: HostBatch, act: Callable[[TimeStep, int], np.ndarray], seeds: np.ndarray, episodes: int
) -> Episodes:
    """The first K episodes of each of E environments outside JAX, so that short ones do not count more often.

    Args:
        spec: of the environments.
        batch: E environments; they begin anew.
        act: (what they show, number of the step) -> action (E, n) or (E, n, k).
        seeds: (E,).
        episodes: K.

    Returns:
        Episodes with leading axes (E, K).
    """
    timestep, everyone = batch.reset(seeds), np.arange(len(seeds))
    active = np.ones_like(timestep.terminated) if timestep.active is None else np.asarray(timestep.active)
    total = np.zeros((len(seeds), episodes + 1, active.shape[1]))  # the last place takes what comes after
    length, metrics = np.zeros(total.shape[:2]), {}
    number, step = np.zeros(len(seeds), int), 0
    while (number < episodes).any():
        timestep, step = batch.step(act(timestep, step)), step + 1
        total[everyone, number] += np.where(active, timestep.reward, 0.0)
        active = timestep.next_active(active)
        length[everyone, number] += 1
        for name, new in timestep.metrics.items():
            values = metrics.setdefault(name, np.zeros_like(length))
            values[everyone, number] = new if name in spec.last_metrics else values[everyone, number] + new
        number = np.minimum(number + timestep.done, episodes)
    for name in metrics.keys() - set(spec.last_metrics):
        metrics[name] /= np.maximum(length, 1)
    return jax.tree.map(lambda leaf: leaf[:, :episodes], Episodes(total, length, metrics))


def play(env: Environment | HostEnvironment, policy: Policy, key: jax.Array, episodes: int) -> Episodes:
    """Whole episodes of an environment in JAX or outside it, as numpy arrays.

    Args:
        env: without automatic reset.
        policy: as in `play_episodes`.
        key: consumed.
        episodes: E. Environments outside JAX may play a few more, equally many in each.

    Raises:
        ValueError: if `episodes` is not a positive integer.
    """
    require_count("episodes", episodes)
    if isinstance(env, HostEnvironment):
        return _play_outside(env, {"": policy}, key, episodes)[""]
    return jax.device_get(_play(env, policy, key, episodes))


_play = functools.partial(jax.jit, static_argnames=("env", "policy", "episodes"))(play_episodes)


def _play_outside(env: HostEnvironment, policies: Mapping[str, Policy], key: jax.Array, episodes: int) -> dict[str, Episodes]:
    """`play` of several policies in the same processes."""
    num_envs = min(episodes, HOST_ENVS)
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    entropy = functools.reduce(lambda number, word: number << 32 | word, words)  # of jax.random.key(7) that is 7
    seeds = np.random.SeedSequence(entropy).generate_state(len(policies) * num_envs)

    def play_out(policy: Policy, seeds: np.ndarray) -> Episodes:
        masked = env.spec.has_action_masks and takes(policy, "action_mask")

        def act(timestep: TimeStep, step: int) -> np.ndarray:
            mask = {"action_mask": jnp.asarray(timestep.action_mask)} if masked else {}
            return np.asarray(policy(jnp.asarray(timestep.observation), jax.random.fold_in(key, step), **mask))

        played = play_host_episodes(env.spec, batch, act, seeds, math.ceil(episodes / num_envs))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), played)

    batch = env.open(num_envs)
    try:
        own = zip(policies.items(), np.split(seeds, len(policies)), strict=True)
        return {name: play_out(policy, each) for (name, policy), each in own}
    finally:
        batch.close()


def evaluate_policy(env: Environment | HostEnvironment, policy: Policy, key: jax.Array, episodes: int) -> dict[str, Any]:
    """What a policy earns in whole episodes.

    Args:
        env: without automatic reset.
        policy: as in `play_episodes`.
        key: consumed.
        episodes: how many, as in `play`.

    Returns:
        `return`, the sum over an episode of one agent's reward, averaged over agents and episodes; `return_std_error` over
        episodes (nan for one episode); `return_per_agent` (n,) list; `episode_length`; `metrics`, the mean of each task metric.

    Raises:
        ValueError: if `episodes` is not a positive integer.
    """
    return _summarise(play(env, policy, key, episodes))


def evaluate_policies(
    env: Environment | HostEnvironment, policies: Mapping[str, Policy], key: jax.Array, episodes: int
) -> dict[str, dict[str, Any]]:
    """Name -> what `evaluate_policy` returns, all policies in one program; each plays `episodes` episodes of its own."""
    require_count("episodes", episodes)
    if isinstance(env, HostEnvironment):
        played = _play_outside(env, policies, key, episodes)
        return {name: _summarise(each) for name, each in played.items()}
    keys = jax.random.split(key, len(policies))
    played = jax.device_get(_play_all(env, tuple(policies.values()), keys, episodes))
    return {name: _summarise(jax.tree.map(operator.itemgetter(i), played)) for i, name in enumerate(policies)}


@functools.partial(jax.jit, static_argnames=("env", "policies", "episodes"))
def _play_all(env: Environment, policies: tuple[Policy, ...], keys: jax.Array, episodes: int) -> Episodes:
    """`play_episodes` of each policy, leading axes (policies, E); the environment is compiled once for all."""

    def play_one(which: jax.Array, key: jax.Array) -> Episodes:
        def choose(observation: jax.Array, key: jax.Array, state: EnvState, action_mask: jax.Array | None = None) -> jax.Array:
            optional = {"action_mask": action_mask, "state": state}
            given = [{name: value for name, value in optional.items() if takes(policy, name)} for policy in policies]
            # One of the choices is used, so that they may share a key.
            choices = [policy(observation, jax.random.clone(key), **each) for policy, each in zip(policies, given, strict=True)]
            return jnp.stack(choices)[which]

        return play_episodes(env, choose, key, episodes)

    return jax.vmap(play_one)(jnp.arange(len(policies)), keys)


def _summarise(played: Episodes) -> dict[str, Any]:
    returns = np.asarray(played.episode_return).mean(-1)
    return {
        "return": float(returns.mean()),
        "return_std_error": float(returns.std(ddof=1) / np.sqrt(len(returns))) if len(returns) > 1 else float("nan"),
        "return_per_agent": np.asarray(played.episode_return).mean(0).tolist(),
        "episode_length": float(np.mean(played.episode_length)),
        "metrics": {name: float(np.mean(value)) for name, value in played.metrics.items()},
    }
