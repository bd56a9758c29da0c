"""Actions that are differentiable in the policy's parameters: straight-through Gumbel-softmax, and noisy tanh.

Arrays are agent-major: `parameters` are outputs of a policy network (n, B, P), actions are (n, B) or (n, B, k).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Box, EnvSpec
from mamt_jax.distributions import categorical, tanh_gaussian


class ReparameterizedActions(NamedTuple):
    """Functions from the parameters of policies to differentiable actions.

    Attributes:
        sample: (parameters, key) -> action of the exploring policy.
        mode: parameters -> action of the greedy policy.
        reparameterized: (parameters, key) -> (n, B, A) float32, input of critics, differentiable in the parameters.
        features: action -> (n, B, A) float32, input of critics: one-hot actions, or continuous actions unchanged.
        kl: (parameters, other parameters) -> (n, B), KL in nats between the exploring policies.
        entropy: parameters -> (n, B), entropy of the exploring policies in nats.
        squared_norm: parameters -> (n, B), mean square of an agent's outputs without padding.
        parameter_sizes: number of parameters of each agent, without padding.
        restrict: function that applies action masks, see `ActionDistribution.restrict`.
    """

    sample: Callable[[jax.Array, jax.Array], jax.Array]
    mode: Callable[[jax.Array], jax.Array]
    reparameterized: Callable[[jax.Array, jax.Array], jax.Array]
    features: Callable[[jax.Array], jax.Array]
    kl: Callable[[jax.Array, jax.Array], jax.Array]
    entropy: Callable[[jax.Array], jax.Array]
    squared_norm: Callable[[jax.Array], jax.Array]
    parameter_sizes: tuple[int, ...]
    restrict: Callable[[jax.Array, jax.Array | None], jax.Array]


def straight_through(spec: EnvSpec, temperature: jax.Array | float) -> ReparameterizedActions:
    """Create categorical actions with the gradient of a Gumbel-softmax at `temperature` (Jang et al. 2017)."""
    distribution = categorical(spec.action_sizes)
    mask, most = spec.action_mask[:, None], jnp.log(jnp.array(spec.action_sizes, jnp.float32))[:, None]

    def reparameterized(logits: jax.Array, key: jax.Array) -> jax.Array:
        noisy = jnp.where(mask, logits + jax.random.gumbel(key, logits.shape), jnp.finfo(logits.dtype).min)
        soft = jax.nn.softmax(noisy / temperature)
        return soft + jax.lax.stop_gradient(distribution.features(noisy.argmax(-1)) - soft)

    return ReparameterizedActions(
        sample=distribution.sample,
        mode=distribution.mode,
        reparameterized=reparameterized,
        features=distribution.features,
        kl=distribution.kl,
        entropy=lambda logits: most - distribution.kl(logits, jnp.zeros_like(logits)),
        squared_norm=distribution.squared_norm,
        parameter_sizes=spec.action_sizes,
        restrict=distribution.restrict,
    )


def noisy_tanh(spec: EnvSpec, noise: jax.Array | float) -> ReparameterizedActions:
    """Create deterministic actions squashed by tanh. Exploration adds Gaussian noise and clips.

    `noise` is the standard deviation relative to half the width of an agent's box.
    """
    distribution = tanh_gaussian(tuple(space for space in spec.action_spaces if isinstance(space, Box)))
    mask = spec.action_mask[:, None]
    low, high = (
        np.array([getattr(space, end) for space in spec.action_spaces], np.float32)[:, None, None] for end in ("low", "high")
    )

    def squash(latent: jax.Array, key: jax.Array | None = None) -> jax.Array:
        del key
        return distribution.mode(jnp.stack([latent, latent], -1).reshape(*latent.shape[:-1], -1))

    def sample(latent: jax.Array, key: jax.Array) -> jax.Array:
        deviation = noise * (high - low) / 2 * jax.random.normal(key, latent.shape, latent.dtype)
        return jnp.where(mask, jnp.clip(squash(latent) + deviation, low, high), 0.0)

    def entropy(latent: jax.Array) -> jax.Array:
        each = jnp.log(noise * (high - low)[..., 0] / 2) + 0.5 * np.log(2 * np.pi * np.e)
        return jnp.broadcast_to(each * spec.action_mask.sum(-1, keepdims=True), latent.shape[:2])

    def kl(latent: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(mask, jnp.square((jnp.tanh(latent) - jnp.tanh(other)) / noise), 0.0).sum(-1) / 2

    def squared_norm(latent: jax.Array) -> jax.Array:
        return jnp.where(mask, jnp.square(latent), 0.0).sum(-1) / spec.action_mask.sum(-1, keepdims=True)

    return ReparameterizedActions(
        sample=sample,
        mode=squash,
        reparameterized=squash,
        features=distribution.features,
        kl=kl,
        entropy=entropy,
        squared_norm=squared_norm,
        parameter_sizes=spec.action_sizes,
        restrict=distribution.restrict,
    )
