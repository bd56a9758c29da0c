"""Running mean and variance in the learner state, for the normalisation of observations, rewards and values."""

from typing import Literal

import chex
import jax
import jax.numpy as jnp
from flax import struct

MEMORY = 1e6
LARGEST = 10.0

RewardNormalisation = Literal["standardise", "scale", "none"]
"""Normalisation of rewards: subtract the mean and divide by the deviation (as in MAAC's code), only divide, or none."""


@struct.dataclass
class RunningStatistics:
    """Running moments of arrays of shape (n, ...), whose first axis is the agent axis.

    Attributes:
        mean: (n, ...).
        variance: (n, ...).
        count: (n,) float32, number of rows per agent, at most `MEMORY`. At this limit, moments are exponential averages.
    """

    mean: jax.Array
    variance: jax.Array
    count: jax.Array


def init_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Return initial statistics: mean 0, variance 1 and count 0."""
    return RunningStatistics(jnp.zeros(shape), jnp.ones(shape), jnp.zeros(shape[:1]))


def update_statistics(statistics: RunningStatistics, batch: jax.Array, active: jax.Array | None = None) -> RunningStatistics:
    """Merge the moments of a batch (B, *shape) into the statistics (Chan et al. 1979).

    Only rows in `active` (B, n) count; None counts all rows.
    """
    chex.assert_equal_shape_suffix([batch, statistics.mean[None]], statistics.mean.ndim)
    number_of_axes = statistics.mean.ndim
    if active is None:
        active = jnp.ones((len(batch), *statistics.count.shape), bool)
    chex.assert_shape(active, (len(batch), *statistics.count.shape))
    rows = active.sum(0, dtype=jnp.float32)
    share = rows / jnp.maximum(statistics.count + rows, 1.0)
    count = jnp.minimum(statistics.count + rows, MEMORY)

    def by_agent(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape, *(1,) * (number_of_axes - 1))

    def mean(x: jax.Array) -> jax.Array:
        return jnp.where(by_agent(active), x, 0.0).sum(0) / by_agent(jnp.maximum(rows, 1.0))

    share = by_agent(share)
    batch_mean = mean(batch)
    difference = batch_mean - statistics.mean
    variance = (1 - share) * statistics.variance + share * mean(jnp.square(batch - batch_mean[None]))
    variance = variance + share * (1 - share) * jnp.square(difference)
    return RunningStatistics(statistics.mean + share * difference, variance, count)


def normalise(statistics: RunningStatistics, x: jax.Array) -> jax.Array:
    """Normalise `x` (..., *shape) to `(x - mean) / std`, clipped to +-10. Padding with zeros remains zero."""
    chex.assert_equal_shape_suffix([x, statistics.mean], statistics.mean.ndim)
    mean, variance = (m.reshape((1,) * (x.ndim - m.ndim) + m.shape) for m in (statistics.mean, statistics.variance))
    return jnp.clip((x - mean) * jax.lax.rsqrt(variance + 1e-5), -LARGEST, LARGEST)


def normalise_reward(kind: RewardNormalisation, statistics: RunningStatistics, reward: jax.Array) -> jax.Array:
    """Normalise rewards (..., n) for the critics.

    Subtracting the mean changes the task in environments where episodes terminate.
    """
    mean = statistics.mean if kind == "standardise" else jnp.zeros_like(statistics.mean)
    shift, unit = (x.reshape((1,) * (reward.ndim - 1) + x.shape) for x in (mean, reward_unit(kind, statistics)))
    return (reward - shift) / unit


def reward_unit(kind: RewardNormalisation, statistics: RunningStatistics) -> jax.Array:
    """Return the reward (n,) in units of the environment that equals 1 in units of the critic."""
    if kind == "none":
        return jnp.ones_like(statistics.variance)
    return jnp.sqrt(statistics.variance + 1e-5)


def standardise(statistics: RunningStatistics | None, value: jax.Array) -> jax.Array:
    """Standardise values (n, B) with statistics of (n,). None keeps them."""
    return value if statistics is None else (value - statistics.mean[:, None]) / _deviation(statistics)


def unstandardise(statistics: RunningStatistics | None, value: jax.Array) -> jax.Array:
    """Invert `standardise`."""
    return value if statistics is None else value * _deviation(statistics) + statistics.mean[:, None]


def _deviation(statistics: RunningStatistics) -> jax.Array:
    return jnp.sqrt(statistics.variance + 1e-5)[:, None]
