"""The rows of metrics.jsonl."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mamt_jax.training.trainer import Evaluation, IntervalSums, summarize

STOPPED = "stopped_at"
"""In the rows of a run that halted: after how many environment steps."""


def make_rows(heads: Sequence[dict[str, Any]], evaluation: dict[str, Evaluation], sums: IntervalSums) -> list[dict[str, Any]]:
    """One row a run.

    Args:
        heads: how each row begins: run, seed, env_steps, episodes, updates, wall_seconds, and `STOPPED` in a run that halted.
        evaluation: "asked" and "sampled", leading axis of runs.
        sums: of training since the last evaluation, leading axis of runs.

    Returns:
        Rows with returns per agent (nan where no episode ended), task metrics of the greedy policies under `task/` and of
        training under `train_task/`, and the mean over the updates of each of the algorithm's metrics under its own name.
        All are nan in a run that halted.
    """
    evaluation, sums = jax.device_get((evaluation, sums))
    with np.errstate(invalid="ignore", divide="ignore"):  # no episode has ended, or nothing was learnt
        every = [summarize(*jax.tree.map(lambda leaf, run=run: leaf[run], (evaluation, sums))) for run in range(len(heads))]
    rows = [{name: np.asarray(value, float).tolist() for name, value in row.items()} for row in every]
    return [
        head | (jax.tree.map(lambda _: math.nan, row) if STOPPED in head else row)
        for head, row in zip(heads, rows, strict=True)
    ]
