"""Statistics for few runs (Agarwal et al. 2021): interquartile means, probabilities of improvement, bootstrap intervals.

The measures are defined as in rliable, and the bootstrap is SciPy's. rliable itself cannot be used: its latest version, 1.2.0,
requires arch < 8, which cannot be imported with pandas 3, and arch 8 rejects rliable's calls.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000
Statistic = Callable[..., np.ndarray]
"""(samples (..., R) of each stratum, axis=-1) -> (...)."""


class Interval(NamedTuple):
    """A point estimate and the ends of its 95 % confidence interval; the ends are nan if a stratum has a single run."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interquartile_mean(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half of the pooled scores of all strata; the plain mean if there are fewer than four scores."""
    return stats.trim_mean(np.concatenate(strata, axis), 0.25, axis)


def probability_of_improvement(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    """Probability that a run of x scores higher than one of y, mean over tasks; a tie counts one half.

    Args:
        *strata: scores of x on every task, then scores of y on the same tasks.
        axis: axis of the runs.
    """
    x, y = strata[: len(strata) // 2], strata[len(strata) // 2 :]
    difference = [
        np.moveaxis(a, axis, -1)[..., :, None] - np.moveaxis(b, axis, -1)[..., None, :] for a, b in zip(x, y, strict=True)
    ]
    return np.mean([(np.sign(each) / 2 + 0.5).mean((-2, -1)) for each in difference], axis=0)


def bootstrap(statistic: Statistic, strata: Sequence[np.ndarray]) -> Interval:
    """A statistic of runs with its 95 % bootstrap interval.

    Args:
        statistic: the statistic.
        strata: (..., R) scores, one array per task, or per algorithm and task. Runs are resampled within each.
    """
    value = np.asarray(statistic(*strata, axis=-1))
    if min(stratum.shape[-1] for stratum in strata) < 2:
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    found = stats.bootstrap(
        tuple(strata),
        statistic,
        n_resamples=RESAMPLES,
        vectorized=True,
        axis=-1,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(value, np.asarray(found.low), np.asarray(found.high))


def over_seeds(values: np.ndarray) -> Interval:
    """Interquartile mean over seeds at each point of curves (R, T), with its interval."""
    return bootstrap(interquartile_mean, [values.T])
