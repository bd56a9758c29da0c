"""Measures of how much agents depend on each other (Eq. 14), which MAMT takes as a function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.losses.coordination import coordination_coefficients, marginal_values
from mamt_jax.running_statistics import reward_unit
from mamt_jax.types import Config

CoordinationFn = Callable[[Config, base.ActorCritic, base.ActorCriticState, Batch, base.Evaluated], jax.Array]
"""(config, parts, learner, batch, joint action) -> C (n, n, B): how much i's value depends on j's action; C_ii = 0."""


def averaged_out(
    config: Config, parts: base.ActorCritic, learner: base.ActorCriticState, batch: Batch, joint: base.Evaluated
) -> jax.Array:
    """Eq. 14 itself: Q_i without j's action is Q_i with that action averaged out under j's policy."""
    candidates = joint.candidates
    action = candidates.drawn_action
    swapped = parts.critic.swapped_values(
        learner.critic, batch.observation, action, parts.distribution.features(action), candidates.action
    )
    marginal = marginal_values(swapped, candidates.probability) * _unit(config, learner)[..., None]
    return _coefficients(config, learner, batch, joint, marginal)


def value_shortcut(
    config: Config, parts: base.ActorCritic, learner: base.ActorCriticState, batch: Batch, joint: base.Evaluated
) -> jax.Array:
    """Eq. 14 with a shortcut: V_j stands for Q_i without j's action."""
    value = (joint.candidates.probability * joint.q).sum(-1) * _unit(config, learner)
    return _coefficients(config, learner, batch, joint, jnp.broadcast_to(value, (len(value), *value.shape)))


COORDINATIONS: dict[str, CoordinationFn] = {"exact": averaged_out, "values": value_shortcut}


def _unit(config: Config, learner: base.ActorCriticState) -> jax.Array:
    """(n, 1). Eq. 14's softmax is not invariant to scale, so values are in the environment's rewards, normalised or not."""
    return reward_unit(config.reward_normalisation, learner.reward_statistics)[:, None]


def _coefficients(
    config: Config, learner: base.ActorCriticState, batch: Batch, joint: base.Evaluated, marginal: jax.Array
) -> jax.Array:
    """C from the values without each other agent's action (n, n, B)."""
    q = jnp.take_along_axis(joint.q, joint.candidates.drawn[..., None], -1)[..., 0] * _unit(config, learner)
    return coordination_coefficients(marginal, q, config.coordination_threshold, batch.active)
