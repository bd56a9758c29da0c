"""Running mean and variance, kept in the learner state: input and reward normalisation."""

from typing import Literal

import chex
import jax
import jax.numpy as jnp
from flax import struct

MEMORY = 1e6
LARGEST = 10.0

RewardNormalisation = Literal["standardise", "scale", "none"]
"""Rewards minus their running mean over their deviation (as MAAC's code does), only over it, or as they are."""


@struct.dataclass
class RunningStatistics:
    """Moments of a stream of arrays of one shape.

    Attributes:
        mean: that shape.
        variance: that shape.
        count: () float32, rows seen, at most `MEMORY`: from there on the mean is an exponential one.
    """

    mean: jax.Array
    variance: jax.Array
    count: jax.Array


def init_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Mean 0, variance 1, nothing seen."""
    return RunningStatistics(jnp.zeros(shape), jnp.ones(shape), jnp.zeros(()))


def update_statistics(statistics: RunningStatistics, batch: jax.Array) -> RunningStatistics:
    """Merge the moments of a batch (B, *shape) (Chan et al. 1979)."""
    chex.assert_equal_shape_suffix([batch, statistics.mean[None]], statistics.mean.ndim)
    share = batch.shape[0] / (statistics.count + batch.shape[0])
    difference = batch.mean(0) - statistics.mean
    variance = (1 - share) * statistics.variance + share * batch.var(0) + share * (1 - share) * jnp.square(difference)
    count = jnp.minimum(statistics.count + batch.shape[0], MEMORY)
    return RunningStatistics(statistics.mean + share * difference, variance, count)


def normalise(statistics: RunningStatistics, x: jax.Array) -> jax.Array:
    """`(x - mean) / std` within +-10, (..., *shape); zeros stay zero where only zeros were seen (padding)."""
    mean, variance = (m.reshape((1,) * (x.ndim - m.ndim) + m.shape) for m in (statistics.mean, statistics.variance))
    return jnp.clip((x - mean) * jax.lax.rsqrt(variance + 1e-5), -LARGEST, LARGEST)


def normalise_reward(kind: RewardNormalisation, statistics: RunningStatistics, reward: jax.Array) -> jax.Array:
    """Rewards (..., n) in the units that critics learn in. Shifted ones are the same task only where nothing terminates."""
    mean = statistics.mean if kind == "standardise" else jnp.zeros_like(statistics.mean)
    shift, unit = (x.reshape((1,) * (reward.ndim - 1) + x.shape) for x in (mean, reward_unit(kind, statistics)))
    return (reward - shift) / unit


def reward_unit(kind: RewardNormalisation, statistics: RunningStatistics) -> jax.Array:
    """(n,), what 1 of a critic's units is worth in the environment's rewards."""
    if kind == "none":
        return jnp.ones_like(statistics.variance)
    return jnp.sqrt(statistics.variance + 1e-5)
