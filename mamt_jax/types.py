"""Types that several parts of the library share."""

from typing import Any, NamedTuple

import jax

Params = Any
Config = Any
LearnerState = Any
Metrics = dict[str, jax.Array]


class LaterRewards(NamedTuple):
    """Rewards of the N - 1 steps after a transition. All arrays may have leading axes.

    Attributes:
        reward: (..., n, N - 1) float32.
        counts: (..., n, N - 1) bool, whether the step belongs to the same episode and the agent is active in it.
    """

    reward: jax.Array
    counts: jax.Array


class Transition(NamedTuple):
    """One step of all agents, or the first step of several (n-step). All arrays may have leading axes.

    Attributes:
        observation: (..., n, d) float32, zero-padded to the widest agent.
        action: (..., n) int32, or (..., n, k) float32.
        reward: (..., n) float32.
        next_observation: (..., n, d), the true successor, never the first observation of the next episode. For several steps,
            the successor of the last step.
        terminated: (..., n) bool, whether an agent's task ended in this step or in a later step of several. A time limit is
            not a termination.
        active: (..., n) bool, whether an agent acts in this step. It is False after an agent's task has ended while other
            agents continue; nothing is learnt from these rows. None means that all agents are active.
        action_mask: (..., n, A) bool, allowed actions. None in environments without action masks.
        next_action_mask: (..., n, A) bool, allowed actions of the successor. None in environments without action masks.
        later: rewards of the later steps. None if a transition is one step.
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
    """A rollout of T steps of E environments, in order of time.

    Attributes:
        transitions: transitions with leading axes (T, E).
        truncated: (T, E) bool, whether the episode was truncated after this step. The next step belongs to another episode.
        hidden_state: (E, n, h), hidden states of the policies before the first step. None for policies without memory.
    """

    transitions: Transition
    truncated: jax.Array
    hidden_state: jax.Array | None = None
