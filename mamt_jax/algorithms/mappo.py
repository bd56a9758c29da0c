"""MA-PPO (Schulman et al. 2017; Yu et al. 2022): PPO with central critics, and nothing shared between agents."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import agent_major, optimizers
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.contract import Algorithm, require_positive
from mamt_jax.distributions import ActionDistribution, action_distribution, entropy
from mamt_jax.losses.actor import clipped_policy_loss
from mamt_jax.losses.critic import clipped_value_loss
from mamt_jax.networks.agent_axis import Network, over_rows
from mamt_jax.networks.joint_critic import joint_critic
from mamt_jax.networks.policy import mlp_per_agent
from mamt_jax.normalisation import RewardNormalisation, RunningStatistics, init_statistics, normalise, update_statistics
from mamt_jax.returns import generalised_advantage
from mamt_jax.stationarity import policy_divergence
from mamt_jax.types import Metrics, Params, Trajectory


@struct.dataclass
class MAPPOConfig:
    """Hyperparameters of MA-PPO."""

    gamma: float = 0.99
    """Discount of future rewards."""
    gae_lambda: float = 0.95
    """Share of each further step in the advantage."""
    policy_learning_rate: float = 1e-3
    """Adam's step for the policies."""
    critic_learning_rate: float = 1e-3
    """Adam's step for the critics."""
    adam_b1: float = 0.9
    """Adam's momentum."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""
    clip_ratio: float = 0.2
    """How far a probability ratio may pay."""
    clip_value: float = 0.2
    """How far a value may move at no further gain, in normalised returns."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    policy_clip: float = 0.5
    """Largest norm of one agent's policy gradient."""
    critic_clip: float = 0.5
    """Largest norm of one agent's critic gradient."""
    hidden_size: int = struct.field(pytree_node=False, default=128)
    """Width of every hidden layer."""
    num_epochs: int = struct.field(pytree_node=False, default=5)
    """Passes over each rollout."""
    num_minibatches: int = struct.field(pytree_node=False, default=4)
    """Parts of a rollout that a step is taken on each."""
    num_action_samples: int = struct.field(pytree_node=False, default=8)
    """Own actions sampled for the entropy where actions are continuous."""
    reward_normalisation: RewardNormalisation = struct.field(pytree_node=False, default="standardise")
    """Rewards minus their running mean over their deviation, only over it, or as they are."""


@struct.dataclass
class MAPPOState:
    """All that is learnt. Policies and critics have a leading agent axis."""

    policy: Params
    critic: Params
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    observation_statistics: RunningStatistics
    reward_statistics: RunningStatistics


class MAPPO(NamedTuple):
    """The pure functions that a config picks. `values`: (params, observation (n, B, d)) -> (n, B)."""

    distribution: ActionDistribution
    policy: Network
    critic: Network
    policy_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation

    def values(self, params: Params, observation: jax.Array) -> jax.Array:
        """Every agent's value of what all see: (n, B, d) -> (n, B)."""
        return jax.vmap(self.critic.apply, (0, None))(params, observation)


class Rows(NamedTuple):
    """What a step learns from, (n, B, ...)."""

    observation: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    advantage: jax.Array


def make(spec: EnvSpec) -> Algorithm:
    """MA-PPO for the agents of `spec`, all with discrete or all with continuous actions."""
    action_distribution(spec)  # refuses a mixture
    return Algorithm(
        config=MAPPOConfig,
        init=functools.partial(init, spec),
        act=functools.partial(act, spec),
        greedy=functools.partial(greedy, spec),
        update=functools.partial(update, spec),
        validate=validate,
        data="rollout",
    )


def validate(config: MAPPOConfig) -> None:
    """Refuse sizes of zero."""
    require_positive(config, ("hidden_size", "num_epochs", "num_minibatches", "num_action_samples", "clip_ratio"))


def build(spec: EnvSpec, config: MAPPOConfig) -> MAPPO:
    """Distribution, networks and optimisers for `config`."""
    distribution = action_distribution(spec, num_samples=config.num_action_samples)

    def optimizer(learning_rate: float, clip: float) -> optax.GradientTransformation:
        adam = optimizers.adam(learning_rate, config.adam_b1, config.adam_epsilon)
        return optimizers.per_agent(optax.chain(optax.clip_by_global_norm(clip), adam))

    return MAPPO(
        distribution=distribution,
        policy=mlp_per_agent(spec.observation_sizes, distribution.parameter_sizes, config.hidden_size),
        critic=joint_critic(spec, config.hidden_size, actions=False),
        policy_optimizer=optimizer(config.policy_learning_rate, config.policy_clip),
        critic_optimizer=optimizer(config.critic_learning_rate, config.critic_clip),
    )


def init(spec: EnvSpec, config: MAPPOConfig, key: jax.Array) -> MAPPOState:
    """Fresh learner."""
    parts = build(spec, config)
    policy_key, critic_key = jax.random.split(key)
    policy, critic = parts.policy.init(policy_key), parts.critic.init(critic_key)
    return MAPPOState(
        policy=policy,
        critic=critic,
        policy_optimizer=parts.policy_optimizer.init(policy),
        critic_optimizer=parts.critic_optimizer.init(critic),
        observation_statistics=init_statistics((spec.num_agents, spec.observation_size)),
        reward_statistics=init_statistics((spec.num_agents,)),
    )


