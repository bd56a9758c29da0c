"""HATRPO (Kuba et al. 2022): TRPO for one agent after another, each with the compound ratio of those before it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.active import active_mean, active_standardise
from mamt_jax.algorithms import on_policy, optimizers, ppo
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.algorithms.happo import ratio_of_others
from mamt_jax.algorithms.on_policy import OnPolicy, OnPolicyState
from mamt_jax.algorithms.ppo import Rows, ValueConfig
from mamt_jax.distributions import entropy
from mamt_jax.losses.actor import surrogate
from mamt_jax.types import Metrics, Params, Trajectory
from mamt_jax.validation import COUNT, FRACTION, POSITIVE, number, static


@struct.dataclass
class HATRPOConfig(ValueConfig):
    """Hyperparameters of HATRPO. Passes and minibatches are those of the critics. Each policy takes one step per rollout."""

    max_divergence: float = number(0.01, POSITIVE)
    """Limit of each agent's mean KL divergence from the policy that played the rollout, in nats."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    damping: float = number(0.1, POSITIVE)
    """Multiple of the identity that is added to the Fisher matrix."""
    accept_ratio: float = number(0.5, FRACTION)
    """Smallest accepted gain of a step, as a share of the gain that the gradient predicts."""
    backtracking: float = number(0.8, FRACTION)
    """Factor by which a step that is not accepted shrinks."""
    cg_iterations: int = static(10, COUNT)
    """Iterations of conjugate gradients."""
    line_search_steps: int = static(10, COUNT)
    """Step lengths that are tried. If none is accepted, the policy does not change."""


def make(spec: EnvSpec) -> Algorithm:
    """Create HATRPO for the agents of `spec`.

    Raises:
        ValueError: if some agents have discrete and others continuous actions.
    """
    return on_policy.algorithm(spec, HATRPOConfig, update, build)


def build(spec: EnvSpec, config: HATRPOConfig) -> OnPolicy:
    """Build the action distribution, the networks and the critics' optimiser for `config`."""
    return on_policy.assemble(spec, config, optax.identity(), config.num_epochs * config.num_minibatches)


def natural_direction(
    config: HATRPOConfig, parts: OnPolicy, rows: Rows, policy: Params, agent: jax.Array, gradient: Params
) -> tuple[Params, jax.Array]:
    """Solve (F + damping I) x = gradient for the policy of one agent by conjugate gradients.

    F is the Fisher matrix, the Hessian of the agent's mean KL divergence at `policy`. It is used in products with vectors only.

    Returns:
        x, and the product x (F + damping I) x.
    """
    old = ppo.outputs(parts, policy, rows)

    def divergence(params: Params) -> jax.Array:
        new = ppo.outputs(parts, params, rows)
        return active_mean(parts.distribution.kl(old, new), rows.active)[agent]

    def fisher_product(vector: Params) -> Params:
        product = jax.jvp(jax.grad(divergence), (policy,), (vector,))[1]
        return jax.tree.map(lambda a, b: a + config.damping * b, product, vector)

    direction = optimizers.conjugate_gradients(fisher_product, gradient, config.cg_iterations)
    return direction, jnp.asarray(optax.tree.vdot(direction, fisher_product(direction)))


def turn(
    config: HATRPOConfig, parts: OnPolicy, rows: Rows, key: jax.Array, policy: Params, agent: jax.Array
) -> tuple[Params, Metrics]:
    """Take one step of one agent's policy: the longest that gains enough and keeps within the limit of the KL divergence."""
    advantage = ratio_of_others(parts, policy, rows)[None] * active_standardise(rows.advantage, rows.active)
    old = ppo.outputs(parts, policy, rows)

    def objective(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        new = ppo.outputs(parts, params, rows)
        gain = surrogate(parts.distribution.log_prob(new, rows.action), rows.log_prob, advantage, rows.active)
        candidates = parts.distribution.candidates(new, jax.random.fold_in(key, 0))  # the same noise for all parameters
        bonus = active_mean(entropy(candidates), rows.active)
        divergence = active_mean(parts.distribution.kl(old, new), rows.active)
        return (gain + config.entropy_coefficient * bonus)[agent], (divergence[agent], bonus[agent])

    (start, (_, bonus)), gradient = jax.value_and_grad(objective, has_aux=True)(policy)
    direction, curvature = natural_direction(config, parts, rows, policy, agent, gradient)
    length = jnp.sqrt(2.0 * config.max_divergence / jnp.maximum(curvature, 1e-12))
    predicted = length * optax.tree.vdot(gradient, direction)

    def shorter(carry: tuple[Params, jax.Array], fraction: jax.Array) -> tuple[tuple[Params, jax.Array], None]:
        accepted, found = carry
        tried = jax.tree.map(lambda leaf, step: leaf + fraction * length * step, policy, direction)
        value, (divergence, _) = objective(tried)
        good = (value - start > config.accept_ratio * fraction * predicted) & (divergence <= config.max_divergence)
        better = jax.tree.map(lambda new, old: jnp.where(good & ~found, new, old), tried, accepted)
        return (better, found | good), None

    fractions = config.backtracking ** jnp.arange(config.line_search_steps)
    (policy, found), _ = jax.lax.scan(shorter, (policy, jnp.zeros((), bool)), fractions)
    return policy, {"policy_loss": -start, "entropy": bonus, "accepted": found.astype(jnp.float32)}


def update(
    spec: EnvSpec, config: HATRPOConfig, learner: OnPolicyState, trajectory: Trajectory, key: jax.Array
) -> tuple[OnPolicyState, Metrics]:
    """Update the policies one after another in random order, and then all critics, on one rollout.

    Raises:
        ValueError: if a rollout has fewer rows than `num_minibatches`.
    """
    parts, before = build(spec, config), learner
    rows = ppo.value_rollout(config, parts, learner, trajectory)
    order_key, step_key, turns_key, entropy_key = jax.random.split(key, 4)

    turns = jax.random.permutation(turns_key, spec.num_agents)
    policy, metrics = ppo.in_turn(functools.partial(turn, config, parts, rows, entropy_key), learner.policy, turns)
    learner = dataclasses.replace(learner, policy=policy)

    order = ppo.shuffled(config, rows, order_key)
    learner, value_metrics = ppo.value_passes(config, parts, learner, rows, order, step_key)
    learner, divergence = ppo.finish(parts, before, learner, rows, trajectory)
    return learner, metrics | value_metrics | divergence
