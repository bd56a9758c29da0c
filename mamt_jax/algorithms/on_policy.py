"""Common parts of the on-policy algorithms: one policy and one value function per agent, learnt from the latest rollout."""

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
"""Training defaults of on-policy algorithms: rollouts of 25 steps of 128 environments.

These are whole episodes of Spread and Rover-Tower, and enough transitions for a useful gradient.
"""


@struct.dataclass
class OnPolicyConfig:
    """Hyperparameters of all algorithms that learn from rollouts."""

    gamma: float = number(0.99, FRACTION)
    """Discount factor of future rewards."""
    gae_lambda: float = number(0.95, FRACTION)
    """Parameter lambda of the generalised advantage estimator."""
    critic_learning_rate: float = 1e-3
    """Learning rate of the critics (Adam)."""
    lr_decay_updates: int = static(0, COUNT_OR_NONE)
    """Number of updates over which all learning rates fall linearly to 0, where they stay; 0 keeps them constant."""
    adam_b1: float = number(0.9, MOMENTUM)
    """Decay rate b1 of the first moment in Adam."""
    adam_epsilon: float = number(1e-5, POSITIVE)
    """Constant epsilon in the denominator of Adam, for numerical stability."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    max_critic_grad_norm: float = number(0.5, BOUND)
    """Maximum norm of each agent's critic gradient."""
    hidden_size: int = static(64, COUNT)
    """Width of every hidden layer."""
    policy_output_scale: float = static(1.0)
    """Scale of the initial weights in the last layer of policies. A small scale makes the initial policies nearly uniform."""
    num_action_samples: int = static(8, COUNT)
    """Number of actions sampled per agent to estimate the entropy where actions are continuous."""
    reward_normalisation: RewardNormalisation = static("standardise")
    """Normalisation of rewards: standardise subtracts the running mean and divides by the running standard deviation, scale
    only divides, and none keeps the rewards."""


@struct.dataclass
class PolicyGradientConfig(OnPolicyConfig):
    """Hyperparameters of the on-policy algorithms whose policies follow gradients."""

    policy_learning_rate: float = 1e-3
    """Learning rate of the policies (Adam)."""
    max_policy_grad_norm: float = number(0.5, BOUND)
    """Maximum norm of each agent's policy gradient."""


@struct.dataclass
class OnPolicyState:
    """Learner state of the on-policy algorithms. Parameters of policies and critics have a leading agent axis."""

    policy: Params
    critic: Params
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    observation_statistics: RunningStatistics
    reward_statistics: RunningStatistics


class OnPolicy(NamedTuple):
    """Networks, action distribution and optimisers of a config, as pure functions.

    The critics map (parameters, observation (n, B, d)) to the value of each agent (n, B).
    """

    distribution: ActionDistribution
    policy: Network
    critic: Network
    policy_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def build(spec: EnvSpec, config: PolicyGradientConfig, steps_per_update: int = 1) -> OnPolicy:
    """Build the action distribution, the networks and the optimisers for `config`.

    `steps_per_update` is the number of gradient steps in an update, on which the decay of the learning rates depends.
    """
    policy_optimizer = adam(config, config.policy_learning_rate, config.max_policy_grad_norm, steps_per_update)
    return assemble(spec, config, policy_optimizer, steps_per_update)


def assemble(
    spec: EnvSpec, config: OnPolicyConfig, policy_optimizer: optax.GradientTransformation, steps_per_update: int = 1
) -> OnPolicy:
    """Build the parts as `build` does, with another optimiser of the policies."""
    distribution = action_distribution(spec, num_samples=config.num_action_samples)
    return OnPolicy(
        distribution=distribution,
        policy=restricted(
            mlp_per_agent(spec.observation_sizes, distribution.parameter_sizes, config.hidden_size, config.policy_output_scale),
            distribution.restrict,
        ),
        critic=joint_critic(spec, config.hidden_size),
        policy_optimizer=policy_optimizer,
        critic_optimizer=adam(config, config.critic_learning_rate, config.max_critic_grad_norm, steps_per_update),
    )


def adam(
    config: OnPolicyConfig, learning_rate: jax.Array | float, clip: jax.Array | float, steps_per_update: int
) -> optax.GradientTransformation:
    """Create Adam per agent, with clipped gradients and a learning rate that may fall to 0."""
    steps = config.lr_decay_updates * steps_per_update
    schedule = (lambda count: learning_rate * jnp.maximum(1.0 - count / steps, 0.0)) if steps else learning_rate
    return optimizers.clipped_adam_per_agent(schedule, clip, config.adam_b1, config.adam_epsilon)


def joint_critic(spec: EnvSpec, hidden_size: int) -> Network:
    """Build one value function per agent, each of which reads the observations of all agents."""
    one = centralized_critic(spec, hidden_size, actions=False)
    return one._replace(apply=jax.vmap(one.apply, (0, None)))


def algorithm(spec: EnvSpec, config: type, update: Callable[..., Any], build: agent_major.Build = build) -> Algorithm:
    """Create an on-policy algorithm.

    Args:
        spec: spec of the environment.
        config: config class of the algorithm.
        update: function (spec, config, learner, trajectory, key) -> (learner, metrics).
        build: function (spec, config) -> networks, distribution and optimisers.

    Raises:
        ValueError: if some agents have discrete and others continuous actions.
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
    """Initialise the learner with the networks and optimisers that `build` returns."""
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
    """Flatten the transitions of a rollout from leading axes (T, E) to one axis T x E."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trajectory.transitions)


def observe(learner: OnPolicyState, trajectory: Trajectory) -> OnPolicyState:
    """Update the running statistics of observations and rewards with a rollout."""
    seen = transitions(trajectory)
    return dataclasses.replace(
        learner,
        observation_statistics=update_statistics(learner.observation_statistics, seen.observation, seen.active),
        reward_statistics=update_statistics(learner.reward_statistics, seen.reward, seen.active),
    )


def prepare(config: OnPolicyConfig, learner: OnPolicyState, trajectory: Trajectory) -> Batch:
    """Normalise a rollout, and make it agent-major, (n, T x E, ...).

    Observations are normalised with the statistics that the acting policies used. Probability ratios therefore start at 1.
    Rewards are normalised with statistics that include this rollout.
    """
    rewards = observe(learner, trajectory).reward_statistics
    return agent_major.prepare(learner.observation_statistics, rewards, config.reward_normalisation, transitions(trajectory))


def by_time(x: jax.Array, truncated: jax.Array) -> jax.Array:
    """Reshape `x` from (n, T x E) to (n, T, E). `truncated` is (T, E)."""
    return x.reshape(-1, *truncated.shape)


def advantages(
    config: OnPolicyConfig, parts: OnPolicy, learner: OnPolicyState, batch: Batch, truncated: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute the values and the generalised advantages of a rollout of T steps of E environments, (n, T x E) each.

    `truncated` is (T, E).
    """
    value, next_value = (parts.critic.apply(learner.critic, seen) for seen in (batch.observation, batch.next_observation))

    def of_agent(reward: jax.Array, value: jax.Array, next_value: jax.Array, terminated: jax.Array) -> jax.Array:
        return generalised_advantage(reward, value, next_value, terminated, truncated, config.gamma, config.gae_lambda)

    timed = (by_time(x, truncated) for x in (batch.reward, value, next_value, batch.terminated))
    return value, jax.vmap(of_agent)(*timed).reshape(value.shape)
