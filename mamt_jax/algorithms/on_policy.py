"""What MA-PPO and LOLA share: one policy and one centralized value function per agent, learnt from the latest rollout."""

import dataclasses
import functools
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import agent_major, optimizers
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.distributions import ActionDistribution, action_distribution
from mamt_jax.networks.centralized_critic import centralized_critic
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import mlp_per_agent, restricted
from mamt_jax.returns import generalised_advantage
from mamt_jax.running_statistics import RewardNormalisation, RunningStatistics, init_statistics, update_statistics
from mamt_jax.types import Params, Trajectory, Transition
from mamt_jax.validation import BOUND, COUNT, COUNT_OR_NONE, FRACTION, MOMENTUM, POSITIVE, number, require_valid, static

TRAINING = MappingProxyType({"num_envs": 128, "update_interval": 3200})
"""25 steps of each environment: whole episodes of Spread and Rover-Tower, and enough transitions for a useful gradient."""


@struct.dataclass
class OnPolicyConfig:
    """Hyperparameters of all that learns from rollouts."""

    gamma: float = number(0.99, FRACTION)
    """Discount of future rewards."""
    gae_lambda: float = number(0.95, FRACTION)
    """Decay of further steps in the generalised advantage."""
    policy_learning_rate: float = 1e-3
    """Adam's step for the policies."""
    critic_learning_rate: float = 1e-3
    """Adam's step for the critics."""
    lr_decay_updates: int = static(0, COUNT_OR_NONE)
    """Updates over which both learning rates fall linearly to 0, where they stay; 0 keeps them constant."""
    adam_b1: float = number(0.9, MOMENTUM)
    """Adam's momentum."""
    adam_epsilon: float = number(1e-5, POSITIVE)
    """Adam's epsilon."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    max_policy_grad_norm: float = number(0.5, BOUND)
    """Largest norm of one agent's policy gradient."""
    max_critic_grad_norm: float = number(0.5, BOUND)
    """Largest norm of one agent's critic gradient."""
    hidden_size: int = static(64, COUNT)
    """Width of every hidden layer."""
    policy_output_scale: float = static(1.0)
    """Scale of the initial weights of the policies' last layer; with a small one they start nearly uniform."""
    num_action_samples: int = static(8, COUNT)
    """Own actions sampled for the entropy where actions are continuous."""
    reward_normalisation: RewardNormalisation = static("standardise")
    """Rewards minus their running mean over their deviation, only over it, or as they are."""


@struct.dataclass
class OnPolicyState:
    """All that is learnt. Policies and critics have a leading agent axis."""

    policy: Params
    critic: Params
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    observation_statistics: RunningStatistics
    reward_statistics: RunningStatistics


class OnPolicy(NamedTuple):
    """The pure functions that a config selects."""

    distribution: ActionDistribution
    policy: Network
    critic: Network
    policy_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation

    def values(self, params: Params, observation: jax.Array) -> jax.Array:
        """Every agent's value of what all see: (n, B, d) -> (n, B)."""
        return jax.vmap(self.critic.apply, (0, None))(params, observation)


def build(spec: EnvSpec, config: OnPolicyConfig, steps_per_update: int = 1) -> OnPolicy:
    """Distribution, networks and optimisers for `config`, which take `steps_per_update` gradient steps in an update."""

    def schedule(learning_rate: jax.Array | float) -> optax.ScalarOrSchedule:
        steps = config.lr_decay_updates * steps_per_update
        return (lambda count: learning_rate * jnp.maximum(1.0 - count / steps, 0.0)) if steps else learning_rate

    distribution = action_distribution(spec, num_samples=config.num_action_samples)
    adam = functools.partial(optimizers.clipped_adam_per_agent, b1=config.adam_b1, epsilon=config.adam_epsilon)
    return OnPolicy(
        distribution=distribution,
        policy=restricted(
            mlp_per_agent(spec.observation_sizes, distribution.parameter_sizes, config.hidden_size, config.policy_output_scale),
            distribution.restrict,
        ),
        critic=centralized_critic(spec, config.hidden_size, actions=False),
        policy_optimizer=adam(schedule(config.policy_learning_rate), config.max_policy_grad_norm),
        critic_optimizer=adam(schedule(config.critic_learning_rate), config.max_critic_grad_norm),
    )


def algorithm(spec: EnvSpec, config: type, update: Callable[..., Any], build: agent_major.Build = build) -> Algorithm:
    """An algorithm of these parts, with its own config class, update and `build`.

    Raises:
        ValueError: if discrete and continuous agents are mixed.
    """
    action_distribution(spec)
    return Algorithm(
        config=config,
        init=functools.partial(init, build, spec),
        act=functools.partial(agent_major.act, build, spec),
        greedy=functools.partial(agent_major.greedy, build, spec),
        update=functools.partial(update, spec),
        policy=agent_major.policy,
        validate=require_valid,
        data="rollout",
        training=TRAINING,
    )


def init(build: agent_major.Build, spec: EnvSpec, config: OnPolicyConfig, key: jax.Array) -> OnPolicyState:
    """Fresh learner of the networks and optimisers that `build` makes."""
    parts = build(spec, config)
    policy_key, critic_key = jax.random.split(key)
    policy, critic = parts.policy.init(policy_key), parts.critic.init(critic_key)
    return OnPolicyState(
        policy=policy,
        critic=critic,
        policy_optimizer=parts.policy_optimizer.init(policy),
        critic_optimizer=parts.critic_optimizer.init(critic),
        observation_statistics=init_statistics((spec.num_agents, spec.observation_size)),
        reward_statistics=init_statistics((spec.num_agents,)),
    )


def transitions(trajectory: Trajectory) -> Transition:
    """The rollout's transitions with one leading axis, T x E."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trajectory.transitions)


def observe(learner: OnPolicyState, trajectory: Trajectory) -> OnPolicyState:
    """Let the running statistics see a rollout."""
    seen = transitions(trajectory)
    return dataclasses.replace(
        learner,
        observation_statistics=update_statistics(learner.observation_statistics, seen.observation, seen.active),
        reward_statistics=update_statistics(learner.reward_statistics, seen.reward, seen.active),
    )


def prepare(config: OnPolicyConfig, learner: OnPolicyState, trajectory: Trajectory) -> Batch:
    """The rollout (n, T x E, ...) with observations as the acting policies saw them, so that probability ratios start at 1.

    Rewards are normalised by all that was seen, this rollout's included.
    """
    rewards = observe(learner, trajectory).reward_statistics
    return agent_major.prepare(learner.observation_statistics, rewards, config.reward_normalisation, transitions(trajectory))


def by_time(x: jax.Array, truncated: jax.Array) -> jax.Array:
    """(n, T x E) -> (n, T, E), as `truncated` is."""
    return x.reshape(-1, *truncated.shape)


def advantages(
    config: OnPolicyConfig, parts: OnPolicy, learner: OnPolicyState, batch: Batch, truncated: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Values and generalised advantages (n, T x E) of a rollout of T steps of E environments; truncated (T, E)."""
    value, next_value = (parts.values(learner.critic, seen) for seen in (batch.observation, batch.next_observation))

    def of_agent(reward: jax.Array, value: jax.Array, next_value: jax.Array, terminated: jax.Array) -> jax.Array:
        return generalised_advantage(reward, value, next_value, terminated, truncated, config.gamma, config.gae_lambda)

    timed = (by_time(x, truncated) for x in (batch.reward, value, next_value, batch.terminated))
    return value, jax.vmap(of_agent)(*timed).reshape(value.shape)
