"""Variants of MAAC with details of its authors' code that we do not use by default.

PYTHONPATH=experiments mamt train --env rover_tower --algo maac_differences:normalised_actions

In the authors' code the critics' encoders read one-hot actions after batch normalisation, and the encoders' gradients are
scaled by 1 / n.
"""

import jax
import optax

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import actor_critic, maac
from mamt_jax.algorithms.actor_critic import ActorCritic, ActorCriticConfig
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.networks.attention_critic import attention_critic
from mamt_jax.types import Params

ENCODERS = ("state", "action")


def normalised_actions(spec: EnvSpec) -> Algorithm:
    """MAAC whose critics read standardised one-hot actions, with mean and deviation of equally likely actions."""
    mean = 1.0 / spec.action_size
    deviation = (mean * (1.0 - mean)) ** 0.5

    def build(spec: EnvSpec, config: ActorCriticConfig) -> ActorCritic:
        parts = actor_critic.actor_critic(spec, config)

        def features(action: jax.Array) -> jax.Array:
            return (parts.distribution.features(action) - mean) / deviation

        distribution = parts.distribution._replace(features=features)
        return parts._replace(
            distribution=distribution, critic=attention_critic(spec, config.hidden_size, config.num_heads, features)
        )

    return maac.make(spec, build)


def scaled_encoders(spec: EnvSpec) -> Algorithm:
    """MAAC that scales the gradients of its critics' encoders by 1 / n."""

    def scale(gradient: Params, params: Params | None = None) -> Params:
        return gradient | {name: jax.tree.map(lambda leaf: leaf / spec.num_agents, gradient[name]) for name in ENCODERS}

    def build(spec: EnvSpec, config: ActorCriticConfig) -> ActorCritic:
        parts = actor_critic.actor_critic(spec, config)
        return parts._replace(critic_optimizer=optax.chain(optax.stateless(scale), parts.critic_optimizer))

    return maac.make(spec, build)
