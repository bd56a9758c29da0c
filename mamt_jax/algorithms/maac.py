"""MAAC (Iqbal & Sha 2019): attention critics, and a policy gradient that is regularised by the entropy."""

import functools

import jax

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms.agent_major import Build
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.losses.actor import entropy_penalty
from mamt_jax.types import Metrics, Transition


def make(spec: EnvSpec, build: Build = base.actor_critic) -> Algorithm:
    """Create MAAC for the agents of `spec`. `build` is a function (spec, config) -> networks and optimisers."""
    return base.algorithm(spec, base.ActorCriticConfig, functools.partial(update, build, spec), build)


def update(
    build: Build,
    spec: EnvSpec,
    config: base.ActorCriticConfig,
    learner: base.ActorCriticState,
    batch: Transition,
    key: jax.Array,
) -> tuple[base.ActorCriticState, Metrics]:
    """Update the critics, the policies and the target networks on a batch."""

    def regulariser(log_prob: jax.Array, old_log_prob: jax.Array) -> jax.Array:
        return entropy_penalty(log_prob, 1.0 / config.reward_scale)

    return base.update(build(spec, config), config, learner, batch, base.split_update_key(key), regulariser)
