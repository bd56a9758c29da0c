"""Runs that break: a run whose numbers are no longer finite stays as it was before that iteration, and the others go on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mamt_jax.training.config import Schedule
from mamt_jax.training.rollout import Rollout
from mamt_jax.types import LearnerState


class NonFiniteError(Exception):
    """Every run halted; says where each did."""


@flax.struct.dataclass
class Halt:
    """Where a run halted.

    Attributes:
        iteration: () int32, the number of the iteration; -1 in a run that goes on.
        step: () int32, the first of its steps with a reward or an observation that was not finite; how many steps it
            has if what was learnt from it was not.
    """

    iteration: jax.Array
    step: jax.Array

    @property
    def happened(self) -> jax.Array:
        """() bool: whether the run halted."""
        return self.iteration >= 0


class HaltedAt(NamedTuple):
    """A `Halt` that happened, on the host."""

    iteration: int
    step: int


def no_halt() -> Halt:
    """That of a run that goes on."""
    return Halt(jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32))


def find_halt(earlier: Halt, seen: Rollout, before: LearnerState, after: LearnerState, index: jax.Array) -> Halt:
    """The halt of iteration `index`, unless there was an earlier one.

    Numbers of the learner state that were infinite `before` may stay so: some start as bounds.
    """
    finite = jnp.isfinite(seen.transitions.reward).all((1, 2)) & jnp.isfinite(seen.transitions.observation).all((1, 2, 3))
    halted = ~finite.all() | ~_stays_finite(before, after)
    step = jnp.argmin(jnp.append(finite, False)).astype(jnp.int32)
    found = Halt(jnp.where(halted, index, -1).astype(jnp.int32), step)
    return keep_where(earlier.happened, earlier, found)


def _stays_finite(before: LearnerState, after: LearnerState) -> jax.Array:
    """() bool: whether no number became nan, and none infinite."""

    def sound(old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return jnp.ones((), bool)
        return ~(jnp.isnan(new) | (jnp.isinf(new) & ~jnp.isinf(old))).any()

    return jnp.stack(jax.tree.leaves(jax.tree.map(sound, before, after))).all()


def keep_where(halted: jax.Array, before: Any, after: Any) -> Any:
    """`before` where `halted` () bool, else `after`: pytrees of the same structure, whose keys are always those `after`."""

    def keep(old: jax.Array, new: jax.Array) -> jax.Array:
        return new if jnp.issubdtype(new.dtype, jax.dtypes.prng_key) else jnp.where(halted, old, new)

    return jax.tree.map(keep, before, after)


def read_halts(halt: Halt, num_runs: int) -> tuple[HaltedAt | None, ...]:
    """What happened to each of the first `num_runs` runs, from a leading axis of runs."""
    iterations, steps = np.asarray(halt.iteration)[:num_runs].tolist(), np.asarray(halt.step)[:num_runs].tolist()
    return tuple(HaltedAt(*pair) if pair[0] >= 0 else None for pair in zip(iterations, steps, strict=True))


def stack_halts(halts: Sequence[HaltedAt | None]) -> Halt:
    """What `read_halts` read, with a leading axis of runs."""
    iterations, steps = zip(*(halted or HaltedAt(-1, 0) for halted in halts), strict=True)
    return Halt(np.array(iterations, np.int32), np.array(steps, np.int32))  # type: ignore[arg-type]


def stopped_at(halted: HaltedAt, schedule: Schedule) -> int:
    """Environment steps of the run, up to and with those that were not finite, or all that the failed updates learnt from."""
    num_envs = schedule.transitions // schedule.rollout_length
    return schedule.env_steps(halted.iteration) + num_envs * min(halted.step + 1, schedule.rollout_length)


def describe_halt(run: int, seed: int, halted: HaltedAt, schedule: Schedule) -> str:
    """A sentence for people."""
    seen = halted.step < schedule.rollout_length
    what = "a reward or an observation was" if seen else "what it had learnt was"
    return f"Run {run} (seed {seed}) stopped at environment step {stopped_at(halted, schedule):,}: {what} not finite."
