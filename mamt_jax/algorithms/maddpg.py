"""MADDPG (Lowe et al. 2017): deterministic policies and one centralized critic per agent.

It follows later practice in four points. Critics read discrete actions as one-hot vectors. Policies and targets draw discrete
actions as straight-through Gumbel-softmax samples. Targets bootstrap at a time limit. Gradients are clipped per agent.
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
from mamt_jax.algorithms import actor_critic, agent_major, optimizers
from mamt_jax.algorithms import parameter_sharing as sharing
from mamt_jax.algorithms.actor_critic import ActorCriticState, OffPolicyConfig
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.distributions import action_distribution
from mamt_jax.divergence import policy_divergence
from mamt_jax.losses.actor import deterministic_policy_loss
from mamt_jax.losses.critic import squared_error
from mamt_jax.networks.centralized_critic import centralized_critic
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import mlp_per_agent, restricted
from mamt_jax.reparameterized_actions import ReparameterizedActions, noisy_tanh, straight_through
from mamt_jax.returns import n_step_return, td_target
from mamt_jax.types import Metrics, Params, Transition
from mamt_jax.validation import BOUND, FRACTION, POSITIVE, number, require_valid, static


@struct.dataclass
class MADDPGConfig(OffPolicyConfig):
    """Hyperparameters of MADDPG."""

    tau: float = number(0.01, FRACTION)
    """Step size of the Polyak averaging that moves the target networks towards the learnt networks in each update."""
    max_critic_grad_norm: float = number(0.5, BOUND)
    """Maximum norm of each agent's critic gradient."""
    temperature: float = number(1.0, POSITIVE)
    """Temperature of the Gumbel-softmax, used where actions are discrete."""
    exploration_noise: float = number(0.1, POSITIVE)
    """Standard deviation of the exploration noise on continuous actions, relative to half the width of their range."""
    share_policy: bool = static(False)
    """Whether agents with equal observation and action spaces share one policy."""


class MADDPG(NamedTuple):
    """Networks, action distribution and optimisers of a config, as pure functions."""

    distribution: ReparameterizedActions
    policy: Network
    critic: Network
    policy_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def make(spec: EnvSpec) -> Algorithm:
    """Create MADDPG for the agents of `spec`.

    Raises:
        ValueError: if some agents have discrete and others continuous actions.
    """
    action_distribution(spec)  # raises ValueError for a mixture
    return Algorithm(
        config=MADDPGConfig,
        init=functools.partial(actor_critic.init, build, spec),
        act=functools.partial(agent_major.act, build, spec),
        greedy=functools.partial(agent_major.greedy, build, spec),
        update=functools.partial(update, spec),
        policy=agent_major.policy,
        validate=require_valid,
        multi_step=True,
    )


def build(spec: EnvSpec, config: MADDPGConfig) -> MADDPG:
    """Build the networks, the action distribution and the optimisers for `config`."""
    actions = straight_through(spec, config.temperature) if spec.discrete else noisy_tanh(spec, config.exploration_noise)
    policy = restricted(mlp_per_agent(spec.observation_sizes, actions.parameter_sizes, config.hidden_size), actions.restrict)
    adam = functools.partial(optimizers.clipped_adam_per_agent, b1=config.adam_b1, epsilon=config.adam_epsilon)
    policy_optimizer = adam(config.policy_learning_rate, config.max_policy_grad_norm)
    return MADDPG(
        distribution=actions,
        policy=sharing.shared_network(spec, policy) if config.share_policy else policy,
        critic=centralized_critic((spec.observation_sizes, spec.action_sizes), config.hidden_size),
        policy_optimizer=sharing.shared_optimizer(spec, policy_optimizer) if config.share_policy else policy_optimizer,
        critic_optimizer=adam(config.critic_learning_rate, config.max_critic_grad_norm),
    )


def critic_step(
    config: MADDPGConfig, parts: MADDPG, learner: ActorCriticState, batch: Batch, key: jax.Array
) -> tuple[ActorCriticState, jax.Array]:
    """Take one step of every critic towards its target `r_i + gamma Q_i'(o', mu'(o'))` (Lowe et al. 2017, Eq. 6).

    Returns:
        The new learner state and the loss, summed over agents.
    """
    values = jax.vmap(parts.critic.apply, (0, None, None))
    next_parameters = parts.policy.apply(learner.target_policy, batch.next_observation, batch.next_action_mask)
    next_action = parts.distribution.reparameterized(next_parameters, key)
    next_value = values(learner.target_critic, batch.next_observation, next_action)
    earned, discount = n_step_return(batch.reward, batch.later, config.gamma)
    target = td_target(earned, batch.terminated, next_value, discount)

    def loss(params: Params) -> jax.Array:
        return squared_error(values(params, batch.observation, parts.distribution.features(batch.action)), target, batch.active)

    value, gradient = jax.value_and_grad(loss)(learner.critic)
    critic, optimizer_state = optimizers.descend(parts.critic_optimizer, gradient, learner.critic_optimizer, learner.critic)
    return dataclasses.replace(learner, critic=critic, critic_optimizer=optimizer_state), value


def policy_step(
    parts: MADDPG, learner: ActorCriticState, batch: Batch, key: jax.Array
) -> tuple[Params, optax.OptState, jax.Array]:
    """Take one step of every policy that increases the value of its own critic (Lowe et al. 2017, Eq. 5).

    The actions of the other agents come from the batch.

    Returns:
        The new policies, the new optimiser state and the loss of each agent (n,).
    """
    features = parts.distribution.features(batch.action)
    own = jnp.eye(len(features), dtype=bool)[..., None, None]

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        parameters = parts.policy.apply(params, batch.observation, batch.action_mask)
        joint = jnp.where(own, parts.distribution.reparameterized(parameters, key)[None], features[None])
        q = jax.vmap(parts.critic.apply, (0, None, 0))(learner.critic, batch.observation, joint)
        losses = deterministic_policy_loss(q, parts.distribution.squared_norm(parameters), batch.active)
        return losses.sum(), losses

    gradient, losses = jax.grad(loss, has_aux=True)(learner.policy)
    return *optimizers.descend(parts.policy_optimizer, gradient, learner.policy_optimizer, learner.policy), losses


def update(
    spec: EnvSpec, config: MADDPGConfig, learner: ActorCriticState, batch: Transition, key: jax.Array
) -> tuple[ActorCriticState, Metrics]:
    """Update the critics, then the policies, then the target networks."""
    critic_key, policy_key = jax.random.split(key)
    parts = build(spec, config)
    learner = actor_critic.observe(learner, batch)
    prepared = actor_critic.prepare(config, learner, batch)
    learner, loss = critic_step(config, parts, learner, prepared, critic_key)
    policy, optimizer_state, losses = policy_step(parts, learner, prepared, policy_key)

    current, previous, old = (
        parts.policy.apply(params, prepared.observation, prepared.action_mask)
        for params in (policy, learner.policy, learner.old_policy)
    )
    entropies = active_mean(parts.distribution.entropy(previous), prepared.active)
    metrics = {"critic_loss": loss, "policy_loss": losses, "entropy": entropies}
    metrics |= policy_divergence(parts.distribution.kl, current, previous, old, prepared.active)
    learner = dataclasses.replace(learner, policy=policy, policy_optimizer=optimizer_state)
    return actor_critic.update_targets(config, learner), metrics
