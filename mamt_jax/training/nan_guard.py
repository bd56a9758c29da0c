"""Runs that break: a run whose numbers are no longer finite stays as it was before that round, and the others go on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mamt_jax.training.config import Schedule
from mamt_jax.training.rollout import Rollout
from mamt_jax.types import LearnerState


class BreakdownError(Exception):
    """Every run broke; says where each did."""


@flax.struct.dataclass
class Breakdown:
    """Where a run broke.

    Attributes:
        round: () int32, the number of the round; -1 in a run that goes on.
        step: () int32, the first of its vector steps with a reward or an observation that was not finite; how many steps it
            has if what was learnt from it was not.
    """

    round: jax.Array
    step: jax.Array

    @property
    def happened(self) -> jax.Array:
        """() bool: whether the run broke."""
        return self.round >= 0


class Broken(NamedTuple):
    """A `Breakdown` that happened, on the host."""

    round: int
    step: int


def no_breakdown() -> Breakdown:
    """That of a run that goes on."""
    return Breakdown(jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32))


def find_breakdown(earlier: Breakdown, seen: Rollout, before: LearnerState, after: LearnerState, index: jax.Array) -> Breakdown:
    """The breakdown of round `index`, unless there was an earlier one.

    Numbers of the learner state that were infinite `before` may stay so: some start as bounds.
    """
    finite = jnp.isfinite(seen.transitions.reward).all((1, 2)) & jnp.isfinite(seen.transitions.observation).all((1, 2, 3))
    broke = ~finite.all() | ~_stays_finite(before, after)
    step = jnp.argmin(jnp.append(finite, False)).astype(jnp.int32)
    found = Breakdown(jnp.where(broke, index, -1).astype(jnp.int32), step)
    return keep_where(earlier.happened, earlier, found)


def _stays_finite(before: LearnerState, after: LearnerState) -> jax.Array:
    """() bool: whether no number became nan, and none infinite."""

    def sound(old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return jnp.ones((), bool)
        return ~(jnp.isnan(new) | (jnp.isinf(new) & ~jnp.isinf(old))).any()

    return jnp.stack(jax.tree.leaves(jax.tree.map(sound, before, after))).all()


def keep_where(broken: jax.Array, before: Any, after: Any) -> Any:
    """`before` where `broken` () bool, else `after`: pytrees of the same structure, whose keys are always those `after`."""

    def keep(old: jax.Array, new: jax.Array) -> jax.Array:
        return new if jnp.issubdtype(new.dtype, jax.dtypes.prng_key) else jnp.where(broken, old, new)

    return jax.tree.map(keep, before, after)


def read_breakdowns(breakdown: Breakdown, num_runs: int) -> tuple[Broken | None, ...]:
    """What happened to each of the first `num_runs` runs, from a leading axis of runs."""
    rounds, steps = np.asarray(breakdown.round)[:num_runs].tolist(), np.asarray(breakdown.step)[:num_runs].tolist()
    return tuple(Broken(*pair) if pair[0] >= 0 else None for pair in zip(rounds, steps, strict=True))


def stack_breakdowns(breakdowns: Sequence[Broken | None]) -> Breakdown:
    """What `read_breakdowns` read, with a leading axis of runs."""
    rounds, steps = zip(*(broken or Broken(-1, 0) for broken in breakdowns), strict=True)
    return Breakdown(np.array(rounds, np.int32), np.array(steps, np.int32))  # type: ignore[arg-type]


def stopped_at(broken: Broken, schedule: Schedule) -> int:
    """Environment steps of the run, up to and with those that were not finite, or all that the failed updates learnt from."""
    num_envs = schedule.rows // schedule.vector_steps
    return schedule.env_steps(broken.round) + num_envs * min(broken.step + 1, schedule.vector_steps)


def describe_breakdown(run: int, seed: int, broken: Broken, schedule: Schedule) -> str:
    """A sentence for people."""
    seen = broken.step < schedule.vector_steps
    what = "a reward or an observation was" if seen else "what it had learnt was"
    return f"Run {run} (seed {seed}) stopped at environment step {stopped_at(broken, schedule):,}: {what} not finite."
