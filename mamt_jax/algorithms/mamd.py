"""MAMD (Alg. 1): MAAC with mirror descent in trust regions of fixed size.

The variant MAMD-OP constrains only the agents that are known to depend on other agents (App. F).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import actor_critic as base
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.losses.actor import mixed_penalty
from mamt_jax.types import Metrics, Transition
from mamt_jax.validation import BOUND, number

# Agents that depend on other agents, in each of the three Spread-3 tasks (App. F).
DEPENDENT_AGENTS: dict[str, tuple[int, ...]] = {"spread3_sep": (), "spread3_mix": (0, 2), "spread3_ful": (0, 1, 2)}


@struct.dataclass
class MAMDConfig(base.ActorCriticConfig):
    """Hyperparameters of MAMD: those of MAAC and of the trust regions."""

    epsilon: float = number(10.0, BOUND)
    """Size of the trust region of every agent. With inf, MAMD equals MAAC."""
    tsallis_q: float = 0.2
    """Order q of the Tsallis logarithm in the divergence; 1 gives the natural logarithm."""
    entropy_bonus: float = 0.0
    """Weight of MAAC's entropy term, which is added to the trust region term. Eq. 10 has no entropy term."""


def trust_region(config: MAMDConfig, epsilon: jax.Array) -> base.Regulariser:
    """Return the regulariser of Eq. 10 for trust regions of sizes `epsilon` (n,)."""

    def regulariser(log_prob: jax.Array, old_log_prob: jax.Array) -> jax.Array:
        alpha = 1.0 / config.reward_scale
        return mixed_penalty(log_prob, old_log_prob, epsilon, config.tsallis_q, alpha, config.entropy_bonus)

    return regulariser


def mirror_descent(spec: EnvSpec, constrained: np.ndarray) -> Algorithm:
    """Create MAAC with a trust region of size `epsilon` for each agent in `constrained` (n,); the other agents follow MAAC."""

    def update(
        config: MAMDConfig, learner: base.ActorCriticState, batch: Transition, key: jax.Array
    ) -> tuple[base.ActorCriticState, Metrics]:
        epsilon = jnp.where(constrained, config.epsilon, jnp.inf)
        keys = base.split_update_key(key)
        parts = base.actor_critic(spec, config)
        learner, metrics = base.update(parts, config, learner, batch, keys, trust_region(config, epsilon))
        return learner, metrics | {"epsilon": epsilon}

    return base.algorithm(spec, MAMDConfig, update)


def make(spec: EnvSpec) -> Algorithm:
    """Create MAMD for the agents of `spec`. Every agent is constrained."""
    return mirror_descent(spec, np.ones(spec.num_agents, bool))


def make_optimal(spec: EnvSpec) -> Algorithm:
    """Create MAMD-OP (App. F), which constrains only the agents that depend on other agents.

    Raises:
        ValueError: if the dependencies between the agents of the environment are not known.
    """
    if spec.name not in DEPENDENT_AGENTS:
        known = ", ".join(DEPENDENT_AGENTS)
        raise ValueError(f"mamd_op does not support {spec.name}: dependent agents are known only for {known}. Use mamd.")
    return mirror_descent(spec, np.isin(np.arange(spec.num_agents), DEPENDENT_AGENTS[spec.name]))
