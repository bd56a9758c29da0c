"""Halts runs whose numbers are no longer finite. They keep their state before that iteration; the other runs continue."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mamt_jax.training.config import Schedule
from mamt_jax.training.rollout import Rollout
from mamt_jax.types import LearnerState


class NonFiniteError(Exception):
    """Raised if all runs have halted; the message says where."""


@flax.struct.dataclass
class Halt:
    """Where a run halted.

    Attributes:
        iteration: () int32, number of the iteration; -1 if the run has not halted.
        step: () int32, first step of the iteration with a reward or an observation that was not finite. If only the learner
            state was not finite, the number of steps in the iteration.
    """

    iteration: jax.Array
    step: jax.Array

    @property
    def happened(self) -> jax.Array:
        """() bool: whether the run halted."""
        return self.iteration >= 0


class HaltedAt(NamedTuple):
    """Where a run halted, as Python numbers."""

    iteration: int
    step: int


def no_halt() -> Halt:
    """The `Halt` of a run that has not halted."""
    return Halt(jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32))


def find_halt(earlier: Halt, seen: Rollout, before: LearnerState, after: LearnerState, index: jax.Array) -> Halt:
    """The halt of iteration `index`, or the `earlier` one if the run has halted before.

    Infinite numbers of the learner state `before` may stay infinite, because some are initialised as bounds.
    """
    finite = jnp.isfinite(seen.transitions.reward).all((1, 2)) & jnp.isfinite(seen.transitions.observation).all((1, 2, 3))
    halted = ~finite.all() | ~_stays_finite(before, after)
    step = jnp.argmin(jnp.append(finite, False)).astype(jnp.int32)
    found = Halt(jnp.where(halted, index, -1).astype(jnp.int32), step)
    return keep_where(earlier.happened, earlier, found)


def _stays_finite(before: LearnerState, after: LearnerState) -> jax.Array:
    """() bool: whether every number is finite, or infinite as before.

    Operations of lax, which trace faster than those of jax.numpy: there are hundreds of leaves.
    """

    def sound(old: jax.Array, new: jax.Array) -> jax.Array:
        return lax.reduce_and(lax.bitwise_or(lax.is_finite(new), lax.eq(old, new)), tuple(range(new.ndim)))

    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    floats = [pair for pair in pairs if jnp.issubdtype(pair[1].dtype, jnp.inexact)]
    return functools.reduce(lax.bitwise_and, itertools.starmap(sound, floats), jnp.ones((), bool))


def keep_where(halted: jax.Array, before: Any, after: Any) -> Any:
    """`before` if `halted` () bool, else `after`: pytrees of the same structure. Keys are always those of `after`."""

    def keep(old: jax.Array, new: jax.Array) -> jax.Array:
        return new if jnp.issubdtype(new.dtype, jax.dtypes.prng_key) else lax.select(halted, old, new)

    return jax.tree.map(keep, before, after)


def read_halts(halt: Halt, num_runs: int) -> tuple[HaltedAt | None, ...]:
    """Where each of the first `num_runs` runs halted, or None, from a `Halt` with a leading axis of runs."""
    iterations, steps = np.asarray(halt.iteration)[:num_runs].tolist(), np.asarray(halt.step)[:num_runs].tolist()
    return tuple(HaltedAt(*pair) if pair[0] >= 0 else None for pair in zip(iterations, steps, strict=True))


def stack_halts(halts: Sequence[HaltedAt | None]) -> Halt:
    """The inverse of `read_halts`: a `Halt` with a leading axis of runs."""
    iterations, steps = zip(*(halted or HaltedAt(-1, 0) for halted in halts), strict=True)
    return Halt(np.array(iterations, np.int32), np.array(steps, np.int32))  # type: ignore[arg-type]


def stopped_at(halted: HaltedAt, schedule: Schedule) -> int:
    """Environment steps of a run until it halted.

    They include the step that was not finite, or the whole iteration if its updates failed.
    """
    num_envs = schedule.transitions // schedule.rollout_length
    return schedule.env_steps(halted.iteration) + num_envs * min(halted.step + 1, schedule.rollout_length)


def describe_halt(run: int, seed: int, halted: HaltedAt, schedule: Schedule) -> str:
    """A sentence for people that says where a run halted and why."""
    seen = halted.step < schedule.rollout_length
    what = "a reward or an observation was" if seen else "its learner state was"
    return f"Run {run} (seed {seed}) stopped at environment step {stopped_at(halted, schedule):,}: {what} not finite."
