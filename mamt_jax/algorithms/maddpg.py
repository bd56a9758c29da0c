"""MADDPG (Lowe et al. 2017): every agent climbs a critic of its own that sees what all agents see and do.

What its field has since agreed on is kept: discrete actions are one-hot wherever a critic reads them, straight-through
Gumbel-softmax samples for actors and targets alike; a time limit bootstraps; gradients are clipped per agent.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.active import active_mean
from mamt_jax.algorithms import agent_major, optimizers
from mamt_jax.algorithms import parameter_sharing as sharing
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.distributions import action_distribution
from mamt_jax.divergence import policy_divergence
from mamt_jax.losses.actor import deterministic_policy_loss
from mamt_jax.losses.critic import squared_error
from mamt_jax.networks.centralized_critic import joint_critic
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import mlp_per_agent, restricted
from mamt_jax.reparameterized_actions import DifferentiableActions, noisy_tanh, straight_through
from mamt_jax.returns import td_target
from mamt_jax.running_statistics import RewardNormalisation, RunningStatistics, init_statistics, update_statistics
from mamt_jax.types import Metrics, Params, Transition
from mamt_jax.validation import require_positive, require_sound


@struct.dataclass
class MADDPGConfig:
    """Hyperparameters of MADDPG."""

    gamma: float = 0.99
    """Discount of future rewards."""
    tau: float = 0.01
    """Step of the target networks towards the learnt ones, each update."""
    policy_learning_rate: float = 1e-3
    """Adam's step for the policies."""
    critic_learning_rate: float = 1e-3
    """Adam's step for the critics."""
    adam_b1: float = 0.9
    """Adam's momentum."""
    adam_epsilon: float = 1e-7
    """Adam's epsilon."""
    policy_clip: float = 0.5
    """Largest norm of one agent's policy gradient."""
    critic_clip: float = 0.5
    """Largest norm of one agent's critic gradient."""
    temperature: float = 1.0
    """Of the Gumbel-softmax, where actions are discrete."""
    exploration_noise: float = 0.1
    """Deviation of what exploring adds to continuous actions, in half-widths of their range."""
    hidden_size: int = struct.field(pytree_node=False, default=128)
    """Width of every hidden layer."""
    reward_normalisation: RewardNormalisation = struct.field(pytree_node=False, default="standardise")
    """Rewards minus their running mean over their deviation, only over it, or as they are."""
    share_policy: bool = struct.field(pytree_node=False, default=False)
    """Whether agents whose observations and actions are alike learn one policy."""
    old_policy_interval: int = struct.field(pytree_node=False, default=100)
    """Updates after which the old policy, to which the divergence is measured, is copied from the current one."""


@struct.dataclass
class MADDPGState:
    """All that is learnt. Policies and critics have a leading agent axis."""

    policy: Params
    target_policy: Params
    old_policy: Params
    critic: Params
    target_critic: Params
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    observation_statistics: RunningStatistics
    reward_statistics: RunningStatistics
    updates: jax.Array


class MADDPG(NamedTuple):
    """The pure functions that a config picks."""

    actions: DifferentiableActions
    policy: Network
    critic: Network
    policy_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def make(spec: EnvSpec) -> Algorithm:
    """MADDPG for the agents of `spec`, all with discrete or all with continuous actions."""
    action_distribution(spec)  # refuses a mixture
    return Algorithm(
        config=MADDPGConfig,
        init=functools.partial(init, spec),
        act=functools.partial(act, spec),
        greedy=functools.partial(greedy, spec),
        update=functools.partial(update, spec),
        validate=validate,
    )


def validate(config: MADDPGConfig) -> None:
    """Refuse what no algorithm takes, and sizes and scales of zero."""
    require_sound(config)
    require_positive(config, ("hidden_size", "temperature", "exploration_noise", "old_policy_interval"))


def build(spec: EnvSpec, config: MADDPGConfig) -> MADDPG:
    """Actions, networks and optimisers for `config`."""
    actions = straight_through(spec, config.temperature) if spec.discrete else noisy_tanh(spec, config.exploration_noise)

    adam = functools.partial(optimizers.clipped_adam_per_agent, b1=config.adam_b1, epsilon=config.adam_epsilon)
    return MADDPG(
        actions=actions,
        policy=restricted(mlp_per_agent(spec.observation_sizes, actions.parameter_sizes, config.hidden_size), actions.restrict),
        critic=joint_critic(spec, config.hidden_size, actions=True),
        policy_optimizer=adam(config.policy_learning_rate, config.policy_clip),
        critic_optimizer=adam(config.critic_learning_rate, config.critic_clip),
    )


def init(spec: EnvSpec, config: MADDPGConfig, key: jax.Array) -> MADDPGState:
    """Fresh learner: targets and old policy equal the learnt networks."""
    parts = build(spec, config)
    policy_key, critic_key = jax.random.split(key)
    policy, critic = parts.policy.init(policy_key), parts.critic.init(critic_key)
    policy = sharing.as_first_of_kind(spec, policy) if config.share_policy else policy
    return MADDPGState(
        policy=policy,
        target_policy=optimizers.copy(policy),
        old_policy=optimizers.copy(policy),
        critic=critic,
        target_critic=optimizers.copy(critic),
        policy_optimizer=parts.policy_optimizer.init(policy),
        critic_optimizer=parts.critic_optimizer.init(critic),
        observation_statistics=init_statistics((spec.num_agents, spec.observation_size)),
        reward_statistics=init_statistics((spec.num_agents,)),
        updates=jnp.zeros((), jnp.int32),
    )


