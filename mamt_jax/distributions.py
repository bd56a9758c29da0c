"""Policies as distributions over actions, masked categorical or tanh-Gaussian. Each one is a tuple of pure functions.

Arrays are agent-major: `parameters` are outputs of a policy network (n, B, P), actions are (n, B) or (n, B, k).
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Box, EnvSpec

LOWEST = float(np.finfo(np.float32).min)


class Candidates(NamedTuple):
    """K actions per agent and row, over which expectations under a policy are computed.

    Attributes:
        action: (n, B, K) int32 or (n, B, K, k) float32.
        probability: (n, B, K), weights that sum to 1 over K: exact probabilities for a categorical, 1 / K for samples.
        log_prob: (n, B, K), log-density of each candidate under the policy.
        drawn: (n, B) int32, index of the candidate that is a sample from the policy.
        latent: actions before tanh, with which densities are exact where tanh saturates. For a categorical, the actions.
    """

    action: jax.Array
    probability: jax.Array
    log_prob: jax.Array
    drawn: jax.Array
    latent: jax.Array

    @property
    def drawn_action(self) -> jax.Array:
        """The sampled action, (n, B) or (n, B, k)."""
        index = self.drawn.reshape(*self.drawn.shape, *(1,) * (self.action.ndim - 2))
        return jnp.take_along_axis(self.action, index, 2)[:, :, 0]

    @property
    def drawn_log_prob(self) -> jax.Array:
        """Log-density of the sampled action, (n, B)."""
        return jnp.take_along_axis(self.log_prob, self.drawn[..., None], -1)[..., 0]

    @property
    def drawn_probability(self) -> jax.Array:
        """One-hot distribution on the sampled action, (n, B, K)."""
        return jax.nn.one_hot(self.drawn, self.probability.shape[-1], dtype=self.probability.dtype)


class Alternatives(NamedTuple):
    """K actions per agent and row that do not depend on its policy, over which its influence on others is measured.

    Attributes:
        action: (n, B, K) int32 or (n, B, K, k) float32.
        possible: (n, B, K) bool, False for padding and for actions that a mask excludes.
    """

    action: jax.Array
    possible: jax.Array


class ActionDistribution(NamedTuple):
    """A family of distributions over each agent's actions.

    Attributes:
        sample: (parameters, key) -> action.
        mode: parameters -> action.
        log_prob: (parameters (n, B, P), action (n, B, ...)) -> (n, B).
        kl: (parameters, other parameters) -> (n, B), KL(first || other) in nats.
        candidates: (parameters, key) -> Candidates, either all actions or samples.
        candidate_log_prob: (parameters, Candidates) -> (n, B, K), log-densities of the candidates under these parameters.
        alternatives: (parameters, key) -> Alternatives, either all actions or uniform samples.
        features: action -> (n, B, A) float32, input of critics: one-hot actions, or continuous actions unchanged.
        squared_norm: parameters -> (n, B), mean square of an agent's outputs without padding (L2 regulariser of policies).
        parameter_sizes: number of parameters of each agent, without padding.
        restrict: (parameters, action mask (n, B, A) or None) -> parameters of a policy that takes only allowed actions. All
            other functions accept these parameters. An empty mask allows all actions.
    """

    sample: Callable[[jax.Array, jax.Array], jax.Array]
    mode: Callable[[jax.Array], jax.Array]
    log_prob: Callable[[jax.Array, jax.Array], jax.Array]
    kl: Callable[[jax.Array, jax.Array], jax.Array]
    candidates: Callable[[jax.Array, jax.Array], Candidates]
    candidate_log_prob: Callable[[jax.Array, Candidates], jax.Array]
    alternatives: Callable[[jax.Array, jax.Array], Alternatives]
    features: Callable[[jax.Array], jax.Array]
    squared_norm: Callable[[jax.Array], jax.Array]
    parameter_sizes: tuple[int, ...]
    restrict: Callable[[jax.Array, jax.Array | None], jax.Array]


def tsallis_log(log_prob: jax.Array, q: jax.Array | float) -> jax.Array:
    """Compute the Tsallis logarithm `log_q(x) = (x^(1-q) - 1) / (1 - q)` from log x. log_1 is the natural logarithm.

    Table 1 has q = 0.2.
    """
    order = 1.0 - jnp.asarray(q, log_prob.dtype)
    is_log = jnp.abs(order) < 1e-6
    return jnp.where(is_log, log_prob, jnp.expm1(order * log_prob) / jnp.where(is_log, 1.0, order))


def entropy(candidates: Candidates) -> jax.Array:
    """Compute the entropy (n, B) in nats: exact for a categorical, a Monte Carlo estimate for samples."""
    return -(candidates.probability * candidates.log_prob).sum(-1)


def categorical(num_actions: tuple[int, ...]) -> ActionDistribution:
    """Create categorical policies. Parameters are logits (n, B, A); logits beyond an agent's `num_actions` are ignored.

    Masked logits are set to the finite minimum of the dtype. Excluded actions then have probability 0, and entropies, KL
    divergences and gradients contain no nan, because 0 times a finite number is 0.
    """
    size = max(num_actions)
    mask = np.arange(size) < np.array(num_actions)[:, None]

    def own(logits: jax.Array, fill: float) -> jax.Array:
        chex.assert_shape(logits, (len(num_actions), None, size))
        return jnp.where(mask[:, None], logits, fill)

    def log_probs(logits: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(own(logits, LOWEST))

    def squared_norm(logits: jax.Array) -> jax.Array:
        counted = jnp.where(logits > LOWEST / 2, own(logits, 0.0), 0.0)
        return jnp.square(counted).sum(-1) / np.array(num_actions, np.float32)[:, None]

    def log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
        return jnp.take_along_axis(log_probs(logits), action[..., None], -1)[..., 0]

    def sample(logits: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, log_probs(logits)).astype(jnp.int32)

    def kl(logits: jax.Array, other: jax.Array) -> jax.Array:
        log_p = log_probs(logits)
        return (jnp.exp(log_p) * own(log_p - log_probs(other), 0.0)).sum(-1)

    def every_action(logits: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), logits.shape)

    def candidates(logits: jax.Array, key: jax.Array) -> Candidates:
        log_p, action = log_probs(logits), every_action(logits)
        return Candidates(action, jnp.exp(log_p), own(log_p, 0.0), sample(logits, key), action)

    def alternatives(logits: jax.Array, key: jax.Array) -> Alternatives:
        del key
        return Alternatives(every_action(logits), own(logits, LOWEST) > LOWEST / 2)

    return ActionDistribution(
        sample=sample,
        mode=lambda logits: log_probs(logits).argmax(-1).astype(jnp.int32),
        log_prob=log_prob,
        kl=kl,
        candidates=candidates,
        candidate_log_prob=lambda logits, candidates: own(log_probs(logits), 0.0),
        alternatives=alternatives,
        features=lambda action: jax.nn.one_hot(action, size, dtype=jnp.float32),
        squared_norm=squared_norm,
        parameter_sizes=num_actions,
        restrict=restrict_logits,
    )


def restrict_logits(logits: jax.Array, action_mask: jax.Array | None) -> jax.Array:
    """Set the logits (..., A) of actions that `action_mask` (..., A) excludes to the lowest float.

    An empty mask excludes nothing.
    """
    if action_mask is None:
        return logits
    chex.assert_equal_shape([logits, action_mask])
    return jnp.where(action_mask | ~action_mask.any(-1, keepdims=True), logits, LOWEST)


def tanh_gaussian(spaces: tuple[Box, ...], num_samples: int = 8) -> ActionDistribution:
    """Create Gaussian policies whose samples are squashed by tanh into the box of each agent.

    Parameters (n, B, 2k) are k pairs of a mean and a log standard deviation. An agent with fewer action dimensions uses the
    first pairs. The KL divergence between squashed Gaussians equals that between the Gaussians. `candidates` and
    `alternatives` draw `num_samples` actions.
    """
    size = max(space.size for space in spaces)
    mask = np.arange(size) < np.array([space.size for space in spaces])[:, None]
    low = np.array([space.low for space in spaces], np.float32)
    half_width = (np.array([space.high for space in spaces], np.float32) - low) / 2

    def per_agent(constant: np.ndarray, like: jax.Array) -> np.ndarray:
        return constant.reshape(constant.shape + (1,) * (like.ndim - constant.ndim))

    def split(parameters: jax.Array) -> tuple[jax.Array, jax.Array]:
        chex.assert_shape(parameters, (len(spaces), None, 2 * size))
        paired = parameters.reshape(*parameters.shape[:-1], size, 2)
        return paired[..., 0], jnp.clip(paired[..., 1], -5.0, 2.0)

    def scale(unit: jax.Array) -> jax.Array:
        """Actions from vectors in [-1, 1]."""
        own = mask.reshape(mask.shape[0], *(1,) * (unit.ndim - 2), size)
        action = per_agent(low, unit) + per_agent(half_width, unit) * (unit + 1.0)
        return jnp.where(own, action, 0.0)

    def squash(latent: jax.Array) -> jax.Array:
        return scale(jnp.tanh(latent))

    def unsquash(action: jax.Array) -> jax.Array:
        unit = (action - per_agent(low, action)) / per_agent(half_width, action) - 1.0
        return jnp.arctanh(jnp.clip(unit, -1.0 + 1e-6, 1.0 - 1e-6))

    def latent_log_prob(mean: jax.Array, log_std: jax.Array, latent: jax.Array) -> jax.Array:
        normal = -0.5 * jnp.square((latent - mean) * jnp.exp(-log_std)) - log_std - 0.5 * np.log(2 * np.pi)
        log_det = 2.0 * (np.log(2.0) - latent - jax.nn.softplus(-2.0 * latent)) + np.log(per_agent(half_width, latent))
        own = mask.reshape(mask.shape[0], *(1,) * (latent.ndim - 2), size)
        return jnp.where(own, normal - log_det, 0.0).sum(-1)

    def draw(parameters: jax.Array, key: jax.Array) -> jax.Array:
        mean, log_std = (x[:, :, None] for x in split(parameters))
        noise = jax.random.normal(key, (*mean.shape[:2], num_samples, size), mean.dtype)
        return mean + jnp.exp(log_std) * noise

    def candidates(parameters: jax.Array, key: jax.Array) -> Candidates:
        mean, log_std = (x[:, :, None] for x in split(parameters))
        latent = draw(parameters, key)
        log_prob = latent_log_prob(mean, log_std, latent)
        first = jnp.zeros(parameters.shape[:2], jnp.int32)
        return Candidates(squash(latent), jnp.full_like(log_prob, 1.0 / num_samples), log_prob, first, latent)

    def alternatives(parameters: jax.Array, key: jax.Array) -> Alternatives:
        unit = jax.random.uniform(key, (*parameters.shape[:2], num_samples, size), parameters.dtype, -1.0, 1.0)
        return Alternatives(scale(unit), jnp.ones(unit.shape[:-1], bool))

    def candidate_log_prob(parameters: jax.Array, candidates: Candidates) -> jax.Array:
        mean, log_std = (x[:, :, None] for x in split(parameters))
        return latent_log_prob(mean, log_std, candidates.latent)

    def kl(parameters: jax.Array, other: jax.Array) -> jax.Array:
        (mean, log_std), (other_mean, other_log_std) = split(parameters), split(other)
        variance_ratio = jnp.exp(2.0 * (log_std - other_log_std))
        distance = jnp.square((mean - other_mean) * jnp.exp(-other_log_std))
        return jnp.where(mask[:, None], 0.5 * (variance_ratio + distance - 1.0) + other_log_std - log_std, 0.0).sum(-1)

    def squared_norm(parameters: jax.Array) -> jax.Array:
        own = np.repeat(mask, 2, -1)
        return jnp.square(jnp.where(own[:, None], parameters, 0.0)).sum(-1) / own.sum(-1, keepdims=True).astype(np.float32)

    return ActionDistribution(
        sample=lambda parameters, key: squash(draw(parameters, key)[:, :, 0]),
        mode=lambda parameters: squash(split(parameters)[0]),
        log_prob=lambda parameters, action: latent_log_prob(*split(parameters), unsquash(action)),
        kl=kl,
        candidates=candidates,
        candidate_log_prob=candidate_log_prob,
        alternatives=alternatives,
        features=lambda action: action,
        squared_norm=squared_norm,
        parameter_sizes=tuple(2 * space.size for space in spaces),
        restrict=lambda parameters, action_mask: parameters,
    )


def action_distribution(spec: EnvSpec, agents: tuple[int, ...] | None = None, num_samples: int = 8) -> ActionDistribution:
    """Create the distribution for the action spaces of `spec`.

    Args:
        spec: spec of the environment.
        agents: indices of agents, possibly with repetitions. None selects every agent once.
        num_samples: number of candidate actions where actions are continuous.

    Raises:
        ValueError: if some agents have discrete and others continuous actions.
    """
    chosen = range(spec.num_agents) if agents is None else agents
    spaces = tuple(spec.action_spaces[i] for i in chosen)
    boxes = tuple(space for space in spaces if isinstance(space, Box))
    if not boxes:
        return categorical(tuple(spec.action_sizes[i] for i in chosen))
    if len(boxes) < len(spaces):
        raise ValueError(f"{spec.name} mixes discrete and continuous actions: all action spaces must be of one kind.")
    return tanh_gaussian(boxes, num_samples)
