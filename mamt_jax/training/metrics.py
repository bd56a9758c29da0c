"""The rows of metrics.jsonl."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mamt_jax.training.trainer import Evaluation, IntervalSums, summarize

STOPPED = "stopped_at"
"""Field in the rows of a halted run: the environment steps after which it halted."""


def make_rows(heads: Sequence[dict[str, Any]], evaluation: dict[str, Evaluation], sums: IntervalSums) -> list[dict[str, Any]]:
    """Makes one row per run.

    Args:
        heads: first fields of each row: run, seed, env_steps, episodes, updates, wall_seconds, and `STOPPED` if the run halted.
        evaluation: evaluations "asked" and "sampled", with a leading axis of runs.
        sums: sums over training since the last evaluation, with a leading axis of runs.

    Returns:
        Rows with returns per agent (nan if no episode ended), task metrics of the evaluation under `task/` and of training
            under `train_task/`, and the mean over the updates of each of the algorithm's metrics under its own name. All of
            these are nan for a halted run.
    """
    evaluation, sums = jax.device_get((evaluation, sums))
    with np.errstate(invalid="ignore", divide="ignore"):  # no episode has ended, or no update was made
        every = [summarize(*jax.tree.map(lambda leaf, run=run: leaf[run], (evaluation, sums))) for run in range(len(heads))]
    rows = [{name: np.asarray(value, float).tolist() for name, value in row.items()} for row in every]
    return [
        head | (jax.tree.map(lambda _: math.nan, row) if STOPPED in head else row)
        for head, row in zip(heads, rows, strict=True)
    ]
