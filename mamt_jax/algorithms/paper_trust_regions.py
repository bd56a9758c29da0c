"""Trust regions of the paper (Eq. 12-15): sizes that maximise value minus a network's estimate of the joint divergence."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.active import active_mean
from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms import optimizers
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.mamd import trust_region
from mamt_jax.algorithms.trust_regions import TrustRegions, initial_log_epsilon
from mamt_jax.distributions import ActionDistribution, action_distribution
from mamt_jax.losses.opponent_model import non_stationarity, opponent_loss
from mamt_jax.losses.trust_region import decomposition_loss, expected_value
from mamt_jax.networks.opponent_model import opponent_models, ordered_pairs
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import restricted
from mamt_jax.networks.trust_region_network import symmetric_weights, trust_region_network
from mamt_jax.types import Config, Metrics, Params


@struct.dataclass
class TrustRegionState:
    """Learner state of the trust regions.

    Attributes:
        params: {"log_epsilon": (n,), "network": parameters of the decomposition network}.
        optimizer: optimiser state of `params`, with one timescale for each of its two entries.
        opponents: parameters of the modelling policies, with a leading axis of ordered pairs.
        opponent_optimizer: optimiser state of the modelling policies.
    """

    params: dict[str, Any]
    optimizer: optax.OptState
    opponents: Params
    opponent_optimizer: optax.OptState

    @property
    def log_epsilon(self) -> jax.Array:
        """Logarithms of the sizes of the trust regions, (n,)."""
        return self.params["log_epsilon"]


class TrustRegionParts(NamedTuple):
    """Networks, distribution and optimisers of the trust regions, as pure functions."""

    network: Network
    optimizer: optax.GradientTransformation
    opponents: Network
    opponent_distribution: ActionDistribution
    opponent_optimizer: optax.GradientTransformation


class Dependence(NamedTuple):
    """Dependence between agents, measured on a batch.

    Attributes:
        joint: the joint action that was drawn, the candidate actions and their values.
        features: (n, B, A), the joint action as input of the networks.
        coordination: (n, n, B), Eq. 14.
        non_stationarity: (n, B), Eq. 12.
    """

    joint: base.Evaluated
    features: jax.Array
    coordination: jax.Array
    non_stationarity: jax.Array


def trust_region_parts(spec: EnvSpec, config: Config) -> TrustRegionParts:
    """Build the networks and optimisers of the trust regions for `config`."""
    modelled = action_distribution(spec, tuple(j for _, j in ordered_pairs(spec.num_agents)))
    parameter_sizes = action_distribution(spec).parameter_sizes

    adam = functools.partial(optimizers.adam, b1=config.adam_b1, epsilon=config.adam_epsilon)

    def clipped_adam(rate: Any) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(config.max_decomposition_grad_norm * spec.num_agents), adam(rate))

    return TrustRegionParts(
        network=trust_region_network(spec, config.hidden_size),
        optimizer=optax.partition(config.timescale(config, adam, clipped_adam), {"log_epsilon": "slow", "network": "fast"}),
        opponents=restricted(opponent_models(spec.observation_sizes, parameter_sizes, config.hidden_size), modelled.restrict),
        opponent_distribution=modelled,
        opponent_optimizer=optimizers.clipped_adam_per_agent(
            config.opponent_learning_rate, config.max_opponent_grad_norm, config.adam_b1, config.adam_epsilon
        ),
    )


def init(spec: EnvSpec, config: Config, key: jax.Array) -> TrustRegionState:
    """Initialise the learner of the trust regions (Alg. 2, line 2)."""
    network_key, opponent_key = jax.random.split(key)
    parts = trust_region_parts(spec, config)
    params = {"log_epsilon": initial_log_epsilon(spec, config), "network": parts.network.init(network_key)}
    opponents = parts.opponents.init(opponent_key)
    return TrustRegionState(params, parts.optimizer.init(params), opponents, parts.opponent_optimizer.init(opponents))


def measure_dependence(
    config: Config,
    actor_critic: base.ActorCritic,
    parts: TrustRegionParts,
    learner: base.ActorCriticState,
    state: TrustRegionState,
    batch: Batch,
    key: jax.Array,
) -> Dependence:
    """Compute C (Eq. 14) and D (Eq. 12) with the current policies and critics."""
    observation = batch.observation
    n = observation.shape[0]
    joint = base.evaluate_policies(actor_critic, learner, observation, key, batch.action_mask)
    coordination = config.coordination(config, actor_critic, learner, batch, joint)

    observers, observed = np.array(ordered_pairs(n)).T
    expected = parts.opponents.apply(state.opponents, observation, of_agents(batch.action_mask, observed))
    actual = actor_critic.policy.apply(learner.policy, observation, batch.action_mask)[observed]
    surprise = parts.opponent_distribution.kl(expected, actual)
    divergence = jnp.zeros_like(coordination).at[observers, observed].set(surprise)
    features = actor_critic.distribution.features(joint.candidates.drawn_action)
    return Dependence(joint, features, coordination, non_stationarity(coordination, divergence, config.max_non_stationarity))


def of_agents(x: jax.Array | None, agents: np.ndarray) -> jax.Array | None:
    """Select the rows `agents` of `x` (n, ...); None stays None."""
    return None if x is None else x[agents]


def after_step(
    config: Config,
    actor_critic: base.ActorCritic,
    learner: base.ActorCriticState,
    batch: Batch,
    joint: base.Evaluated,
    log_epsilon: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Compute the values and divergences of the policies after one policy step under epsilon (Eq. 15).

    Returns:
        V_i (n,), and KL_i (n,), the divergence of the new policy of each agent from its old policy.
    """
    regulariser = trust_region(config, jnp.exp(log_epsilon))
    policy, _, _ = base.policy_step(config, actor_critic, learner, batch, joint, regulariser)
    candidates = joint.candidates
    parameters, old = (
        actor_critic.policy.apply(params, batch.observation, batch.action_mask) for params in (policy, learner.old_policy)
    )
    log_prob = actor_critic.distribution.candidate_log_prob(parameters, candidates)
    value = expected_value(candidates.probability * jnp.exp(log_prob - candidates.log_prob), joint.q, batch.active)
    return value, active_mean(actor_critic.distribution.kl(parameters, old), batch.active)


