"""MAMT (Alg. 2): MAMD with learnt trust regions. Their cost decomposes the divergence of the joint policy over agents."""

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
from mamt_jax.algorithms import agent_major, optimizers
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.base import Algorithm, function_field
from mamt_jax.algorithms.coordination import COORDINATIONS, CoordinationFn
from mamt_jax.algorithms.mamd import MAMDConfig, trust_region
from mamt_jax.algorithms.trust_regions import (
    DIVERGENCES,
    EPSILON_SPACES,
    TIMESCALES,
    CostGradientFn,
    EpsilonSpaceFn,
    TimescaleFn,
)
from mamt_jax.distributions import ActionDistribution, action_distribution
from mamt_jax.losses.opponent_model import non_stationarity, opponent_loss
from mamt_jax.losses.trust_region import decomposition_loss, expected_value
from mamt_jax.networks.opponent_model import opponent_models, ordered_pairs
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import restricted
from mamt_jax.networks.trust_region_network import symmetric_weights, trust_region_network
from mamt_jax.types import Metrics, Params, Transition
from mamt_jax.validation import BOUND, COUNT, COUNT_OR_NONE, FRACTION, number, static


@struct.dataclass
class MAMTConfig(MAMDConfig):
    """Hyperparameters of MAMT: those of MAMD and of the learning of trust regions."""

    epsilon: float = number(10.0, BOUND)
    """Initial size of the trust region of every agent."""
    epsilon_min: float = number(0.01, BOUND)
    """Smallest trust region."""
    epsilon_max: float = number(100.0, BOUND)
    """Largest trust region."""
    epsilon_learning_rate: float = 1e-3
    """Learning rate of the sizes of trust regions (the slow timescale); 0 keeps them constant."""
    epsilon_space: EpsilonSpaceFn = function_field(EPSILON_SPACES, "log")
    """Space in which epsilon is updated: log updates log epsilon, in proportion to the size; linear updates epsilon itself."""
    decomposition_learning_rate: float = 1e-3
    """Learning rate of the trust region decomposition network (the fast timescale)."""
    max_decomposition_grad_norm: float = number(10.0, BOUND)
    """Maximum norm of the decomposition network's gradient, divided by the number of agents."""
    coordination_threshold: float = number(0.2, FRACTION)
    """Threshold delta. Smaller coordination coefficients are set to 0."""
    max_non_stationarity: float = number(10.0, BOUND)
    """Maximum non-stationarity of each agent, in nats."""
    opponent_learning_rate: float = 1e-3
    """Learning rate of the modelling policies."""
    opponent_regularisation: float = 1e-3
    """Coefficient of the L2 penalty on the outputs of the modelling policies."""
    max_opponent_grad_norm: float = number(0.5, BOUND)
    """Maximum norm of the gradient of each modelling policy."""
    timescale: TimescaleFn = function_field(TIMESCALES, "delayed")
    """Separation of the two timescales: delayed takes several steps of the network for each step of epsilon, decaying lowers
    the learning rate of epsilon faster than that of the network."""
    epsilon_delay: int = static(2, COUNT)
    """Number of steps of the network for each step of epsilon, with the delayed timescale."""
    decay_horizon: int = static(1000, COUNT)
    """Number of updates after which the learning rate of epsilon is halved, with the decaying timescale."""
    trust_region_batch_size: int = static(128, COUNT_OR_NONE)
    """Number of rows of each batch from which trust regions are learnt; 0 uses all rows."""
    coordination: CoordinationFn = function_field(COORDINATIONS, "exact")
    """Value of agent i without the action of j (Eq. 14): exact averages that action out of Q_i, values uses V_j instead."""
    divergence: CostGradientFn = function_field(DIVERGENCES, "network")
    """Cost of trust regions (Eq. 15): network uses the estimate of the decomposition network, policies uses the divergence of
    each policy from its old policy (the mean-field decomposition)."""
    value_weight: float = 1.0
    """Weight of the value in the objective of the trust regions (Eq. 15). With 0 they minimise the divergence alone."""


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


@struct.dataclass
class MAMTState:
    """Learner state of MAMT: that of MAMD and that of the trust regions."""

    base: base.ActorCriticState
    trust_region: TrustRegionState


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


def validate(config: MAMTConfig) -> None:
    """Check the fields of a config.

    Raises:
        ValueError: if a field is not valid, or `epsilon_max` is less than `epsilon_min`.
    """
    base.validate(config)
    if config.epsilon_max < config.epsilon_min:
        raise ValueError(f"epsilon_max={config.epsilon_max} must be at least epsilon_min={config.epsilon_min}.")


def trust_region_parts(spec: EnvSpec, config: MAMTConfig) -> TrustRegionParts:
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


def init(spec: EnvSpec, config: MAMTConfig, key: jax.Array) -> MAMTState:
    """Initialise the learner (Alg. 2, lines 1-2). Every epsilon starts at `config.epsilon`, clipped to its bounds."""
    base_key, network_key, opponent_key = jax.random.split(key, 3)
    parts = trust_region_parts(spec, config)
    start = jnp.clip(jnp.full(spec.num_agents, config.epsilon, jnp.float32), config.epsilon_min, config.epsilon_max)
    params = {"log_epsilon": jnp.log(start), "network": parts.network.init(network_key)}
    opponents = parts.opponents.init(opponent_key)
    return MAMTState(
        base=base.init(base.actor_critic, spec, config, base_key),
        trust_region=TrustRegionState(
            params, parts.optimizer.init(params), opponents, parts.opponent_optimizer.init(opponents)
        ),
    )


