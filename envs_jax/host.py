"""Whole episodes of environments outside JAX."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from envs_jax.environment import EnvSpec, HostBatch, HostEnvironment
from envs_jax.reference_policies import do_nothing_policy, random_policy

HostPolicy = Callable[[np.ndarray, int], np.ndarray]
"""(observation (E, n, d), number of the step) -> action (E, n) or (E, n, k)."""


class Episodes(NamedTuple):
    """K whole episodes of each of E environments.

    Attributes:
        episode_return: (E, K, n), the sum of each agent's rewards.
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
    observation, everyone = batch.reset(seeds).observation, np.arange(len(seeds))
    total = np.zeros((len(seeds), episodes + 1, observation.shape[1]))  # the last place takes what comes after
    length, sums = np.zeros(total.shape[:2]), {}
    number, step = np.zeros(len(seeds), int), 0
    while (number < episodes).any():
        timestep = batch.step(policy(observation, step))
        observation, step = np.asarray(timestep.observation), step + 1
        total[everyone, number] += timestep.reward
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
    random, idle = random_policy(spec), np.asarray(do_nothing_policy(spec)(key, None))
    draw = jax.jit(
        lambda step: jax.vmap(lambda key: random(key, None))(jax.random.split(jax.random.fold_in(key, step), num_envs))
    )
    return {
        "random": lambda observation, step: np.asarray(draw(step)),
        "do_nothing": lambda observation, step: np.broadcast_to(idle, (num_envs, *idle.shape)),
    }
