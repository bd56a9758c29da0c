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
    """Moments of a stream of arrays of one shape, whose first axis is that of agents.

    Attributes:
        mean: that shape.
        variance: that shape.
        count: (n,) float32, rows seen of each agent, at most `MEMORY`: from there on the mean is an exponential one.
    """

    mean: jax.Array
    variance: jax.Array
    count: jax.Array


def init_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Mean 0, variance 1, nothing seen."""
    return RunningStatistics(jnp.zeros(shape), jnp.ones(shape), jnp.zeros(shape[:1]))


def update_statistics(statistics: RunningStatistics, batch: jax.Array, active: jax.Array | None = None) -> RunningStatistics:
    """Merge the moments of a batch (B, *shape) (Chan et al. 1979); only rows that are `active` (B, n) count, None: all."""
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
    """`(x - mean) / std` within +-10, (..., *shape); zeros stay zero where only zeros were seen (padding)."""
    chex.assert_equal_shape_suffix([x, statistics.mean], statistics.mean.ndim)
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
