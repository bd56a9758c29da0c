"""Statistics of few runs (Agarwal et al. 2021): interquartile means, probabilities of improvement, bootstrap intervals.

The measures are rliable's and the bootstrap is SciPy's. rliable itself cannot be used here: its latest version, 1.2.0, asks for
arch < 8, which does not import beside pandas 3, and arch 8 refuses rliable's calls.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000
Statistic = Callable[..., np.ndarray]
"""(samples (..., R) one for each stratum, axis=-1) -> (...)."""


class Interval(NamedTuple):
    """A point estimate and its 95 % interval; nan where a stratum has a single run."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interquartile_mean(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half of all strata's scores together; the mean where there are fewer than four."""
    return stats.trim_mean(np.concatenate(strata, axis), 0.25, axis)


def probability_of_improvement(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
    """How likely a run of x beats one of y, ties half, mean over tasks; first x's scores of every task, then y's."""
    x, y = strata[: len(strata) // 2], strata[len(strata) // 2 :]
    difference = [
        np.moveaxis(a, axis, -1)[..., :, None] - np.moveaxis(b, axis, -1)[..., None, :] for a, b in zip(x, y, strict=True)
    ]
    return np.mean([(np.sign(each) / 2 + 0.5).mean((-2, -1)) for each in difference], axis=0)


def bootstrap(statistic: Statistic, strata: Sequence[np.ndarray]) -> Interval:
    """A statistic of runs, resampled within each stratum (a task, or an algorithm on a task); strata are (..., R) each."""
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
    """Interquartile mean of seeds at each point of a curve (R, T), with its interval."""
    return bootstrap(interquartile_mean, [values.T])
