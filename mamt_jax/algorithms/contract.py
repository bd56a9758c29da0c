"""The algorithm contract: a named tuple of pure functions over an explicit learner state."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax

from mamt_jax.types import Config, LearnerState, Metrics

Data = Literal["replay", "rollout"]
"""Batches replayed at random, or the latest rollout as it came."""


class Algorithm(NamedTuple):
    """What training needs to know of an algorithm. `make(spec) -> Algorithm` builds one.

    Attributes:
        config: the config's class, a `flax.struct.dataclass` with a default for every field. Float fields are leaves, so
            they can be vmapped; sizes and choices are static (`pytree_node=False`).
        init: (config, key) -> learner state.
        act: (config, learner_state, observation (..., n, d), key) -> action (..., n) or (..., n, k), exploring.
        greedy: (config, learner_state, observation (..., n, d)) -> action, the mode of each policy.
        update: (config, learner_state, batch, key) -> (learner state of the same structure, shapes and dtypes, metrics).
            `batch` is a Transition (B, ...) for "replay" and a Trajectory (T, E, ...) for "rollout". Metrics are a flat dict of
            scalars, (n,) arrays of agents or (n, n) arrays of pairs.
        validate: config of plain numbers -> None, or a ValueError that names the field, its value and what would be right.
        data: whether `update` wants batches replayed at random or the last rollout as it came.
        training: fields of `TrainingConfig` whose defaults do not suit the algorithm, with those that do.
    """

    config: type
    init: Callable[[Config, jax.Array], LearnerState]
    act: Callable[[Config, LearnerState, jax.Array, jax.Array], jax.Array]
    greedy: Callable[[Config, LearnerState, jax.Array], jax.Array]
    update: Callable[[Config, LearnerState, Any, jax.Array], tuple[LearnerState, Metrics]]
    validate: Callable[[Config], None] = lambda config: None
    data: Data = "replay"
    training: Mapping[str, Any] = MappingProxyType({})
