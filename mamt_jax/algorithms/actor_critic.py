"""Actor and critic of MAAC, MAMD and MAMT: an attention critic (Eq. 9) and a regularised policy gradient (Eq. 10).

Equation numbers are those of the MAMT paper. Internal arrays are agent-major, (n, B, ...). In batches from the replay memory
and in actions for the environment, the agent axis follows the batch axes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

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
from mamt_jax.distributions import ActionDistribution, Candidates, action_distribution, entropy
from mamt_jax.divergence import policy_divergence
from mamt_jax.losses.actor import counterfactual_advantage, policy_loss
from mamt_jax.losses.critic import critic_loss, soft_td_target
from mamt_jax.networks.attention_critic import SHARED, AttentionCritic, attention_critic
from mamt_jax.networks.per_agent import Network
from mamt_jax.networks.policy import mlp_per_agent, restricted
from mamt_jax.returns import n_step_return
from mamt_jax.running_statistics import RewardNormalisation, RunningStatistics, init_statistics, update_statistics
from mamt_jax.types import Metrics, Params, Transition
from mamt_jax.validation import BOUND, COUNT, FRACTION, MOMENTUM, POSITIVE, number, require_valid, static

# Batch rows on which the divergence of policies is measured. They suffice for a mean, at a quarter of the cost of 1,024 rows.
DIVERGENCE_ROWS = 256

Regulariser = Callable[[jax.Array, jax.Array], jax.Array]
"""Function (log pi, log pi_old), both (n, B, K) -> R_i (n, B, K).

The policy loss weights log pi_i by R_i minus the advantage.
"""


@struct.dataclass
class OffPolicyConfig:
    """Hyperparameters of all algorithms that learn from a replay memory."""

    gamma: float = number(0.99, FRACTION)
    """Discount factor of future rewards."""
    tau: float = number(1e-3, FRACTION)
    """Step size of the Polyak averaging that moves the target networks towards the learnt networks in each update."""
    policy_learning_rate: float = 1e-3
    """Learning rate of the policies (Adam)."""
    critic_learning_rate: float = 1e-3
    """Learning rate of the critics (Adam)."""
    adam_b1: float = number(0.9, MOMENTUM)
    """Decay rate b1 of the first moment in Adam."""
    adam_epsilon: float = number(1e-7, POSITIVE)
    """Constant epsilon in the denominator of Adam, for numerical stability."""
    max_policy_grad_norm: float = number(0.5, BOUND)
    """Maximum norm of each agent's policy gradient."""
    max_critic_grad_norm: float = number(10.0, BOUND)
    """Maximum norm of the critics' joint gradient, divided by the number of agents."""
    hidden_size: int = static(128, COUNT)
    """Width of every hidden layer."""
    reward_normalisation: RewardNormalisation = static("standardise")
    """Normalisation of rewards: standardise subtracts the running mean and divides by the running standard deviation (as in
    MAAC's code), scale only divides, and none keeps the rewards."""
    old_policy_interval: int = static(100, COUNT)
    """Number of updates after which the current policy replaces the old policy."""


@struct.dataclass
class ActorCriticConfig(OffPolicyConfig):
    """Hyperparameters of MAAC, and of the actor and critic of MAMD and MAMT (Table 1)."""

    reward_scale: float = number(100.0, POSITIVE)
    """Weight of the reward relative to the entropy, 1 / alpha."""
    critic_weight_decay: float = 1e-3
    """Weight decay of the critics: coefficient of the L2 term that is added to their gradient."""
    attention_logit_coef: float = 1e-3
    """Weight of the squared attention logits in the critic loss."""
    num_heads: int = static(4, COUNT)
    """Number of attention heads in the critics."""
    policy_gradient: Literal["sampled", "expected"] = static("sampled")
    """Estimator of the policy gradient: sampled uses one action drawn from the agent's policy, expected uses the expectation
    over all of the agent's actions (over action samples where actions are continuous)."""
    num_action_samples: int = static(8, COUNT)
    """Number of actions sampled per agent for baselines and expectations where actions are continuous."""
    share_policy: bool = static(False)
    """Whether agents with equal observation and action spaces share one policy."""
    share_critic: bool = static(False)
    """Whether agents with equal observation and action spaces share one critic."""


