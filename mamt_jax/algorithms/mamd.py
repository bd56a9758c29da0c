"""MAMD (Alg. 1): MAAC in trust regions of fixed size. MAMD-OP: only for agents that are known to depend on others."""

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

# Appendix F: who depends on whom in the three Spread-3 tasks.
DEPENDENT_AGENTS: dict[str, tuple[int, ...]] = {"spread3_sep": (), "spread3_mix": (0, 2), "spread3_ful": (0, 1, 2)}


@struct.dataclass
class MAMDConfig(base.ActorCriticConfig):
    """MAAC's hyperparameters, and the trust region's."""

    epsilon: float = number(10.0, BOUND)
    """Size of every agent's trust region; at infinity MAMD is MAAC."""
    tsallis_q: float = 0.2
    """Order of the Tsallis logarithm in the divergence; 1 is the natural logarithm."""
    entropy_bonus: float = 0.0
    """Share of MAAC's entropy term kept beside the trust region (Eq. 10 has none)."""


def trust_region(config: MAMDConfig, epsilon: jax.Array) -> base.Regulariser:
    """The regulariser of Eq. 10 for trust regions epsilon (n,)."""

    def regulariser(log_prob: jax.Array, old_log_prob: jax.Array) -> jax.Array:
        alpha = 1.0 / config.reward_scale
        return mixed_penalty(log_prob, old_log_prob, epsilon, config.tsallis_q, alpha, config.entropy_bonus)

    return regulariser


def mirror_descent(spec: EnvSpec, constrained: np.ndarray) -> Algorithm:
    """MAAC in a trust region of size `epsilon` for the `constrained` (n,) agents; the others follow MAAC."""

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
    """MAMD for the agents of `spec`: everyone is constrained."""
    return mirror_descent(spec, np.ones(spec.num_agents, bool))


def make_optimal(spec: EnvSpec) -> Algorithm:
    """MAMD-OP (App. F): only agents that depend on one another are constrained.

    Raises:
        ValueError: for an environment whose dependencies are not known.
    """
    if spec.name not in DEPENDENT_AGENTS:
        known = ", ".join(DEPENDENT_AGENTS)
        raise ValueError(f"mamd_op knows who depends on whom only in {known}, not in {spec.name}; use mamd there")
    return mirror_descent(spec, np.isin(np.arange(spec.num_agents), DEPENDENT_AGENTS[spec.name]))
