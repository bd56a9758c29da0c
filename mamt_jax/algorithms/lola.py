"""LOLA (Foerster et al. 2018a): two agents that each climb what they are worth once the other has learnt from them."""

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
from mamt_jax.losses.critic import squared_error
from mamt_jax.losses.lookahead import dice_value, lookahead_value
from mamt_jax.networks.agent_axis import Network, over_rows
from mamt_jax.networks.joint_critic import joint_critic
from mamt_jax.networks.policy import mlp_per_agent
from mamt_jax.normalisation import RewardNormalisation, RunningStatistics, init_statistics, normalise, update_statistics
from mamt_jax.returns import generalised_advantage
from mamt_jax.stationarity import policy_divergence
from mamt_jax.types import Metrics, Params, Trajectory


@struct.dataclass
class LOLAConfig:
    """Hyperparameters of LOLA."""

    gamma: float = 0.99
    """Discount of future rewards."""
    gae_lambda: float = 0.95
    """Share of each further step in what the critics learn."""
    lookahead: float = 0.1
    """Length of the other's naive step; at 0 both learn naively."""
    policy_learning_rate: float = 1e-3
    """Adam's step for the policies."""
    critic_learning_rate: float = 1e-3
    """Adam's step for the critics."""
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
    hidden_size: int = struct.field(pytree_node=False, default=128)
    """Width of every hidden layer."""
    num_action_samples: int = struct.field(pytree_node=False, default=8)
    """Own actions sampled for the entropy where actions are continuous."""
    reward_normalisation: RewardNormalisation = struct.field(pytree_node=False, default="standardise")
    """Rewards minus their running mean over their deviation, only over it, or as they are."""


@struct.dataclass
class LOLAState:
    """All that is learnt. Policies and critics have a leading agent axis."""

    policy: Params
    critic: Params
    policy_optimizer: optax.OptState
    critic_optimizer: optax.OptState
    observation_statistics: RunningStatistics
    reward_statistics: RunningStatistics


class LOLA(NamedTuple):
    """The pure functions that a config picks."""

    distribution: ActionDistribution
    policy: Network
    critic: Network
    policy_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def make(spec: EnvSpec) -> Algorithm:
    """LOLA for the two agents of `spec`; raises ValueError for any other number."""
    if spec.num_agents != 2:
        raise ValueError(
            f"lola looks ahead at one other agent, and {spec.name} has {spec.num_agents} agents: "
            "choose an environment of 2, such as spread with num_agents=2"
        )
    action_distribution(spec)  # refuses a mixture
    return Algorithm(
        config=LOLAConfig,
        init=functools.partial(init, spec),
        act=functools.partial(act, spec),
        greedy=functools.partial(greedy, spec),
        update=functools.partial(update, spec),
        validate=validate,
        data="rollout",
    )


def validate(config: LOLAConfig) -> None:
    """Refuse sizes of zero."""
    require_positive(config, ("hidden_size", "num_action_samples"))


def build(spec: EnvSpec, config: LOLAConfig) -> LOLA:
    """Distribution, networks and optimisers for `config`."""
    distribution = action_distribution(spec, num_samples=config.num_action_samples)

    def optimizer(learning_rate: float, clip: float) -> optax.GradientTransformation:
        adam = optimizers.adam(learning_rate, config.adam_b1, config.adam_epsilon)
        return optimizers.per_agent(optax.chain(optax.clip_by_global_norm(clip), adam))

    return LOLA(
        distribution=distribution,
        policy=mlp_per_agent(spec.observation_sizes, distribution.parameter_sizes, config.hidden_size),
        critic=joint_critic(spec, config.hidden_size, actions=False),
        policy_optimizer=optimizer(config.policy_learning_rate, config.policy_clip),
        critic_optimizer=optimizer(config.critic_learning_rate, config.critic_clip),
    )


def init(spec: EnvSpec, config: LOLAConfig, key: jax.Array) -> LOLAState:
    """Fresh learner."""
    parts = build(spec, config)
    policy_key, critic_key = jax.random.split(key)
    policy, critic = parts.policy.init(policy_key), parts.critic.init(critic_key)
    return LOLAState(
        policy=policy,
        critic=critic,
        policy_optimizer=parts.policy_optimizer.init(policy),
        critic_optimizer=parts.critic_optimizer.init(critic),
        observation_statistics=init_statistics((spec.num_agents, spec.observation_size)),
        reward_statistics=init_statistics((spec.num_agents,)),
    )


def act(spec: EnvSpec, config: LOLAConfig, learner: LOLAState, observation: jax.Array, key: jax.Array) -> jax.Array:
    """Sample every agent's action; observation (..., n, d) -> (..., n) or (..., n, k)."""
    parts = build(spec, config)
    normalised = normalise(learner.observation_statistics, observation)
    return over_rows(lambda rows: parts.distribution.sample(parts.policy.apply(learner.policy, rows), key), normalised)