@struct.dataclass
class ActorCriticState:
    """Learner state of the off-policy algorithms.

    Parameters of policies and critics have a leading agent axis, except the attention parameters that the critics of MAAC, MAMD
    and MAMT share.
    """

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


class ActorCritic(NamedTuple):
    """Networks, action distribution and optimisers of a config, as pure functions.

    They are built where they are needed and are not part of the learner state.
    """

    distribution: ActionDistribution
    policy: Network
    critic: AttentionCritic
    policy_optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


class Evaluated(NamedTuple):
    """Candidate actions of the current policies, and their values.

    Attributes:
        candidates: K candidate actions per agent and row.
        old_log_prob: (n, B, K), log-probability of each candidate under the old policy.
        q: (n, B, K), Q_i of each candidate together with the drawn actions of the other agents.
    """

    candidates: Candidates
    old_log_prob: jax.Array
    q: jax.Array


class UpdateKeys(NamedTuple):
    """Random keys of one update.

    Attributes:
        critic: key of the next actions in the critic's target.
        policy: key of the candidate actions in the policy step.
        dependence: key of the candidate actions with which MAMT measures the dependence between agents.
    """

    critic: jax.Array
    policy: jax.Array
    dependence: jax.Array


def split_update_key(key: jax.Array) -> UpdateKeys:
    """Split the key of an update, in the same way for MAAC, MAMD and MAMT.

    With equal keys, the three algorithms draw equal samples in the steps that they have in common.
    """
    return UpdateKeys(*jax.random.split(key, len(UpdateKeys._fields)))


def validate(config: ActorCriticConfig) -> None:
    """Check the fields of a config.

    Raises:
        ValueError: if a field is not valid, or `num_heads` does not divide `hidden_size`.
    """
    require_valid(config)
    if config.hidden_size % config.num_heads:
        raise ValueError(f"hidden_size={config.hidden_size} must be a multiple of num_heads={config.num_heads}.")


def actor_critic(spec: EnvSpec, config: ActorCriticConfig) -> ActorCritic:
    """Build the networks, the action distribution and the optimisers for `config`."""
    distribution = action_distribution(spec, num_samples=config.num_action_samples)
    policy = mlp_per_agent(spec.observation_sizes, distribution.parameter_sizes, config.hidden_size)
    critic = attention_critic(spec, config.hidden_size, config.num_heads, distribution.features)
    policy_optimizer = optimizers.clipped_adam_per_agent(
        config.policy_learning_rate, config.max_policy_grad_norm, config.adam_b1, config.adam_epsilon
    )
    critic_optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_critic_grad_norm * spec.num_agents),
        optax.add_decayed_weights(config.critic_weight_decay),
        optimizers.adam(config.critic_learning_rate, config.adam_b1, config.adam_epsilon),
    )
    return ActorCritic(
        distribution=distribution,
        policy=restricted(sharing.shared_network(spec, policy) if config.share_policy else policy, distribution.restrict),
        critic=critic._replace(init=sharing.shared_init(spec, critic.init, SHARED)) if config.share_critic else critic,
        policy_optimizer=sharing.shared_optimizer(spec, policy_optimizer) if config.share_policy else policy_optimizer,
        critic_optimizer=sharing.shared_optimizer(spec, critic_optimizer, SHARED) if config.share_critic else critic_optimizer,
    )


