"""Plays episodes: `rollout` and `play_episodes` in JAX, `play_host_episodes` in environments outside JAX."""

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
"""Largest number of environments outside JAX that `play` opens."""


class Episodes(NamedTuple):
    """Results of whole episodes, with any leading axes.

    Attributes:
        episode_return: (..., n), sum of each agent's rewards up to its own end.
        episode_length: (...), number of steps.
        metrics: dict of (...), the last value of each task metric in `EnvSpec.last_metrics`, and the mean over the steps of
            all others.
    """

    episode_return: Any
    episode_length: Any
    metrics: dict[str, Any]


def rollout(env: Environment, policy: Policy, key: jax.Array, num_steps: int) -> tuple[EnvState, TimeStep]:
    """Resets `env` and takes `num_steps` steps. It may be jitted and vmapped.

    It does not reset `env` at the end of an episode. Use `auto_reset(env)` to play several episodes in a row.

    Args:
        env: an environment that runs in JAX.
        policy: (observation (n, d), key) -> action; see `envs_jax.environment.Policy`.
        key: random key, consumed.
        num_steps: number of steps, T.

    Returns:
        States and time steps with a leading axis T + 1. Entry 0 is the reset, entry t is the result of step t.
    """
    reset_key, steps_key = jax.random.split(key)
    first, choose = env.reset(reset_key), _chooser(env, policy)

    def step(carry: tuple[tuple[EnvState, TimeStep], Any], number: jax.Array) -> tuple[Any, Any]:
        before, hidden_state = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, number))
        action, hidden_state = choose(*before, act_key, hidden_state)
        after = env.step(env_key, before[0], action)
        return (after, hidden_state), after

    _, later = jax.lax.scan(step, (first, _begin(policy, choose, *first, steps_key)), jnp.arange(num_steps))
    return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, later)


def play_episodes(env: Environment, policy: Policy, key: jax.Array, episodes: int) -> Episodes:
    """Plays one whole episode in each of E parallel environments. It may be jitted and vmapped.

    Args:
        env: an environment without automatic reset.
        policy: as in `rollout`, but it receives the observations of all E environments, (E, n, d), and one key.
        key: random key, consumed.
        episodes: number of episodes, E.

    Returns:
        Episodes with a leading axis E.
    """
    start_key, steps_key = jax.random.split(key)
    playing = episode_statistics(auto_reset(env))
    choose = _chooser(env, policy)
    state, timestep = jax.vmap(playing.reset)(jax.random.split(start_key, episodes))
    hidden_state = _begin(policy, choose, state.env_state, timestep, steps_key)

    def step(carry: tuple[Any, TimeStep, Any, EpisodeStatistics], number: jax.Array) -> tuple[Any, None]:
        state, timestep, hidden_state, first = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, number))
        action, hidden_state = choose(state.env_state, timestep, act_key, hidden_state)
        state, timestep = jax.vmap(playing.step)(jax.random.split(env_key, episodes), state, action)
        return (state, timestep, hidden_state, jax.vmap(_keep_first)(first, state.statistics)), None

    start = state, timestep, hidden_state, state.statistics
    (*_, first), _ = jax.lax.scan(step, start, jnp.arange(env.spec.episode_limit))
    return Episodes(first.episode_return, first.episode_length, first.metrics)


def _keep_first(first: EpisodeStatistics, new: EpisodeStatistics) -> EpisodeStatistics:
    """Returns `first` if its episode is done, else `new`."""
    return jax.tree.map(lambda old, new: jnp.where(first.done, old, new), first, new)


def _chooser(env: Environment, policy: Policy) -> Callable[[EnvState, TimeStep, jax.Array, Any], tuple[jax.Array, Any]]:
    """Returns (state, timestep, key, hidden state) -> (action, hidden state).

    It passes the optional arguments that the policy takes. The hidden state of a policy without memory is None.
    """
    with_state, with_memory, spec = takes(policy, "state"), takes(policy, "hidden_state"), env.spec
    with_mask = takes(policy, "action_mask") and spec.discrete
    with_mask = with_mask and (spec.has_action_masks or infer_spec(env).spec.has_action_masks)

    def choose(state: EnvState, timestep: TimeStep, key: jax.Array, hidden_state: Any) -> tuple[jax.Array, Any]:
        given = ({"state": state} if with_state else {}) | ({"action_mask": timestep.action_mask} if with_mask else {})
        if with_memory:
            return policy(timestep.observation, key, hidden_state=hidden_state, **given)
        return policy(timestep.observation, key, **given), None

    return choose


def _begin(policy: Policy, choose: Callable[..., tuple[jax.Array, Any]], *seen: Any) -> Any:
    """Returns the hidden state with which episodes begin, None without memory. `seen` are arguments of `choose`."""
    if not takes(policy, "hidden_state"):
        return None
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(choose, *seen, None)[1])


