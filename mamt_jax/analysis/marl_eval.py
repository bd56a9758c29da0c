"""Converts runs for marl-eval (https://github.com/instadeepai/marl-eval, "Data Structure for Raw Experiment data")."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mamt_jax.analysis.runs import Run

METRICS = {"eval_return": "return", "train_return": "training_return"}


def to_marl_eval(runs: Sequence[Run]) -> dict[str, Any]:
    """Converts runs to `{environment: {task: {algorithm: {run: {step: {step_count, metric: [value]}}}}}}`.

    marl-eval expects the return of each episode of an evaluation. Folders of runs keep only their mean, and each list here has
    this one value. marl-eval computes `absolute_metrics` from new episodes of the best policy. Here they are those of the best
    evaluation, which are biased upward.
    """
    content: dict[str, Any] = {}
    for run in runs:
        algorithms = content.setdefault(run.task.env, {}).setdefault(run.task.file_name, {})
        algorithms[run.label.replace(",", ";")] = {
            f"seed_{seed}": evaluations(run, number) for number, seed in enumerate(run.seeds)
        }
    return content


def evaluations(run: Run, number: int) -> dict[str, Any]:
    """The evaluations of one seed by step, and its absolute metrics."""
    there = {name: run.metrics[metric][number] for metric, name in METRICS.items() if metric in run.metrics}
    kept = np.isfinite(list(there.values())).all(0)
    there = {name: values[kept] for name, values in there.items()}
    steps = {
        f"step_{place}": {"step_count": int(count)} | {name: [float(values[place])] for name, values in there.items()}
        for place, count in enumerate(run.env_steps[kept])
    }
    best = int(np.argmax(there["return"]))
    return steps | {"absolute_metrics": {name: [float(values[best])] for name, values in there.items()}}
