"""The rows of metrics.jsonl."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mamt_jax.training.evaluation import Evaluation
from mamt_jax.training.vectorized import IntervalSums

STOPPED = "stopped_at"
"""In the rows of a run that broke: after how many environment steps."""


def make_rows(heads: Sequence[dict[str, Any]], evaluation: dict[str, Evaluation], sums: IntervalSums) -> list[dict[str, Any]]:
    """One row a run.

    Args:
        heads: how each row begins: run, seed, env_steps, episodes, updates, wall_seconds, and `STOPPED` in a run that broke.
        evaluation: "greedy" and "sampled", leading axis of runs.
        sums: of training since the last evaluation, leading axis of runs.

    Returns:
        Rows with returns per agent (nan where no episode ended), task metrics of the greedy policies under `task/` and of
        training under `train_task/`, and the mean over the updates of each of the algorithm's metrics under its own name.
        All are nan in a run that broke.
    """
    results = jax.device_get((evaluation, sums))
    rows = [_results(*jax.tree.map(lambda leaf, run=run: leaf[run], results)) for run in range(len(heads))]
    return [
        head | (jax.tree.map(lambda _: math.nan, row) if STOPPED in head else row)
        for head, row in zip(heads, rows, strict=True)
    ]


def _results(evaluation: dict[str, Evaluation], sums: IntervalSums) -> dict[str, Any]:
    greedy, sampled, finished = evaluation["greedy"], evaluation["sampled"], sums.episodes
    return {
        "train_return": _mean(finished.episode_return.mean(), finished.episodes),
        "eval_return": float(greedy.episode_return.mean()),
        "eval_return_sampled": float(sampled.episode_return.mean()),
        "eval_return_per_agent": greedy.episode_return.tolist(),
        **{f"task/{name}": float(value) for name, value in greedy.metrics.items()},
        **{f"train_task/{name}": _mean(value, finished.episodes) for name, value in finished.metrics.items()},
        **{name: _mean(value, sums.updates) for name, value in sums.update_metrics.items()},
    }


def _mean(total: jax.typing.ArrayLike, count: jax.typing.ArrayLike) -> Any:
    """`total / count` as JSON takes it, nan for a count of zero."""
    return (np.asarray(total, np.float64) / np.where(count, count, np.nan)).tolist()
