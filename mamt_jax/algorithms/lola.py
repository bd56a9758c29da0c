"""LOLA (Foerster et al. 2018a): two agents, each of which maximises its value after the other agent's next learning step."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.active import active_mean
from mamt_jax.algorithms import on_policy, optimizers
from mamt_jax.algorithms.agent_major import Batch
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.algorithms.on_policy import OnPolicyState, PolicyGradientConfig, by_time
from mamt_jax.distributions import ActionDistribution, entropy
from mamt_jax.divergence import policy_divergence
from mamt_jax.losses.critic import squared_error
from mamt_jax.losses.lookahead import dice_value, lookahead_value
from mamt_jax.networks.memory import remember
from mamt_jax.running_statistics import standardise
from mamt_jax.types import Metrics, Params, Trajectory
from mamt_jax.validation import static


@struct.dataclass
class LOLAConfig(PolicyGradientConfig):
    """Hyperparameters of LOLA."""

    lookahead: float = 0.003
    """Step size of the other agent's naive learning step; 0 gives naive learning. Use 1 for the prisoner's dilemma."""
    policy_learning_rate: float = 3e-3
    """Learning rate of the policies (Adam)."""
    entropy_coefficient: float = 0.05
    """Weight of the entropy bonus. Without exploration, defection in the prisoner's dilemma is no longer punished."""
    policy_output_scale: float = static(0.01)
    """Scale of the initial weights in the last layer of policies. A small scale makes the initial policies nearly uniform."""


def make(spec: EnvSpec) -> Algorithm:
    """Create LOLA for the two agents of `spec`.

    Raises:
        ValueError: if the environment does not have exactly two agents.
    """
    if spec.num_agents != 2:
        raise ValueError(
            f"lola needs exactly 2 agents, but {spec.name} has {spec.num_agents}: "
            "choose an environment with 2 agents, for example spread with num_agents=2."
        )
    return on_policy.algorithm(spec, LOLAConfig, update)


def of_active(batch: Batch, x: jax.Array) -> jax.Array:
    """Set `x` (2, B) to 0 where an agent is inactive."""
    return x if batch.active is None else jnp.where(batch.active, x, 0.0)


def policy_gradient(
    config: LOLAConfig,
    distribution: ActionDistribution,
    outputs: Callable[[Params], jax.Array],
    policy: Params,
    batch: Batch,
    baseline: jax.Array,
    truncated: jax.Array,
) -> Params:
    """Compute the gradient of each agent's value after the naive learning step of the other agent.

    `outputs` maps the parameters of policies to those of their action distributions on the rows of `batch`. Arrays of `batch`
    are (2, T x E, ...), `baseline` is (2, T x E) and `truncated` is (T, E).
    """
    done = truncated | by_time(batch.terminated, truncated).all(0)

    def value(agent: jax.Array, own: Params, other: Params) -> jax.Array:
        """Estimate the value of `agent` from its own parameters and those of the other agent."""
        both = jax.tree.map(lambda a, b: jnp.where(agent == 0, jnp.stack([a, b]), jnp.stack([b, a])), own, other)
        log_prob = of_active(batch, distribution.log_prob(outputs(both), batch.action))
        rows = (log_prob.sum(0), batch.reward[agent], baseline[agent])
        return dice_value(*(by_time(x, truncated)[0] for x in rows), done=done, gamma=config.gamma)

    def of_agent(agent: jax.Array, own: Params, other: Params) -> Params:
        values = (functools.partial(value, who) for who in (agent, 1 - agent))
        ahead = functools.partial(lookahead_value, *values, step=config.lookahead)
        return jax.grad(lambda own: ahead(own=own, other=other))(own)

    return jax.vmap(of_agent)(jnp.arange(2), policy, jax.tree.map(lambda leaf: leaf[::-1], policy))


def entropy_gradient(
    config: LOLAConfig,
    distribution: ActionDistribution,
    outputs: Callable[[Params], jax.Array],
    policy: Params,
    active: jax.Array | None,
    key: jax.Array,
) -> tuple[Params, jax.Array]:
    """Compute the gradient of the entropy bonus, and the entropy of each agent (n,). `outputs` is that of `policy_gradient`."""

    def bonus(params: Params) -> tuple[jax.Array, jax.Array]:
        each = active_mean(entropy(distribution.candidates(outputs(params), key)), active)
        return config.entropy_coefficient * each.sum(), each

    return jax.grad(bonus, has_aux=True)(policy)


def update(
    spec: EnvSpec, config: LOLAConfig, learner: OnPolicyState, trajectory: Trajectory, key: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Take one step of both policies and both critics on a rollout."""
    parts = on_policy.build(spec, config)
    batch, history = on_policy.prepare(config, learner, trajectory), on_policy.history(trajectory)
    inputs = remember(parts.memory, learner.policy, batch.observation, history)
    baseline, advantage = on_policy.advantages(config, parts, learner, batch, inputs, trajectory.truncated)

    def outputs(policy: Params) -> jax.Array:
        return on_policy.parameters(parts, policy, batch.observation, batch.action_mask, history)

    of_policy = config, parts.distribution, outputs, learner.policy
    gradient = policy_gradient(*of_policy, batch, of_active(batch, baseline), trajectory.truncated)
    bonus, entropies = entropy_gradient(*of_policy, batch.active, key)
    slope = jax.tree.map(lambda value, bonus: -value - bonus, gradient, bonus)
    policy, policy_optimizer = optimizers.descend(parts.policy_optimizer, slope, learner.policy_optimizer, learner.policy)

    def value_loss(params: Params) -> jax.Array:
        target = standardise(learner.value_statistics, baseline + advantage)
        return squared_error(parts.critic.apply(params, inputs), target, batch.active)

    loss, slope = jax.value_and_grad(value_loss)(learner.critic)
    critic, critic_optimizer = optimizers.descend(parts.critic_optimizer, slope, learner.critic_optimizer, learner.critic)
    current, previous = outputs(policy), outputs(learner.policy)
    metrics = {"critic_loss": loss, "entropy": entropies}
    metrics |= policy_divergence(parts.distribution.kl, current, previous, previous, batch.active)
    learner = dataclasses.replace(
        learner, policy=policy, critic=critic, policy_optimizer=policy_optimizer, critic_optimizer=critic_optimizer
    )
    learner = on_policy.observe_values(learner, baseline + advantage, batch.active)
    return on_policy.observe(learner, trajectory), metrics
