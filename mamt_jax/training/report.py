"""The rows of metrics.jsonl."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mamt_jax.training.evaluation import Evaluation
from mamt_jax.training.runs import IntervalSums


def make_rows(
    counts: dict[str, Any], seeds: Sequence[int], evaluation: dict[str, Evaluation], sums: IntervalSums
) -> list[dict[str, Any]]:
    """One row a run.

    Args:
        counts: what is the same in all runs: env_steps, updates, wall_seconds.
        seeds: one a run.
        evaluation: "greedy" and "sampled", leading axis of runs.
        sums: of training since the last evaluation, leading axis of runs.

    Returns:
        Rows with returns per agent (nan where no episode ended), task metrics of the greedy policies under `task/` and of
        training under `train_task/`, and the mean over the updates of each of the algorithm's metrics under its own name.
    """
    evaluation, sums = jax.device_get((evaluation, sums))
    return [
        _row(run, seed, counts, *jax.tree.map(lambda leaf, run=run: leaf[run], (evaluation, sums)))
        for run, seed in enumerate(seeds)
    ]


def _row(run: int, seed: int, counts: dict[str, Any], evaluation: dict[str, Evaluation], sums: IntervalSums) -> dict[str, Any]:
    greedy, sampled, finished = evaluation["greedy"], evaluation["sampled"], sums.episodes
    return {
        "run": run,
        "seed": seed,
        **counts,
        "train_return": _mean(finished.episode_return.mean(), finished.episodes),
        "eval_return": float(greedy.episode_return.mean()),
        "eval_return_sampled": float(sampled.episode_return.mean()),
        "eval_return_per_agent": greedy.episode_return.tolist(),
        **{f"task/{name}": float(value) for name, value in greedy.metrics.items()},
        **{f"train_task/{name}": _mean(value, finished.episodes) for name, value in finished.metrics.items()},
        **{name: _mean(value, sums.updates) for name, value in sums.update_metrics.items()},
    }


def _mean(total: np.ndarray, count: np.ndarray) -> Any:
    """`total / count` as JSON takes it, nan for a count of zero."""
    return (np.asarray(total, np.float64) / (count or np.nan)).tolist()
