"""MAAC (Iqbal & Sha 2019): no trust region; the policy gradient's regulariser is the entropy."""

import functools

import jax

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms.agent_major import Build
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.losses.actor import entropy_penalty
from mamt_jax.types import Metrics, Transition


def make(spec: EnvSpec, build: Build = base.actor_critic) -> Algorithm:
    """MAAC for the agents of `spec`, with the networks and optimisers that `build` makes of `spec` and a config."""
    return base.algorithm(spec, base.ActorCriticConfig, functools.partial(update, build, spec), build)


def update(
    build: Build,
    spec: EnvSpec,
    config: base.ActorCriticConfig,
    learner: base.ActorCriticState,
    batch: Transition,
    key: jax.Array,
) -> tuple[base.ActorCriticState, Metrics]:
    """One step of critics, policies and targets."""

    def regulariser(log_prob: jax.Array, old_log_prob: jax.Array) -> jax.Array:
        return entropy_penalty(log_prob, 1.0 / config.reward_scale)

    return base.update(build(spec, config), config, learner, batch, base.split_update_key(key), regulariser)
