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
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    terminated: jax.Array


class Trajectory(NamedTuple):
    """A rollout of T steps of E environments, as it came.

    Attributes:
        transitions: with leading axes (T, E).
        truncated: (T, E) bool, where an episode was cut off: what comes next does not follow from it.
    """

    transitions: Transition
    truncated: jax.Array