def greedy(spec: EnvSpec, config: LOLAConfig, learner: LOLAState, observation: jax.Array) -> jax.Array:
    """Every agent's most likely action; observation (..., n, d) -> (..., n) or (..., n, k)."""
    parts = build(spec, config)
    normalised = normalise(learner.observation_statistics, observation)
    return over_rows(lambda rows: parts.distribution.mode(parts.policy.apply(learner.policy, rows)), normalised)


def by_time(x: jax.Array, truncated: jax.Array) -> jax.Array:
    """(n, T x E) -> (n, T, E), as `truncated` is."""
    return x.reshape(-1, *truncated.shape)


def policy_gradient(
    config: LOLAConfig, parts: LOLA, policy: Params, batch: Batch, baseline: jax.Array, truncated: jax.Array
) -> Params:
    """Each agent's gradient of its value after the other's naive step; batch (2, T x E, ...), baseline (2, T x E)."""
    done = truncated | by_time(batch.terminated, truncated).all(0)

    def value(agent: jax.Array, own: Params, other: Params) -> jax.Array:
        """What `agent` is worth with its own parameters and the other's."""
        both = jax.tree.map(lambda a, b: jnp.where(agent == 0, jnp.stack([a, b]), jnp.stack([b, a])), own, other)
        log_prob = parts.distribution.log_prob(parts.policy.apply(both, batch.observation), batch.action)
        rows = (log_prob.sum(0), batch.reward[agent], baseline[agent])
        return dice_value(*(by_time(x, truncated)[0] for x in rows), done=done, gamma=config.gamma)

    def of_agent(agent: jax.Array, own: Params, other: Params) -> Params:
        ahead = functools.partial(
            lookahead_value, functools.partial(value, agent), functools.partial(value, 1 - agent), step=config.lookahead
        )
        return jax.grad(lambda own: ahead(own=own, other=other))(own)

    return jax.vmap(of_agent)(jnp.arange(2), policy, jax.tree.map(lambda leaf: leaf[::-1], policy))


def entropy_gradient(
    config: LOLAConfig, parts: LOLA, policy: Params, observation: jax.Array, key: jax.Array
) -> tuple[Params, jax.Array]:
    """Gradient of the entropy bonus, and each agent's entropy (n,)."""

    def bonus(params: Params) -> tuple[jax.Array, jax.Array]:
        each = entropy(parts.distribution.candidates(parts.policy.apply(params, observation), key)).mean(1)
        return config.entropy_coefficient * each.sum(), each

    return jax.grad(bonus, has_aux=True)(policy)


def update(
    spec: EnvSpec, config: LOLAConfig, learner: LOLAState, trajectory: Trajectory, key: jax.Array
) -> tuple[LOLAState, Metrics]:
    """One step of both policies and critics on a rollout."""
    parts = build(spec, config)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trajectory.transitions)
    rewards = update_statistics(learner.reward_statistics, flat.reward)
    batch = agent_major.prepare(learner.observation_statistics, rewards, config.reward_normalisation, flat)
    values = jax.vmap(parts.critic.apply, (0, None))
    baseline, next_value = (values(learner.critic, seen) for seen in (batch.observation, batch.next_observation))

    def advantage(reward: jax.Array, value: jax.Array, next_value: jax.Array, terminated: jax.Array) -> jax.Array:
        timed = (x.reshape(trajectory.truncated.shape) for x in (reward, value, next_value, terminated))
        reward, value, next_value, terminated = timed
        chain = (terminated, trajectory.truncated, config.gamma, config.gae_lambda)
        return generalised_advantage(reward, value, next_value, *chain).ravel()

    target = baseline + jax.vmap(advantage)(batch.reward, baseline, next_value, batch.terminated)
    gradient = policy_gradient(config, parts, learner.policy, batch, baseline, trajectory.truncated)
    bonus, entropies = entropy_gradient(config, parts, learner.policy, batch.observation, key)
    descent = jax.tree.map(lambda value, bonus: -value - bonus, gradient, bonus)
    step, policy_optimizer = parts.policy_optimizer.update(descent, learner.policy_optimizer, learner.policy)
    policy = optax.apply_updates(learner.policy, step)

    def loss(params: Params) -> jax.Array:
        return squared_error(values(params, batch.observation), target)

    critic_loss, slope = jax.value_and_grad(loss)(learner.critic)
    step, critic_optimizer = parts.critic_optimizer.update(slope, learner.critic_optimizer, learner.critic)
    current, previous = (parts.policy.apply(params, batch.observation) for params in (policy, learner.policy))
    learner = dataclasses.replace(
        learner,
        policy=policy,
        critic=optax.apply_updates(learner.critic, step),
        policy_optimizer=policy_optimizer,
        critic_optimizer=critic_optimizer,
        observation_statistics=update_statistics(learner.observation_statistics, flat.observation),
        reward_statistics=rewards,
    )
    metrics = {"critic_loss": critic_loss, "entropy": entropies}
    return learner, metrics | policy_divergence(parts.distribution.kl, current, previous, previous)