def init(build: Callable[[EnvSpec, Any], Any], spec: EnvSpec, config: OffPolicyConfig, key: jax.Array) -> ActorCriticState:
    """Initialise the learner; target networks and old policy are copies of the learnt networks (Alg. 1, lines 1-3).

    Args:
        build: function (spec, config) -> parts, with the networks `policy` and `critic` and their optimisers.
        spec: spec of the environment.
        config: hyperparameters, passed to `build`.
        key: random key, consumed.
    """
    parts = build(spec, config)
    policy_key, critic_key = jax.random.split(key)
    policy, critic = parts.policy.init(policy_key), parts.critic.init(critic_key)
    return ActorCriticState(
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


def prepare(config: OffPolicyConfig, learner: ActorCriticState, batch: Transition) -> Batch:
    """Normalise `batch` (B, n, ...) and make it agent-major, (n, B, ...)."""
    return agent_major.prepare(learner.observation_statistics, learner.reward_statistics, config.reward_normalisation, batch)


def observe(learner: ActorCriticState, batch: Transition) -> ActorCriticState:
    """Update the running statistics of observations and rewards with a replayed batch."""
    return dataclasses.replace(
        learner,
        observation_statistics=update_statistics(learner.observation_statistics, batch.observation, batch.active),
        reward_statistics=update_statistics(learner.reward_statistics, batch.reward, batch.active),
    )


def evaluate_policies(
    parts: ActorCritic,
    learner: ActorCriticState,
    observation: jax.Array,
    key: jax.Array,
    action_mask: jax.Array | None = None,
) -> Evaluated:
    """Draw a joint action from the current policies, and evaluate the candidate actions of each agent.

    The values of an agent's candidates are conditioned on the drawn actions of the other agents.
    """
    parameters = parts.policy.apply(learner.policy, observation, action_mask)
    candidates = parts.distribution.candidates(parameters, key)
    old_parameters = parts.policy.apply(learner.old_policy, observation, action_mask)
    features = parts.distribution.features(candidates.drawn_action)
    return Evaluated(
        candidates=candidates,
        old_log_prob=parts.distribution.candidate_log_prob(old_parameters, candidates),
        q=parts.critic.values(learner.critic, observation, features, candidates.action).q,
    )


def critic_step(
    config: ActorCriticConfig, parts: ActorCritic, learner: ActorCriticState, batch: Batch, key: jax.Array
) -> tuple[ActorCriticState, Metrics]:
    """Take one gradient step on the critic loss (Eq. 9).

    The gradients of the attention parameters, which all agents share, are scaled by 1 / n.
    """
    next_parameters = parts.policy.apply(learner.target_policy, batch.next_observation, batch.next_action_mask)
    drawn = parts.distribution.candidates(next_parameters, key)
    next_action = drawn.drawn_action
    next_q = parts.critic.values(
        learner.target_critic, batch.next_observation, parts.distribution.features(next_action), next_action[:, :, None]
    ).q[..., 0]
    earned, discount = n_step_return(batch.reward, batch.later, config.gamma)
    target = soft_td_target(earned, batch.terminated, next_q, drawn.drawn_log_prob, discount, 1.0 / config.reward_scale)

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        features = parts.distribution.features(batch.action)
        output = parts.critic.values(params, batch.observation, features, batch.action[:, :, None])
        value = critic_loss(output.q[..., 0], target, output.squared_logits, config.attention_logit_coef, batch.active)
        return value, output.attention

    (value, attention), gradient = jax.value_and_grad(loss, has_aux=True)(learner.critic)
    num_agents = batch.reward.shape[0]
    gradient = gradient | {SHARED: jax.tree.map(lambda g: g / num_agents, gradient[SHARED])}
    critic, optimizer_state = optimizers.descend(parts.critic_optimizer, gradient, learner.critic_optimizer, learner.critic)
    metrics = {"critic_loss": value, "attention": attention}
    return dataclasses.replace(learner, critic=critic, critic_optimizer=optimizer_state), metrics


def policy_step(
    config: ActorCriticConfig,
    parts: ActorCritic,
    learner: ActorCriticState,
    batch: Batch,
    evaluated: Evaluated,
    regulariser: Regulariser,
) -> tuple[Params, optax.OptState, jax.Array]:
    """Take one step of every policy on Eq. 10, including gradient clipping and Adam.

    The result is differentiable with respect to the values that `regulariser` closes over.

    Returns:
        The new policies, the new optimiser state and the loss of each agent (n,).
    """
    candidates = evaluated.candidates
    weight = regulariser(candidates.log_prob, evaluated.old_log_prob) - counterfactual_advantage(
        evaluated.q, candidates.probability
    )
    probability = candidates.probability if config.policy_gradient == "expected" else candidates.drawn_probability

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        parameters = parts.policy.apply(params, batch.observation, batch.action_mask)
        log_prob = parts.distribution.candidate_log_prob(parameters, candidates)
        losses = policy_loss(log_prob, weight, probability, parts.distribution.squared_norm(parameters), batch.active)
        return losses.sum(), losses

    gradient, losses = jax.grad(loss, has_aux=True)(learner.policy)
    return *optimizers.descend(parts.policy_optimizer, gradient, learner.policy_optimizer, learner.policy), losses


def update_targets(config: OffPolicyConfig, learner: ActorCriticState) -> ActorCriticState:
    """Update both target networks by Polyak averaging, and the old policy periodically (Alg. 1, lines 16-18).

    The old policy is replaced by the current policy every `old_policy_interval` updates.
    """
    updates = learner.updates + 1
    renew = updates % config.old_policy_interval == 0
    return dataclasses.replace(
        learner,
        target_policy=optax.incremental_update(learner.policy, learner.target_policy, config.tau),
        target_critic=optax.incremental_update(learner.critic, learner.target_critic, config.tau),
        old_policy=jax.tree.map(lambda new, old: jnp.where(renew, new, old), learner.policy, learner.old_policy),
        updates=updates,
    )


def update(
    parts: ActorCritic,
    config: ActorCriticConfig,
    learner: ActorCriticState,
    batch: Transition,
    keys: UpdateKeys,
    regulariser: Regulariser,
) -> tuple[ActorCriticState, Metrics]:
    """Update the critics, then the policies, then the target networks (Alg. 1, lines 13-18)."""
    learner = observe(learner, batch)
    prepared = prepare(config, learner, batch)
    learner, critic_metrics = critic_step(config, parts, learner, prepared, keys.critic)
    evaluated = evaluate_policies(parts, learner, prepared.observation, keys.policy, prepared.action_mask)
    policy, optimizer_state, policy_losses = policy_step(config, parts, learner, prepared, evaluated, regulariser)

    few = jax.tree.map(lambda leaf: leaf[:, :DIVERGENCE_ROWS], prepared)
    current, previous, old = (
        parts.policy.apply(params, few.observation, few.action_mask) for params in (policy, learner.policy, learner.old_policy)
    )
    divergence = policy_divergence(parts.distribution.kl, current, previous, old, few.active)
    entropies = active_mean(entropy(evaluated.candidates), prepared.active)
    metrics = critic_metrics | {"policy_loss": policy_losses, "entropy": entropies}
    learner = dataclasses.replace(learner, policy=policy, policy_optimizer=optimizer_state)
    return update_targets(config, learner), metrics | divergence


def algorithm(
    spec: EnvSpec, config: type, update: Callable[..., tuple[Any, Metrics]], build: agent_major.Build = actor_critic
) -> Algorithm:
    """Create an off-policy algorithm with attention critics.

    Args:
        spec: spec of the environment.
        config: config class of the algorithm.
        update: function (config, learner, batch, key) -> (learner, metrics).
        build: function (spec, config) -> networks, distribution and optimisers.

    Raises:
        ValueError: if the environment has a single agent, because a critic attends to the other agents.
    """
    if spec.num_agents < 2:
        raise ValueError(f"attention critics need at least 2 agents, but {spec.name} has {spec.num_agents}: use mappo.")
    return Algorithm(
        config=config,
        init=functools.partial(init, build, spec),
        act=functools.partial(agent_major.act, build, spec),
        greedy=functools.partial(agent_major.greedy, build, spec),
        update=update,
        policy=agent_major.policy,
        validate=validate,
        multi_step=True,
    )
