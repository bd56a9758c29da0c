"""best.npz: the policies of each run at the evaluation with the highest return; of equal returns, the latest.

In a constant-sum game the mean return over agents is constant, whatever the agents learn. The return of agents that play
against themselves cannot distinguish good policies from bad ones. All evaluations are then equal and the file holds the latest
policies. `why_latest` detects this.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mamt_jax.training.checkpoint import concatenate_archives, load_checkpoint, named_arrays, to_numpy, write_archive
from mamt_jax.training.metrics import STOPPED
from mamt_jax.training.run_folder import BEST
from mamt_jax.types import LearnerState

ROUNDING = 1e-5
"""Relative tolerance: mean returns are equal if they differ by less than this share of the agents' own returns. They are sums
of float32 rewards, which are not more exact."""


class Best(NamedTuple):
    """Content of best.npz, with a leading axis of runs.

    Attributes:
        eval_return: (R,) highest return of all evaluations; -inf if none was finite.
        env_steps: (R,) int64, environment steps at the evaluation of the policy.
        learner_state: the part of the learner state that `Algorithm.policy` keeps.
    """

    eval_return: np.ndarray
    env_steps: np.ndarray
    learner_state: LearnerState


def save_better(
    path: Path,
    learner_states: LearnerState,
    eval_returns: Sequence[float],
    env_steps: int,
    rounding: Sequence[float] | float = 0.0,
) -> None:
    """Writes those policies that did better than the ones in the file, or all policies if there is no file.

    Of two equal returns the later policy is kept. It has learned for longer, and if all evaluations are equal, the first policy
    is untrained. A return that is not finite never replaces another one.
    A killed run continues from an earlier checkpoint and evaluates the same policies again. A better policy stays in the file
    then, although its evaluation may not repeat bit for bit on a GPU or with environments outside JAX.

    Args:
        path: path of the file.
        learner_states: result of `Algorithm.policy`, with a leading axis of at least R runs. Only the first R are used.
        eval_returns: R returns of this evaluation.
        env_steps: environment steps at this evaluation.
        rounding: largest difference between returns that are equal, as one value or R values.

    Raises:
        CheckpointError: if the existing file is damaged or holds something else.
        OSError: if the file cannot be written. The existing file is then unchanged.
    """
    returns = np.array(eval_returns, np.float64)
    finite = np.isfinite(returns)
    returns, margin = np.where(finite, returns, -np.inf), np.where(finite, rounding, 0.0)
    policies = jax.tree.map(lambda leaf: to_numpy(leaf)[: len(returns)], learner_states)
    best = Best(returns, np.full(len(returns), env_steps), policies)
    if not path.exists():
        return write_archive(path, named_arrays(best), {})
    earlier, _ = load_checkpoint(path, best)
    later = finite & (env_steps >= earlier.env_steps)
    better = (returns > earlier.eval_return + margin) | (later & (returns >= earlier.eval_return - margin))
    best = jax.tree.map(lambda new, old: np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old), best, earlier)
    if better.any():
        highest = np.maximum(best.eval_return, earlier.eval_return)  # otherwise small decreases among equal returns add up
        write_archive(path, named_arrays(best._replace(eval_return=highest)), {})


def rounding_of(eval_return_per_agent: Any) -> float:
    """Largest difference between two equal mean returns, given the returns per agent."""
    return ROUNDING * float(np.abs(eval_return_per_agent).max())


def why_latest(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Explains why the best policy of a run is only its latest.

    In a constant-sum game the greedy, sampled and training returns have the same mean over agents, while the return of each
    agent changes.

    Args:
        rows: rows of one run in metrics.jsonl.

    Returns:
        The reason in words. None if the evaluations differ, or if there are fewer than two.
    """
    rows = [row for row in rows if STOPPED not in row and row["eval_return"] is not None]
    if len(rows) < 2:
        return None
    agents = np.array([row["eval_return_per_agent"] for row in rows], float)
    rounding = rounding_of(agents)

    def same(values: Any) -> bool:
        return bool(np.ptp(values, axis=0).max() <= rounding)

    means = [row["eval_return"] for row in rows]
    if not same(means):
        return None
    others = [row[name] for row in rows for name in ("eval_return_sampled", "train_return") if row[name] is not None]
    if same(agents) or not same(means + others):
        return f"the mean return was {means[-1]:.4g} at every evaluation"
    total = 0.0 if abs(means[-1]) <= rounding else means[-1] * agents.shape[1]
    return f"the agents' returns sum to {total:.4g} in every evaluation and in training, as in a zero-sum game"


def describe_latest(rows: Sequence[Mapping[str, Any]], runs: Collection[int] | None = None) -> list[str]:
    """One sentence for each reason why best policies are only the latest, with all runs to which it applies.

    Args:
        rows: rows of metrics.jsonl.
        runs: numbers of the runs to describe; all by default.
    """
    by_run: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_run.setdefault(row["run"], []).append(row)
    reasons: dict[str, list[int]] = {}
    for run, own in by_run.items():
        if (runs is None or run in runs) and (reason := why_latest(own)):
            reasons.setdefault(reason, []).append(run)
    return [
        f"Run{'s' * (len(found) > 1)} {', '.join(map(str, found))}: {reason}. The evaluations cannot distinguish "
        f"better policies from worse ones. {BEST} holds the latest."
        for reason, found in reasons.items()
    ]


def merge_best(paths: Sequence[Path], path: Path) -> None:
    """Writes one file with the runs of several files, in order; raises CheckpointError if they do not fit together."""
    arrays, _ = concatenate_archives(paths)
    write_archive(path, arrays, {})
