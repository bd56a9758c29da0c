"""best.npz: the policy of each run as it was at the evaluation with its highest greedy return so far, the last of equals.

In a constant-sum game the mean return over agents is a constant, whatever the agents learn. No return against oneself can tell
a good policy from a bad one there, so all evaluations are equal and the latest policy stays; `why_latest` says so.
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
"""Mean returns that differ by less than this share of the agents' own are equal: sums of float32 rewards are no more exact."""


class Best(NamedTuple):
    """What the file holds; leading axis of runs.

    Attributes:
        eval_return: (R,) the highest of all evaluations; -inf where none was finite.
        env_steps: (R,) int64, when the policy was evaluated.
        learner_state: what `Algorithm.policy` leaves of it.
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
    """Puts into the file those policies that did better than the ones there, or all if there is none.

    Of equal ones the later stays: it has learnt for longer, and where no evaluation can differ it is the only one that has
    learnt at all. A return that is not finite never wins. A run that was killed goes on from an earlier checkpoint and meets
    the same policies again; a better one stays, though its evaluation may not come back bit for bit on a GPU or with
    environments outside JAX.

    Args:
        path: the file.
        learner_states: of `Algorithm.policy`, leading axis of at least R runs, of which the first R count.
        eval_returns: R greedy returns of this evaluation.
        env_steps: when it was.
        rounding: by how much each of them may differ from another and be its equal.

    Raises:
        CheckpointError: if the file there is damaged or of something else.
        OSError: if it cannot be written. The earlier one is then as it was.
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
        highest = np.maximum(best.eval_return, earlier.eval_return)  # lest many small steps down among equals add up
        write_archive(path, named_arrays(best._replace(eval_return=highest)), {})


def rounding_of(eval_return_per_agent: Any) -> float:
    """By how much the mean of such returns may differ from another one and be its equal."""
    return ROUNDING * float(np.abs(eval_return_per_agent).max())


def why_latest(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the best policy of a run is only its latest, in words; None if an evaluation could tell policies apart.

    In a constant-sum game greedy, sampled and training returns all have the same mean over agents while the agents' own change.

    Args:
        rows: of metrics.jsonl, those of one run.
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
    """A sentence for every reason why best policies are only the latest; the runs for which it holds go together.

    Args:
        rows: of metrics.jsonl.
        runs: numbers of those asked about; all by default.
    """
    by_run: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_run.setdefault(row["run"], []).append(row)
    reasons: dict[str, list[int]] = {}
    for run, own in by_run.items():
        if (runs is None or run in runs) and (reason := why_latest(own)):
            reasons.setdefault(reason, []).append(run)
    return [
        f"Run{'s' * (len(found) > 1)} {', '.join(map(str, found))}: {reason}. No evaluation can tell a better policy "
        f"from a worse one, so {BEST} keeps the latest."
        for reason, found in reasons.items()
    ]


def merge_best(paths: Sequence[Path], path: Path) -> None:
    """Writes one file of the runs of several, in their order; raises CheckpointError if they do not fit together."""
    arrays, _ = concatenate_archives(paths)
    write_archive(path, arrays, {})