def act(
    spec: EnvSpec,
    config: MADDPGConfig,
    learner: MADDPGState,
    observation: jax.Array,
    key: jax.Array,
    action_mask: jax.Array | None = None,
) -> jax.Array:
    """Every agent's exploring action, of those in `action_mask` (..., n, A); observation (..., n, d) -> (..., n[, k])."""
    parts = build(spec, config)

    def choose(parameters: jax.Array) -> jax.Array:
        return parts.actions.explore(parameters, key)

    statistics = learner.observation_statistics
    return agent_major.act_by(choose, parts.policy, learner.policy, statistics, observation, action_mask)


def greedy(
    spec: EnvSpec,
    config: MADDPGConfig,
    learner: MADDPGState,
    observation: jax.Array,
    action_mask: jax.Array | None = None,
) -> jax.Array:
    """Every agent's best action, of those allowed; shapes as in `act`."""
    parts = build(spec, config)
    choose, statistics = parts.actions.greedy, learner.observation_statistics
    return agent_major.act_by(choose, parts.policy, learner.policy, statistics, observation, action_mask)


def critic_step(
    config: MADDPGConfig, parts: MADDPG, learner: MADDPGState, batch: Batch, key: jax.Array
) -> tuple[MADDPGState, jax.Array]:
    """One step of every critic towards `r_i + gamma Q_i'(o', mu'(o'))`."""
    values = jax.vmap(parts.critic.apply, (0, None, None))
    next_parameters = parts.policy.apply(learner.target_policy, batch.next_observation, batch.next_action_mask)
    next_action = parts.actions.relaxed(next_parameters, key)
    next_value = values(learner.target_critic, batch.next_observation, next_action)
    target = td_target(batch.reward, batch.terminated, next_value, config.gamma)

    def loss(params: Params) -> jax.Array:
        return squared_error(values(params, batch.observation, parts.actions.features(batch.action)), target, batch.active)

    value, gradient = jax.value_and_grad(loss)(learner.critic)
    critic, optimizer_state = optimizers.descend(parts.critic_optimizer, gradient, learner.critic_optimizer, learner.critic)
    return dataclasses.replace(learner, critic=critic, critic_optimizer=optimizer_state), value


def policy_step(
    spec: EnvSpec, config: MADDPGConfig, parts: MADDPG, learner: MADDPGState, batch: Batch, key: jax.Array
) -> tuple[Params, optax.OptState, jax.Array]:
    """One step of every policy up its own critic, the others' actions as replayed; new policies, optimiser, losses (n,)."""
    features = parts.actions.features(batch.action)
    own = jnp.eye(len(features), dtype=bool)[..., None, None]

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        parameters = parts.policy.apply(params, batch.observation, batch.action_mask)
        joint = jnp.where(own, parts.actions.relaxed(parameters, key)[None], features[None])
        q = jax.vmap(parts.critic.apply, (0, None, 0))(learner.critic, batch.observation, joint)
        losses = deterministic_policy_loss(q, parts.actions.squared_norm(parameters), batch.active)
        return losses.sum(), losses

    gradient, losses = jax.grad(loss, has_aux=True)(learner.policy)
    gradient = sharing.average_over_kinds(spec, gradient) if config.share_policy else gradient
    return *optimizers.descend(parts.policy_optimizer, gradient, learner.policy_optimizer, learner.policy), losses


def update(
    spec: EnvSpec, config: MADDPGConfig, learner: MADDPGState, batch: Transition, key: jax.Array
) -> tuple[MADDPGState, Metrics]:
    """Critics, then policies, then targets."""
    critic_key, policy_key = jax.random.split(key)
    parts = build(spec, config)
    observations = update_statistics(learner.observation_statistics, batch.observation, batch.active)
    rewards = update_statistics(learner.reward_statistics, batch.reward, batch.active)
    prepared = agent_major.prepare(observations, rewards, config.reward_normalisation, batch)
    learner, loss = critic_step(config, parts, learner, prepared, critic_key)
    policy, optimizer_state, losses = policy_step(spec, config, parts, learner, prepared, policy_key)

    current, previous, old = (
        parts.policy.apply(params, prepared.observation, prepared.action_mask)
        for params in (policy, learner.policy, learner.old_policy)
    )
    updates = learner.updates + 1
    renew = updates % config.old_policy_interval == 0
    learner = MADDPGState(
        policy=policy,
        target_policy=optax.incremental_update(policy, learner.target_policy, config.tau),
        old_policy=jax.tree.map(lambda new, old: jnp.where(renew, new, old), policy, learner.old_policy),
        critic=learner.critic,
        target_critic=optax.incremental_update(learner.critic, learner.target_critic, config.tau),
        policy_optimizer=optimizer_state,
        critic_optimizer=learner.critic_optimizer,
        observation_statistics=observations,
        reward_statistics=rewards,
        updates=updates,
    )
    entropies = active_mean(parts.actions.entropy(previous), prepared.active)
    metrics = {"critic_loss": loss, "policy_loss": losses, "entropy": entropies}
    return learner, metrics | policy_divergence(parts.actions.kl, current, previous, old, prepared.active)
