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
from mamt_jax.networks.memory import History, Memory, gru_per_agent, remember, with_memory
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import mlp_per_agent, restricted
from mamt_jax.returns import generalised_advantage
from mamt_jax.running_statistics import (
    RewardNormalisation,
    RunningStatistics,
    init_statistics,
    unstandardise,
    update_statistics,
)
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
    memory: Memory = static("none")
    """Memory of the policies: gru reads the observations in order of time with a GRU, none sees the latest one only."""
    policy_output_scale: float = static(1.0)
    """Scale of the initial weights in the last layer of policies. A small scale makes the initial policies nearly uniform."""
    num_action_samples: int = static(8, COUNT)
    """Number of actions sampled per agent to estimate the entropy where actions are continuous."""
    reward_normalisation: RewardNormalisation = static("standardise")
    """Normalisation of rewards: standardise subtracts the running mean and divides by the running standard deviation, scale
    only divides, and none keeps the rewards."""
    value_normalisation: bool = static(False)
    """Whether critics learn standardised values, with the running mean and standard deviation of their targets (Yu et al.
    2022, Sec. 5.1)."""


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
    value_statistics: RunningStatistics | None = None


class OnPolicy(NamedTuple):
    """Networks, action distribution and optimisers of a config, as pure functions.

    The critics map (parameters, inputs (n, B, d)) to the value of each agent (n, B). Inputs of policies and critics are
    results of `remember`.
    """

    distribution: ActionDistribution
    policy: Network
    critic: Network
    policy_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation
    memory: Network | None = None


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
    memory = gru_per_agent(spec.observation_sizes, config.hidden_size) if config.memory == "gru" else None
    inputs = input_sizes(spec, config)
    policy = mlp_per_agent(inputs, distribution.parameter_sizes, config.hidden_size, config.policy_output_scale)
    policy = restricted(policy, distribution.restrict)
    return OnPolicy(
        distribution=distribution,
        policy=policy if memory is None else with_memory(memory, policy),
        critic=joint_critic(inputs, config.hidden_size),
        policy_optimizer=policy_optimizer,
        critic_optimizer=adam(config, config.critic_learning_rate, config.max_critic_grad_norm, steps_per_update),
        memory=memory,
    )


def input_sizes(spec: EnvSpec, config: OnPolicyConfig) -> tuple[int, ...]:
    """Return the input size of each agent's policy: its observation, and its hidden state if policies have a memory."""
    remembered = 0 if config.memory == "none" else config.hidden_size
    return tuple(remembered + size for size in spec.observation_sizes)


def hidden_state(spec: EnvSpec, config: OnPolicyConfig, shape: tuple[int, ...]) -> jax.Array | None:
    """Return the hidden states when an episode begins, zeros (*shape, n, h); None if policies have no memory."""
    return None if config.memory == "none" else jnp.zeros((*shape, spec.num_agents, config.hidden_size))


def adam(
    config: OnPolicyConfig, learning_rate: jax.Array | float, clip: jax.Array | float, steps_per_update: int
) -> optax.GradientTransformation:
    """Create Adam per agent, with clipped gradients and a learning rate that may fall to 0."""
    steps = config.lr_decay_updates * steps_per_update
    schedule = (lambda count: learning_rate * jnp.maximum(1.0 - count / steps, 0.0)) if steps else learning_rate
    return optimizers.clipped_adam_per_agent(schedule, clip, config.adam_b1, config.adam_epsilon)


def joint_critic(input_sizes: tuple[int, ...], hidden_size: int) -> Network:
    """Build one value function per agent, each of which reads the inputs of all agents."""
    one = centralized_critic((input_sizes,), hidden_size)
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
        hidden_state=functools.partial(hidden_state, spec),
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
        value_statistics=init_statistics((spec.num_agents,)) if config.value_normalisation else None,
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


def observe_values(learner: OnPolicyState, target: jax.Array, active: jax.Array | None) -> OnPolicyState:
    """Update the running statistics of the critics' targets (n, B), if values are normalised."""
    if learner.value_statistics is None:
        return learner
    rows = target.T, None if active is None else active.T
    return dataclasses.replace(learner, value_statistics=update_statistics(learner.value_statistics, *rows))


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


def history(trajectory: Trajectory) -> History | None:
    """Return the history of a rollout's rows, in the order of `prepare`. None for policies without memory."""
    if trajectory.hidden_state is None:
        return None
    done = trajectory.truncated | trajectory.transitions.terminated.all(-1)
    begins = jnp.roll(done, 1, 0).at[0].set(False).ravel()
    start = trajectory.hidden_state.swapaxes(0, 1)
    return History(start, jnp.broadcast_to(begins, (len(start), *begins.shape)))


def parameters(
    parts: OnPolicy, policy: Params, observation: jax.Array, action_mask: jax.Array | None, history: History | None
) -> jax.Array:
    """Compute the parameters of the action distributions (n, B, P) of `policy`, which has the memory of `parts`."""
    return parts.policy.apply(policy, remember(parts.memory, policy, observation, history), action_mask)


def next_inputs(parts: OnPolicy, policy: Params, inputs: jax.Array, next_observation: jax.Array) -> jax.Array:
    """Remember the successors (n, B, d) of rows whose inputs (n, B, h + d) are results of `remember`."""
    hidden_state = inputs[..., : inputs.shape[-1] - next_observation.shape[-1]]
    return remember(parts.memory, policy, next_observation, History(hidden_state))


def advantages(
    config: OnPolicyConfig, parts: OnPolicy, learner: OnPolicyState, batch: Batch, inputs: jax.Array, truncated: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute the values and the generalised advantages of a rollout of T steps of E environments, (n, T x E) each.

    Their sum is the target of the critics. `inputs` (n, T x E, d) are those of policies and critics, and `truncated` is (T, E).
    """
    seen = inputs, next_inputs(parts, learner.policy, inputs, batch.next_observation)
    value, next_value = (unstandardise(learner.value_statistics, parts.critic.apply(learner.critic, each)) for each in seen)

    def of_agent(reward: jax.Array, value: jax.Array, next_value: jax.Array, terminated: jax.Array) -> jax.Array:
        return generalised_advantage(reward, value, next_value, terminated, truncated, config.gamma, config.gae_lambda)

    timed = (by_time(x, truncated) for x in (batch.reward, value, next_value, batch.terminated))
    return value, jax.vmap(of_agent)(*timed).reshape(value.shape)