def step_gradients(
    effects: Callable[[jax.Array], tuple[jax.Array, jax.Array]], log_epsilon: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute the derivatives of V_i and KL_i with respect to log epsilon_i, (n,) each, in forward mode through `effects`.

    V_i and KL_i depend only on the epsilon of agent i, unless agents share a policy. With shared policies, the result is the
    derivative along all epsilons at once.
    """
    return jax.jvp(effects, (log_epsilon,), (jnp.ones_like(log_epsilon),))[1]


def trust_region_step(
    config: Config,
    actor_critic: base.ActorCritic,
    parts: TrustRegionParts,
    learner: base.ActorCriticState,
    state: TrustRegionState,
    batch: Batch,
    dependence: Dependence,
) -> tuple[TrustRegionState, Metrics]:
    """Update epsilon (Eq. 15) and the decomposition network (Eq. 13), each on its timescale, and clip epsilon to its bounds."""
    weights = symmetric_weights(dependence.coordination)

    def estimate(params: dict[str, Any]) -> jax.Array:
        shares = parts.network.apply(params["network"], batch.observation, dependence.features, params["log_epsilon"], weights)
        return shares if batch.active is None else jnp.where(batch.active, shares, 0.0)

    def loss(params: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        estimated = estimate(params)
        return decomposition_loss(estimated, dependence.non_stationarity), estimated

    log_epsilon, steps = state.params["log_epsilon"], config.epsilon_space(config)
    (network_loss, estimated), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    effects = functools.partial(after_step, config, actor_critic, learner, batch, dependence.joint)
    gain, own_cost = step_gradients(effects, log_epsilon)
    cost = config.divergence(config, log_epsilon, lambda value: estimate(state.params | {"log_epsilon": value}), own_cost)
    gradient |= {"log_epsilon": steps.slope(cost - config.value_weight * gain, log_epsilon)}
    step, optimizer_state = parts.optimizer.update(gradient, state.optimizer, state.params)
    step = cast(dict[str, Any], step)
    params = {
        "log_epsilon": steps.apply(log_epsilon, step["log_epsilon"]),
        "network": optax.apply_updates(state.params["network"], step["network"]),
    }
    metrics = {
        "decomposition_loss": network_loss,
        "estimated_divergence": active_mean(estimated, batch.active),
        "non_stationarity": dependence.non_stationarity.sum(0).mean(),
        "coordination_mean": dependence.coordination.mean(-1),
        "coordination_variance": dependence.coordination.var(-1),
        "value_gradient": gain,
        "cost_gradient": cost,
    }
    return dataclasses.replace(state, params=params, optimizer=optimizer_state), metrics


def opponent_step(
    config: Config, parts: TrustRegionParts, state: TrustRegionState, batch: Batch
) -> tuple[TrustRegionState, jax.Array]:
    """Take one step of the modelling policies, which predict the actions of the other agents (Eq. 12)."""
    observers, observed = np.array(ordered_pairs(batch.observation.shape[0])).T
    both_act = None if batch.active is None else batch.active[observers] & batch.active[observed]

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        parameters = parts.opponents.apply(params, batch.observation, of_agents(batch.action_mask, observed))
        log_prob = parts.opponent_distribution.log_prob(parameters, batch.action[observed])
        squared_norm = parts.opponent_distribution.squared_norm(parameters)
        losses = opponent_loss(log_prob, squared_norm, config.opponent_regularisation, both_act)
        return losses.sum(), losses

    gradient, losses = jax.grad(loss, has_aux=True)(state.opponents)
    opponents, optimizer_state = optimizers.descend(
        parts.opponent_optimizer, gradient, state.opponent_optimizer, state.opponents
    )
    state = dataclasses.replace(state, opponents=opponents, opponent_optimizer=optimizer_state)
    return state, losses.mean()


def update(
    spec: EnvSpec,
    config: Config,
    actor_critic: base.ActorCritic,
    learner: base.ActorCriticState,
    state: TrustRegionState,
    batch: Batch,
    key: jax.Array,
) -> tuple[TrustRegionState, Metrics]:
    """Update the trust regions and the modelling policies (Alg. 2, lines 11-16)."""
    parts = trust_region_parts(spec, config)
    dependence = measure_dependence(config, actor_critic, parts, learner, state, batch, key)
    state, metrics = trust_region_step(config, actor_critic, parts, learner, state, batch, dependence)
    state, model_loss = opponent_step(config, parts, state, batch)
    return state, metrics | {"opponent_loss": model_loss}


def paper(spec: EnvSpec, config: Config) -> TrustRegions:
    """Build the trust regions of the paper."""
    return TrustRegions(functools.partial(init, spec, config), functools.partial(update, spec, config))
