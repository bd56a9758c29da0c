"""MAMT (Alg. 2): MAMD whose trust regions are learnt, in one of several variants."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms import agent_major
from mamt_jax.algorithms.base import Algorithm, function_field
from mamt_jax.algorithms.coordination import COORDINATIONS, CoordinationFn
from mamt_jax.algorithms.dependence_trust_regions import dependence
from mamt_jax.algorithms.mamd import MAMDConfig, trust_region
from mamt_jax.algorithms.paper_trust_regions import paper
from mamt_jax.algorithms.trust_regions import (
    DIVERGENCES,
    EPSILON_SPACES,
    TIMESCALES,
    CostGradientFn,
    EpsilonSpaceFn,
    TimescaleFn,
    VariantFn,
)
from mamt_jax.types import Metrics, Transition
from mamt_jax.validation import BOUND, COUNT, COUNT_OR_NONE, FRACTION, number, static

VARIANTS: dict[str, VariantFn] = {"paper": paper, "dependence": dependence}


@struct.dataclass
class MAMTConfig(MAMDConfig):
    """Hyperparameters of MAMT: those of MAMD and of the learning of trust regions."""

    variant: VariantFn = function_field(VARIANTS, "paper")
    """How trust regions are learnt: paper follows Eq. 12-15; dependence sizes each region by who depends on the agent."""
    epsilon: float = number(10.0, BOUND)
    """Initial size of the trust region of every agent."""
    epsilon_min: float = number(0.01, BOUND)
    """Smallest trust region."""
    epsilon_max: float = number(100.0, BOUND)
    """Largest trust region."""
    epsilon_learning_rate: float = 1e-3
    """Learning rate of the sizes of the paper's trust regions (the slow timescale); 0 keeps them constant."""
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
    target_divergence: float = number(0.1, BOUND)
    """Divergence of the policies from the old ones, in nats, to which the dependence variant adapts the weight of its cost: the
    sum over agents, each weighted by how much others depend on it."""
    dependence_threshold: float = number(0.05, FRACTION)
    """Smallest coordination coefficient of the dependence variant. Smaller ones are set to 0."""
    coordination: CoordinationFn = function_field(COORDINATIONS, "exact")
    """Value of agent i without the action of j (Eq. 14): exact averages that action out of Q_i, values uses V_j instead."""
    divergence: CostGradientFn = function_field(DIVERGENCES, "network")
    """Cost of trust regions (Eq. 15): network uses the estimate of the decomposition network, policies uses the divergence of
    each policy from its old policy (the mean-field decomposition)."""
    value_weight: float = 1.0
    """Weight of the value in the objective of the trust regions (Eq. 15). With 0 they minimise the divergence alone."""


@struct.dataclass
class MAMTState:
    """Learner state of MAMT: that of MAMD and that of the trust regions, which depends on the variant."""

    base: base.ActorCriticState
    trust_region: Any


def validate(config: MAMTConfig) -> None:
    """Check the fields of a config.

    Raises:
        ValueError: if a field is not valid, or `epsilon_max` is less than `epsilon_min`.
    """
    base.validate(config)
    if config.epsilon_max < config.epsilon_min:
        raise ValueError(f"epsilon_max={config.epsilon_max} must be at least epsilon_min={config.epsilon_min}.")


def init(spec: EnvSpec, config: MAMTConfig, key: jax.Array) -> MAMTState:
    """Initialise the learner (Alg. 2, lines 1-2)."""
    base_key, trust_region_key = jax.random.split(key)
    trust_regions = config.variant(spec, config)
    return MAMTState(base.init(base.actor_critic, spec, config, base_key), trust_regions.init(trust_region_key))


def update(
    spec: EnvSpec, config: MAMTConfig, learner: MAMTState, batch: Transition, key: jax.Array
) -> tuple[MAMTState, Metrics]:
    """Update the trust regions on the first rows of the batch, then run the update of MAMD with the new epsilon (Alg. 2)."""
    keys = base.split_update_key(key)
    actor_critic, trust_regions = base.actor_critic(spec, config), config.variant(spec, config)
    rows = config.trust_region_batch_size or batch.reward.shape[0]
    sample = base.prepare(config, learner.base, jax.tree.map(lambda x: x[:rows], batch))
    state, metrics = trust_regions.update(actor_critic, learner.base, learner.trust_region, sample, keys.dependence)
    epsilon = jnp.exp(state.log_epsilon)
    base_state, base_metrics = base.update(actor_critic, config, learner.base, batch, keys, trust_region(config, epsilon))
    return MAMTState(base_state, state), base_metrics | metrics | {"epsilon": epsilon}


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
