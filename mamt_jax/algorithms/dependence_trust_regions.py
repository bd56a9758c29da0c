"""Trust regions that follow the dependence between agents: the more others depend on an agent, the smaller its region.

Sizes maximise what the values of all agents gain by an exact mirror step of each agent (Eq. 1-2), minus the divergence of
that step, weighted by who depends on the agent. Where nobody does, the region grows without bound, as in MAMD-OP (App. F).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.active import active_mean
from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.coordination import pair_values
from mamt_jax.algorithms.trust_regions import TrustRegions, initial_log_epsilon
from mamt_jax.distributions import LOWEST, Candidates
from mamt_jax.losses.coordination import dependence_coefficients, influence, relative_influence
from mamt_jax.losses.mirror_step import divergence_slope, mirror_step, value_slope
from mamt_jax.types import Config, Metrics, Params

EPSILON_RATE = 0.03
"""Step of log epsilon per update, where value and cost have slopes of very different size."""
MULTIPLIER_RATE = 0.005
"""Step of the logarithm of the multiplier per update, where the divergence is twice its target. It is slower than epsilon."""


@struct.dataclass
class DependenceState:
    """Learner state of trust regions that follow dependence.

    Attributes:
        log_epsilon: (n,), logarithms of the sizes.
        log_multiplier: (), logarithm of the weight of the cost.
    """

    log_epsilon: jax.Array
    log_multiplier: jax.Array


class Measured(NamedTuple):
    """Values and dependence on a batch.

    Attributes:
        joint: the joint action that was drawn, the candidate actions and their values.
        total_q: (n, B, K), the sum over all active agents i of Q_i for each candidate action of agent j.
        ratio: (n, n, B), influence of agent j on agent i, relative to that of i itself.
        coordination: (n, n, B), coefficients C.
        weight: (n, B), the sum over i of C_ij: how much others depend on agent j.
    """

    joint: base.Evaluated
    total_q: jax.Array
    ratio: jax.Array
    coordination: jax.Array
    weight: jax.Array


def init(spec: EnvSpec, config: Config, key: jax.Array) -> DependenceState:
    """Initialise the sizes, and the multiplier with which they are optimal for agents of weight 1."""
    del key
    log_epsilon = initial_log_epsilon(spec, config)
    return DependenceState(log_epsilon, -log_epsilon[0])


def measure(
    spec: EnvSpec, config: Config, actor_critic: base.ActorCritic, learner: base.ActorCriticState, batch: Batch, key: jax.Array
) -> Measured:
    """Measure the dependence between agents with the current policies and critics."""
    joint_key, alternatives_key = jax.random.split(key)
    joint = base.evaluate_policies(actor_critic, learner, batch.observation, joint_key, batch.action_mask)
    parameters = actor_critic.policy.apply(learner.policy, batch.observation, batch.action_mask)
    alternatives = actor_critic.distribution.alternatives(parameters, alternatives_key)
    of_actions = functools.partial(pair_values, actor_critic, learner, batch, joint)
    q = of_actions(joint.candidates.action)
    # Candidates are all actions where actions are discrete, and samples of the policy where they are continuous.
    spread = influence(q if spec.discrete else of_actions(alternatives.action), alternatives.possible)
    ratio = relative_influence(spread, batch.active)
    coordination = dependence_coefficients(ratio, config.dependence_threshold)
    q = q if batch.active is None else jnp.where(batch.active[:, None, :, None], q, 0.0)
    return Measured(joint, q.sum(0), ratio, coordination, coordination.sum(0))


def old_log_probability(candidates: Candidates, old_log_prob: jax.Array) -> jax.Array:
    """Logarithms of the old policies' probabilities of the candidates (n, B, K), by importance weights for samples."""
    possible = candidates.probability > 0
    log_probability = jnp.log(jnp.where(possible, candidates.probability, 1.0)) + old_log_prob - candidates.log_prob
    return jax.nn.log_softmax(jnp.where(possible, log_probability, LOWEST))


def slopes(measured: Measured, active: jax.Array | None, log_epsilon: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the slopes over log epsilon of what all agents gain by a mirror step, and of its weighted cost, (n,) each."""
    joint, epsilon = measured.joint, jnp.exp(log_epsilon)
    probability = mirror_step(old_log_probability(joint.candidates, joint.old_log_prob), joint.q, epsilon)
    gain = value_slope(probability, joint.q, measured.total_q, epsilon)
    cost = measured.weight * divergence_slope(probability, joint.q, epsilon)
    return active_mean(gain, active), active_mean(cost, active)


def joint_divergence(
    actor_critic: base.ActorCritic, learner: base.ActorCriticState, batch: Batch, weight: jax.Array
) -> jax.Array:
    """Compute the weighted divergence of the current policies from the old ones, summed over agents, () in nats."""

    def parameters(params: Params) -> jax.Array:
        return actor_critic.policy.apply(params, batch.observation, batch.action_mask)

    new, old = parameters(learner.policy), parameters(learner.old_policy)
    return active_mean(weight * actor_critic.distribution.kl(new, old), batch.active).sum()


def relative_slope(gain: jax.Array, cost: jax.Array) -> jax.Array:
    """Compute (gain - cost) / (abs(gain) + cost), from -1 to 1.

    Both slopes vanish together as policies become deterministic. Their relative difference does not.
    """
    return (gain - cost) / jnp.maximum(jnp.abs(gain) + cost, jnp.finfo(gain.dtype).tiny)


def update(
    spec: EnvSpec,
    config: Config,
    actor_critic: base.ActorCritic,
    learner: base.ActorCriticState,
    state: DependenceState,
    batch: Batch,
    key: jax.Array,
) -> tuple[DependenceState, Metrics]:
    """Move the sizes up the slope of value minus cost, and the multiplier so that the joint divergence comes to its target."""
    measured = measure(spec, config, actor_critic, learner, batch, key)
    gain, cost = slopes(measured, batch.active, state.log_epsilon)
    gain, cost = config.value_weight * gain, jnp.exp(state.log_multiplier) * cost
    slope = relative_slope(gain, cost)
    divergence = joint_divergence(actor_critic, learner, batch, measured.weight)
    excess = jnp.clip(divergence / config.target_divergence - 1.0, -1.0, 1.0)
    low, high = jnp.log(config.epsilon_min), jnp.log(config.epsilon_max)
    state = DependenceState(
        log_epsilon=jnp.clip(state.log_epsilon + EPSILON_RATE * slope, low, high),
        log_multiplier=jnp.clip(state.log_multiplier + MULTIPLIER_RATE * excess, -high, -low),
    )
    metrics = {
        "influence": measured.ratio.mean(-1),
        "coordination_mean": measured.coordination.mean(-1),
        "coordination_variance": measured.coordination.var(-1),
        "joint_divergence": divergence,
        "multiplier": jnp.exp(state.log_multiplier),
        "value_gradient": gain,
        "cost_gradient": cost,
    }
    return state, metrics


def dependence(spec: EnvSpec, config: Config) -> TrustRegions:
    """Build trust regions that follow the dependence between agents."""
    return TrustRegions(functools.partial(init, spec, config), functools.partial(update, spec, config))
