"""Shapes that more than one part of the library speaks of."""

from typing import Any, NamedTuple

import jax

Params = Any
Config = Any
LearnerState = Any
Metrics = dict[str, jax.Array]


class Transition(NamedTuple):
    """One step of all agents; any leading axes.

    Attributes:
        observation: (..., n, d) float32, zero-padded to the widest agent.
        action: (..., n) int32, or (..., n, k) float32.
        reward: (..., n) float32.
        next_observation: (..., n, d), the true successor, never the next episode's first observation.
        terminated: (..., n) bool. A time limit is not a termination.
        active: (..., n) bool, the agents that act in this step: not those whose task has ended while others go on. Nothing is
            learnt from the others' rows. None where agents end together: all act.
        action_mask: (..., n, A) bool, the actions that were allowed; None in environments without action masks.
        next_action_mask: (..., n, A) bool, those of the successor; None likewise.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    terminated: jax.Array
    active: jax.Array | None = None
    action_mask: jax.Array | None = None
    next_action_mask: jax.Array | None = None


class Trajectory(NamedTuple):
    """A rollout of T steps of E environments, as it came.

    Attributes:
        transitions: with leading axes (T, E).
        truncated: (T, E) bool, where an episode was cut off: what comes next does not follow from it.
    """

    transitions: Transition
    truncated: jax.Array
