"""Selectable measures of the dependence between agents (Eq. 14) for MAMT."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.losses.coordination import coordination_coefficients, marginal_values
from mamt_jax.running_statistics import reward_unit
from mamt_jax.types import Config

CoordinationFn = Callable[[Config, base.ActorCritic, base.ActorCriticState, Batch, base.Evaluated], jax.Array]
"""Function (config, parts, learner, batch, joint action) -> coordination coefficients C (n, n, B).

C_ij measures how much the value of agent i depends on the action of agent j, and C_ii = 0.
"""


def averaged_out(
    config: Config, parts: base.ActorCritic, learner: base.ActorCriticState, batch: Batch, joint: base.Evaluated
) -> jax.Array:
    """Compute the coordination coefficients of Eq. 14, which average the action of j out of Q_i under the policy of j."""
    candidates = joint.candidates
    swapped = _swapped_values(parts, learner, batch, joint, candidates.action)
    marginal = marginal_values(swapped, candidates.probability) * _unit(config, learner)[..., None]
    return _coefficients(config, learner, batch, joint, marginal)


def value_shortcut(
    config: Config, parts: base.ActorCritic, learner: base.ActorCriticState, batch: Batch, joint: base.Evaluated
) -> jax.Array:
    """Approximate the coordination coefficients of Eq. 14: V_j replaces Q_i with the action of j averaged out."""
    value = (joint.candidates.probability * joint.q).sum(-1) * _unit(config, learner)
    return _coefficients(config, learner, batch, joint, jnp.broadcast_to(value, (len(value), *value.shape)))


COORDINATIONS: dict[str, CoordinationFn] = {"exact": averaged_out, "values": value_shortcut}


def pair_values(
    parts: base.ActorCritic, learner: base.ActorCriticState, batch: Batch, joint: base.Evaluated, action: jax.Array
) -> jax.Array:
    """Q_i with the drawn action of j replaced by each of the actions `action` (n, B, K) of j, also for i = j: (n, n, B, K)."""
    features = parts.distribution.features(joint.candidates.drawn_action)
    own = parts.critic.values(learner.critic, batch.observation, features, action).q
    swapped = _swapped_values(parts, learner, batch, joint, action)
    return jnp.where(np.eye(len(own), dtype=bool)[..., None, None], own[:, None], swapped)


def _swapped_values(
    parts: base.ActorCritic, learner: base.ActorCriticState, batch: Batch, joint: base.Evaluated, action: jax.Array
) -> jax.Array:
    """As `pair_values`, undefined for i = j."""
    drawn = joint.candidates.drawn_action
    return parts.critic.swapped_values(learner.critic, batch.observation, drawn, parts.distribution.features(drawn), action)


def _unit(config: Config, learner: base.ActorCriticState) -> jax.Array:
    """Factor (n, 1) from critic values to the reward units of the environment.

    The softmax of Eq. 14 is not invariant to scale. Values are therefore compared in these units, whether or not rewards are
    normalised.
    """
    return reward_unit(config.reward_normalisation, learner.reward_statistics)[:, None]


def _coefficients(
    config: Config, learner: base.ActorCriticState, batch: Batch, joint: base.Evaluated, marginal: jax.Array
) -> jax.Array:
    """Compute C (n, n, B) from `marginal` (n, n, B), where [i, j] is Q_i with the action of j averaged out."""
    q = jnp.take_along_axis(joint.q, joint.candidates.drawn[..., None], -1)[..., 0] * _unit(config, learner)
    return coordination_coefficients(marginal, q, config.coordination_threshold, batch.active)
