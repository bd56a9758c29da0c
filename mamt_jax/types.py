"""Shapes that more than one part of the library speaks of."""

from typing import Any, NamedTuple

import jax

Params = Any
Config = Any
LearnerState = Any
Metrics = dict[str, jax.Array]


class LaterRewards(NamedTuple):
    """What the N - 1 steps after a transition earned in its episode; any leading axes.

    Attributes:
        reward: (..., n, N - 1) float32.
        counts: (..., n, N - 1) bool, whether there is such a step, and the agent acts in it.
    """

    reward: jax.Array
    counts: jax.Array


class Transition(NamedTuple):
    """One step of all agents, or the first of several; any leading axes.

    Attributes:
        observation: (..., n, d) float32, zero-padded to the widest agent.
        action: (..., n) int32, or (..., n, k) float32.
        reward: (..., n) float32.
        next_observation: (..., n, d), the true successor, never the next episode's first observation; of several steps the
            last one's.
        terminated: (..., n) bool, in this step or a later one of several. A time limit is not a termination.
        active: (..., n) bool, the agents that act in this step: not those whose task has ended while others go on. Nothing is
            learnt from the others' rows. None where agents end together: all act.
        action_mask: (..., n, A) bool, the actions that were allowed; None in environments without action masks.
        next_action_mask: (..., n, A) bool, those of the successor; None likewise.
        later: what the steps after this one earned; None where a transition is one step.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    next_observation: jax.Array
    terminated: jax.Array
    active: jax.Array | None = None
    action_mask: jax.Array | None = None
    next_action_mask: jax.Array | None = None
    later: LaterRewards | None = None


class Trajectory(NamedTuple):
    """A rollout of T steps of E environments, as it came.

    Attributes:
        transitions: with leading axes (T, E).
        truncated: (T, E) bool, where an episode was cut off: what comes next does not follow from it.
    """

    transitions: Transition
    truncated: jax.Array