def play_host_episodes(
    spec: EnvSpec, batch: HostBatch, act: Callable[[TimeStep, int], np.ndarray], seeds: np.ndarray, episodes: int
) -> Episodes:
    """Plays the first K episodes in each of E environments outside JAX.

    The same number from each environment avoids a bias toward short episodes.

    Args:
        spec: spec of the environments.
        batch: E open environments, which are reset first.
        act: (time step, number of the step) -> action (E, n) or (E, n, k).
        seeds: (E,), seeds of the environments.
        episodes: number of episodes per environment, K.

    Returns:
        Episodes with leading axes (E, K).
    """
    timestep, everyone = batch.reset(seeds), np.arange(len(seeds))
    active = np.ones_like(timestep.terminated) if timestep.active is None else np.asarray(timestep.active)
    total = np.zeros((len(seeds), episodes + 1, active.shape[1]))  # the last entry collects the steps after episode K
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
    """Plays whole episodes in an environment in JAX or outside it; returns numpy arrays.

    Args:
        env: an environment without automatic reset.
        policy: as in `play_episodes`.
        key: random key, consumed.
        episodes: number of episodes. Outside JAX it is rounded up to the same number in every parallel environment.

    Raises:
        ValueError: if `episodes` is not a positive integer.
    """
    require_count("episodes", episodes)
    if isinstance(env, HostEnvironment):
        return _play_outside(env, {"": policy}, key, episodes)[""]
    return jax.device_get(_play(env, policy, key, episodes))


_play = functools.partial(jax.jit, static_argnames=("env", "policy", "episodes"))(play_episodes)


def _play_outside(env: HostEnvironment, policies: Mapping[str, Policy], key: jax.Array, episodes: int) -> dict[str, Episodes]:
    """As `play`, for several policies that use the same processes."""
    num_envs = min(episodes, HOST_ENVS)
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    entropy = functools.reduce(lambda number, word: number << 32 | word, words)  # jax.random.key(7) gives 7
    seeds = np.random.SeedSequence(entropy).generate_state(len(policies) * num_envs)

    def forget(remembered: dict[str, Any], done: Any) -> dict[str, Any]:
        return jax.tree.map(lambda leaf: jnp.where(done.reshape(-1, *(1,) * (leaf.ndim - 1)), 0, leaf), remembered)

    def play_out(policy: Policy, seeds: np.ndarray) -> Episodes:
        masked = env.spec.has_action_masks and takes(policy, "action_mask")
        remembered = {"hidden_state": None} if takes(policy, "hidden_state") else {}

        def act(timestep: TimeStep, step: int) -> np.ndarray:
            mask = {"action_mask": jnp.asarray(timestep.action_mask)} if masked else {}
            shown = jnp.asarray(timestep.observation), jax.random.fold_in(key, step)
            if not remembered:
                return np.asarray(policy(*shown, **mask))
            action, remembered["hidden_state"] = policy(*shown, **mask, **forget(remembered, timestep.done))
            return np.asarray(action)

        played = play_host_episodes(env.spec, batch, act, seeds, math.ceil(episodes / num_envs))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), played)

    batch = env.open(num_envs)
    try:
        own = zip(policies.items(), np.split(seeds, len(policies)), strict=True)
        return {name: play_out(policy, each) for (name, policy), each in own}
    finally:
        batch.close()


def evaluate_policy(env: Environment | HostEnvironment, policy: Policy, key: jax.Array, episodes: int) -> dict[str, Any]:
    """Evaluates a policy in whole episodes.

    Args:
        env: an environment without automatic reset.
        policy: as in `play_episodes`.
        key: random key, consumed.
        episodes: number of episodes, as in `play`.

    Returns:
        A dict: `return`, the sum of one agent's rewards over an episode, averaged over agents and episodes; `return_std_error`,
        its standard error over episodes (nan for one episode); `return_per_agent`, a list of n numbers; `episode_length`;
        `metrics`, the mean of each task metric.

    Raises:
        ValueError: if `episodes` is not a positive integer.
    """
    return _summarise(play(env, policy, key, episodes))


def evaluate_policies(
    env: Environment | HostEnvironment, policies: Mapping[str, Policy], key: jax.Array, episodes: int
) -> dict[str, dict[str, Any]]:
    """Evaluates several policies in one program, each in its own `episodes` episodes; name -> result of `evaluate_policy`."""
    require_count("episodes", episodes)
    if isinstance(env, HostEnvironment):
        played = _play_outside(env, policies, key, episodes)
        return {name: _summarise(each) for name, each in played.items()}
    keys = jax.random.split(key, len(policies))
    played = jax.device_get(_play_all(env, tuple(policies.values()), keys, episodes))
    return {name: _summarise(jax.tree.map(operator.itemgetter(i), played)) for i, name in enumerate(policies)}


@functools.partial(jax.jit, static_argnames=("env", "policies", "episodes"))
def _play_all(env: Environment, policies: tuple[Policy, ...], keys: jax.Array, episodes: int) -> Episodes:
    """As `play_episodes`, for several policies: leading axes (policies, E). The environment is compiled once."""

    def play_one(which: jax.Array, key: jax.Array) -> Episodes:
        def choose(observation: jax.Array, key: jax.Array, state: EnvState, action_mask: jax.Array | None = None) -> jax.Array:
            optional = {"action_mask": action_mask, "state": state}
            given = [{name: value for name, value in optional.items() if takes(policy, name)} for policy in policies]
            # Only one of the choices is used, therefore they may share a key.
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
