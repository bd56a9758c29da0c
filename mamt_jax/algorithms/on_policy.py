"""What MA-PPO and LOLA share: agents that learn policies and central values from their latest rollout, and share nothing."""

import dataclasses
import functools
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import agent_major, optimizers
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.distributions import ActionDistribution, action_distribution
from mamt_jax.networks.centralized_critic import joint_critic
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import mlp_per_agent, restricted
from mamt_jax.returns import generalised_advantage
from mamt_jax.running_statistics import RewardNormalisation, RunningStatistics, init_statistics, update_statistics
from mamt_jax.types import Params, Trajectory, Transition

# Whole rounds of Spread's and Rover-Tower's episodes, and enough rows for steps that point the right way.
TRAINING = MappingProxyType({"num_envs": 128, "update_interval": 3200})


@struct.dataclass
class OnPolicyConfig:
    """Hyperparameters of whatever learns from rollouts."""

    gamma: float = 0.99
    """Discount of future rewards."""
    gae_lambda: float = 0.95
    """Share of each further step in the advantage."""
    policy_learning_rate: float = 1e-3
    """Adam's step for the policies."""
    critic_learning_rate: float = 1e-3
    """Adam's step for the critics."""
    anneal_horizon: int = struct.field(pytree_node=False, default=0)
    """Updates over which both learning rates fall linearly to 0, where they stay; 0 leaves them as they are."""
    adam_b1: float = 0.9
    """Adam's momentum."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    policy_clip: float = 0.5
    """Largest norm of one agent's policy gradient."""
    critic_clip: float = 0.5
    """Largest norm of one agent's critic gradient."""
    hidden_size: int = struct.field(pytree_node=False, default=64)
    """Width of every hidden layer."""
    policy_output_scale: float = struct.field(pytree_node=False, default=1.0)
    """Size of the policies' last layer at first, in that of the others; small ones start nearly uniform."""
    num_action_samples: int = struct.field(pytree_node=False, default=8)
    """Own actions sampled for the entropy where actions are continuous."""
    reward_normalisation: RewardNormalisation = struct.field(pytree_node=False, default="standardise")
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
    """The pure functions that a config picks."""

    distribution: ActionDistribution
    policy: Network
    critic: Network
    policy_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation

    def values(self, params: Params, observation: jax.Array) -> jax.Array:
        """Every agent's value of what all see: (n, B, d) -> (n, B)."""
        return jax.vmap(self.critic.apply, (0, None))(params, observation)


def build(spec: EnvSpec, config: OnPolicyConfig, steps_per_update: int = 1) -> OnPolicy:
    """Distribution, networks and optimisers for `config`, which take so many steps in an update."""

    def annealed(learning_rate: jax.Array | float) -> optax.ScalarOrSchedule:
        steps = config.anneal_horizon * steps_per_update
        return (lambda count: learning_rate * jnp.maximum(1.0 - count / steps, 0.0)) if steps else learning_rate

    distribution = action_distribution(spec, num_samples=config.num_action_samples)
    adam = functools.partial(optimizers.clipped_adam_per_agent, b1=config.adam_b1, epsilon=config.adam_epsilon)
    return OnPolicy(
        distribution=distribution,
        policy=restricted(
            mlp_per_agent(spec.observation_sizes, distribution.parameter_sizes, config.hidden_size, config.policy_output_scale),
            distribution.restrict,
        ),
        critic=joint_critic(spec, config.hidden_size, actions=False),
        policy_optimizer=adam(annealed(config.policy_learning_rate), config.policy_clip),
        critic_optimizer=adam(annealed(config.critic_learning_rate), config.critic_clip),
    )


def init(spec: EnvSpec, config: OnPolicyConfig, key: jax.Array) -> OnPolicyState:
    """Fresh learner."""
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


def act(
    spec: EnvSpec,
    config: OnPolicyConfig,
    learner: OnPolicyState,
    observation: jax.Array,
    key: jax.Array,
    action_mask: jax.Array | None = None,
) -> jax.Array:
    """Sample every agent's action, of those that `action_mask` (..., n, A) allows; observation (..., n, d) -> (..., n[, k])."""
    parts = build(spec, config)

    def choose(parameters: jax.Array) -> jax.Array:
        return parts.distribution.sample(parameters, key)

    statistics = learner.observation_statistics
    return agent_major.act_by(choose, parts.policy, learner.policy, statistics, observation, action_mask)


def greedy(
    spec: EnvSpec,
    config: OnPolicyConfig,
    learner: OnPolicyState,
    observation: jax.Array,
    action_mask: jax.Array | None = None,
) -> jax.Array:
    """Every agent's most likely action, of those allowed; shapes as in `act`."""
    parts = build(spec, config)
    choose, statistics = parts.distribution.mode, learner.observation_statistics
    return agent_major.act_by(choose, parts.policy, learner.policy, statistics, observation, action_mask)


def rows(trajectory: Trajectory) -> Transition:
    """The rollout's T x E transitions, time first."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trajectory.transitions)


def observe(learner: OnPolicyState, trajectory: Trajectory) -> OnPolicyState:
    """Let the running statistics see a rollout."""
    seen = rows(trajectory)
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
    return agent_major.prepare(learner.observation_statistics, rewards, config.reward_normalisation, rows(trajectory))


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