def act(spec: EnvSpec, config: MAPPOConfig, learner: MAPPOState, observation: jax.Array, key: jax.Array) -> jax.Array:
    """Sample every agent's action; observation (..., n, d) -> (..., n) or (..., n, k)."""
    parts = build(spec, config)
    normalised = normalise(learner.observation_statistics, observation)
    return over_rows(lambda rows: parts.distribution.sample(parts.policy.apply(learner.policy, rows), key), normalised)


def greedy(spec: EnvSpec, config: MAPPOConfig, learner: MAPPOState, observation: jax.Array) -> jax.Array:
    """Every agent's most likely action; observation (..., n, d) -> (..., n) or (..., n, k)."""
    parts = build(spec, config)
    normalised = normalise(learner.observation_statistics, observation)
    return over_rows(lambda rows: parts.distribution.mode(parts.policy.apply(learner.policy, rows)), normalised)


def value_rollout(config: MAPPOConfig, parts: MAPPO, learner: MAPPOState, batch: Batch, truncated: jax.Array) -> Rows:
    """What there is to learn from a rollout of T steps of E environments; `batch` (n, T x E, ...), truncated (T, E)."""
    value, next_value = (parts.values(learner.critic, seen) for seen in (batch.observation, batch.next_observation))

    def by_time(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *truncated.shape).swapaxes(0, 1)

    terminated, rewards, values, next_values = map(by_time, (batch.terminated, batch.reward, value, next_value))
    cut = jnp.broadcast_to(truncated[:, None], terminated.shape)
    advantage = generalised_advantage(rewards, values, next_values, terminated, cut, config.gamma, config.gae_lambda)
    log_prob = parts.distribution.log_prob(parts.policy.apply(learner.policy, batch.observation), batch.action)
    return Rows(batch.observation, batch.action, log_prob, value, advantage.swapaxes(0, 1).reshape(value.shape))


def step(config: MAPPOConfig, parts: MAPPO, learner: MAPPOState, rows: Rows, key: jax.Array) -> tuple[MAPPOState, Metrics]:
    """One step of every policy and critic on a minibatch, whose advantages are standardised for each agent."""
    mean, deviation = rows.advantage.mean(1, keepdims=True), rows.advantage.std(1, keepdims=True)
    advantage = (rows.advantage - mean) / (deviation + 1e-8)

    def policy_loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        parameters = parts.policy.apply(params, rows.observation)
        log_prob = parts.distribution.log_prob(parameters, rows.action)
        losses = clipped_policy_loss(log_prob, rows.log_prob, advantage, config.clip_ratio)
        bonus = entropy(parts.distribution.candidates(parameters, key)).mean(1)
        return (losses - config.entropy_coefficient * bonus).sum(), (losses, bonus)

    def value_loss(params: Params) -> jax.Array:
        value, target = parts.values(params, rows.observation), rows.value + rows.advantage
        return clipped_value_loss(value, rows.value, target, config.clip_value).sum()

    gradient, (losses, bonus) = jax.grad(policy_loss, has_aux=True)(learner.policy)
    moved, policy_optimizer = parts.policy_optimizer.update(gradient, learner.policy_optimizer, learner.policy)
    loss, gradient = jax.value_and_grad(value_loss)(learner.critic)
    valued, critic_optimizer = parts.critic_optimizer.update(gradient, learner.critic_optimizer, learner.critic)
    learner = dataclasses.replace(
        learner,
        policy=optax.apply_updates(learner.policy, moved),
        critic=optax.apply_updates(learner.critic, valued),
        policy_optimizer=policy_optimizer,
        critic_optimizer=critic_optimizer,
    )
    return learner, {"critic_loss": loss, "policy_loss": losses, "entropy": bonus}


def update(
    spec: EnvSpec, config: MAPPOConfig, learner: MAPPOState, trajectory: Trajectory, key: jax.Array
) -> tuple[MAPPOState, Metrics]:
    """`num_epochs` passes over a rollout in `num_minibatches` random parts each."""
    parts, before = build(spec, config), learner
    batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trajectory.transitions)
    rewards = update_statistics(learner.reward_statistics, batch.reward)
    # Observations as the acting policies saw them, so that ratios start at 1; the next rollout sees the new statistics.
    prepared = agent_major.prepare(learner.observation_statistics, rewards, config.reward_normalisation, batch)
    rows = value_rollout(config, parts, learner, prepared, trajectory.truncated)
    size = batch.reward.shape[0] // config.num_minibatches

    def epoch(learner: MAPPOState, number: jax.Array) -> tuple[MAPPOState, Metrics]:
        order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
        order = jax.random.permutation(order_key, batch.reward.shape[0])[: size * config.num_minibatches]

        def on_part(learner: MAPPOState, part: tuple[jax.Array, jax.Array]) -> tuple[MAPPOState, Metrics]:
            number, index = part
            chosen = jax.tree.map(lambda leaf: leaf[:, index], rows)
            return step(config, parts, learner, chosen, jax.random.fold_in(step_key, number))

        return jax.lax.scan(on_part, learner, (jnp.arange(config.num_minibatches), order.reshape(-1, size)))

    learner, metrics = jax.lax.scan(epoch, learner, jnp.arange(config.num_epochs))
    parameters = [parts.policy.apply(params, prepared.observation) for params in (learner.policy, before.policy)]
    learner = dataclasses.replace(
        learner,
        observation_statistics=update_statistics(learner.observation_statistics, batch.observation),
        reward_statistics=rewards,
    )
    metrics = jax.tree.map(lambda leaf: leaf.mean((0, 1)), metrics)
    return learner, metrics | policy_divergence(parts.distribution.kl, parameters[0], parameters[1], parameters[1])