def measure_dependence(
    config: MAMTConfig,
    actor_critic: base.ActorCritic,
    parts: TrustRegionParts,
    learner: MAMTState,
    batch: Batch,
    key: jax.Array,
) -> Dependence:
    """Compute C (Eq. 14) and D (Eq. 12) with the current policies and critics."""
    observation = batch.observation
    n = observation.shape[0]
    joint = base.evaluate_policies(actor_critic, learner.base, observation, key, batch.action_mask)
    coordination = config.coordination(config, actor_critic, learner.base, batch, joint)

    observers, observed = np.array(ordered_pairs(n)).T
    expected = parts.opponents.apply(learner.trust_region.opponents, observation, of_agents(batch.action_mask, observed))
    actual = actor_critic.policy.apply(learner.base.policy, observation, batch.action_mask)[observed]
    surprise = parts.opponent_distribution.kl(expected, actual)
    divergence = jnp.zeros_like(coordination).at[observers, observed].set(surprise)
    features = actor_critic.distribution.features(joint.candidates.drawn_action)
    return Dependence(joint, features, coordination, non_stationarity(coordination, divergence, config.max_non_stationarity))


def of_agents(x: jax.Array | None, agents: np.ndarray) -> jax.Array | None:
    """Select the rows `agents` of `x` (n, ...); None stays None."""
    return None if x is None else x[agents]


def after_step(
    config: MAMTConfig,
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
    config: MAMTConfig,
    actor_critic: base.ActorCritic,
    parts: TrustRegionParts,
    learner: MAMTState,
    batch: Batch,
    dependence: Dependence,
) -> tuple[TrustRegionState, Metrics]:
    """Update epsilon (Eq. 15) and the decomposition network (Eq. 13), each on its timescale, and clip epsilon to its bounds."""
    state, weights = learner.trust_region, symmetric_weights(dependence.coordination)

    def estimate(params: dict[str, Any]) -> jax.Array:
        shares = parts.network.apply(params["network"], batch.observation, dependence.features, params["log_epsilon"], weights)
        return shares if batch.active is None else jnp.where(batch.active, shares, 0.0)

    def loss(params: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        estimated = estimate(params)
        return decomposition_loss(estimated, dependence.non_stationarity), estimated

    log_epsilon, steps = state.params["log_epsilon"], config.epsilon_space(config)
    (network_loss, estimated), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    effects = functools.partial(after_step, config, actor_critic, learner.base, batch, dependence.joint)
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
    config: MAMTConfig, parts: TrustRegionParts, state: TrustRegionState, batch: Batch
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
    spec: EnvSpec, config: MAMTConfig, learner: MAMTState, batch: Transition, key: jax.Array
) -> tuple[MAMTState, Metrics]:
    """Update the trust regions and the modelling policies, then run the update of MAMD with the new epsilon (Alg. 2)."""
    keys = base.split_update_key(key)
    actor_critic, parts = base.actor_critic(spec, config), trust_region_parts(spec, config)
    rows = config.trust_region_batch_size or batch.reward.shape[0]
    sample = base.prepare(config, learner.base, jax.tree.map(lambda x: x[:rows], batch))
    dependence = measure_dependence(config, actor_critic, parts, learner, sample, keys.dependence)
    trust_state, metrics = trust_region_step(config, actor_critic, parts, learner, sample, dependence)
    trust_state, model_loss = opponent_step(config, parts, trust_state, sample)
    epsilon = jnp.exp(trust_state.params["log_epsilon"])
    base_state, base_metrics = base.update(actor_critic, config, learner.base, batch, keys, trust_region(config, epsilon))
    metrics |= {"epsilon": epsilon, "opponent_loss": model_loss}
    return MAMTState(base_state, trust_state), base_metrics | metrics


def make(spec: EnvSpec) -> Algorithm:
    """Create MAMT for the agents of `spec`.

    Raises:
        ValueError: if the environment has a single agent.
    """
    played = base.algorithm(spec, MAMTConfig, functools.partial(update, spec))

    def act(
        config: MAMTConfig, learner: MAMTState, observation: jax.Array, key: jax.Array, action_mask: jax.Array | None = None
    ) -> jax.Array:
        return played.act(config, learner.base, observation, key, action_mask)

    def greedy(
        config: MAMTConfig, learner: MAMTState, observation: jax.Array, action_mask: jax.Array | None = None
    ) -> jax.Array:
        return played.greedy(config, learner.base, observation, action_mask)

    return played._replace(init=functools.partial(init, spec), act=act, greedy=greedy, policy=policy, validate=validate)


def policy(learner: MAMTState) -> MAMTState:
    """Select the part of the learner state that `act` and `greedy` read."""
    return MAMTState(base=agent_major.policy(learner.base), trust_region=cast(Any, None))
