"""Whole episodes of environments outside JAX."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from envs_jax.environment import EnvSpec, HostBatch, HostEnvironment, TimeStep
from envs_jax.reference_policies import Policy, do_nothing_policy, random_policy

HostPolicy = Callable[[TimeStep, int], np.ndarray]
"""(what E environments show, number of the step) -> action (E, n) or (E, n, k)."""


class Episodes(NamedTuple):
    """K whole episodes of each of E environments.

    Attributes:
        episode_return: (E, K, n), the sum of each agent's rewards up to its own end.
        metrics: each task metric's mean over the steps of an episode, (E, K).
        length: (E, K), steps.
    """

    episode_return: np.ndarray
    metrics: dict[str, np.ndarray]
    length: np.ndarray


def play_episodes(batch: HostBatch, policy: HostPolicy, seeds: np.ndarray, episodes: int) -> Episodes:
    """The first `episodes` episodes of each environment, so that short ones do not count more often.

    Args:
        batch: E environments; they begin anew.
        policy: who acts.
        seeds: (E,).
        episodes: K.
    """
    timestep, everyone = batch.reset(seeds), np.arange(len(seeds))
    active = np.ones_like(timestep.terminated) if timestep.active is None else np.asarray(timestep.active)
    total = np.zeros((len(seeds), episodes + 1, active.shape[1]))  # the last place takes what comes after
    length, sums = np.zeros(total.shape[:2]), {}
    number, step = np.zeros(len(seeds), int), 0
    while (number < episodes).any():
        timestep, step = batch.step(policy(timestep, step)), step + 1
        total[everyone, number] += np.where(active, timestep.reward, 0.0)
        active = timestep.next_active(active)
        length[everyone, number] += 1
        for name, metric in timestep.metrics.items():
            sums.setdefault(name, np.zeros_like(length))[everyone, number] += metric
        number = np.minimum(number + timestep.done, episodes)
    metrics = {name: (value / np.maximum(length, 1))[:, :episodes] for name, value in sums.items()}
    return Episodes(total[:, :episodes], metrics, length[:, :episodes])


def play_host_references(env: HostEnvironment, seed: int, num_envs: int, episodes: int) -> dict[str, Episodes]:
    """`episodes` episodes of each of `num_envs` environments under the random and the do-nothing policy."""
    policies = _reference_policies(env.spec, seed, num_envs)
    seeds = np.random.SeedSequence(seed).generate_state(len(policies) * num_envs).reshape(len(policies), -1)
    batch = env.open(num_envs)
    try:
        return {
            name: play_episodes(batch, policy, own, episodes)
            for (name, policy), own in zip(policies.items(), seeds, strict=True)
        }
    finally:
        batch.close()


def _reference_policies(spec: EnvSpec, seed: int, num_envs: int) -> dict[str, HostPolicy]:
    key = jax.random.key(seed)

    def host_policy(policy: Policy) -> HostPolicy:
        @jax.jit
        def draw(action_mask: jax.Array, step: int) -> jax.Array:
            keys = jax.random.split(jax.random.fold_in(key, step), num_envs)
            return jax.vmap(lambda key, mask: policy(key, None, action_mask=mask))(keys, action_mask)

        return lambda timestep, step: np.asarray(draw(timestep.action_mask, step))

    return {"random": host_policy(random_policy(spec)), "do_nothing": host_policy(do_nothing_policy(spec))}
