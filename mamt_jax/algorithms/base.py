"""The algorithm contract: a named tuple of pure functions over an explicit learner state."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax

from envs_jax.environment import EnvSpec, takes_action_mask
from mamt_jax.types import Config, LearnerState, Metrics

Data = Literal["replay", "rollout"]
"""Batches replayed at random, or the latest rollout as it came."""


class Algorithm(NamedTuple):
    """What training needs to know of an algorithm. `make(spec) -> Algorithm` builds one.

    Attributes:
        config: the config's class, a `flax.struct.dataclass` with a default for every field. Float fields are leaves, so
            they can be vmapped; sizes and choices are static (`pytree_node=False`).
        init: (config, key) -> learner state.
        act: (config, learner_state, observation (..., n, d), key, action_mask (..., n, A)) -> action (..., n) or (..., n, k),
            exploring. The mask is given in environments that have action masks, and then no masked action may be chosen. An
            algorithm whose `act` and `greedy` have no parameter of that name is refused there.
        greedy: (config, learner_state, observation (..., n, d), action_mask (..., n, A)) -> action, the mode of each policy.
        update: (config, learner_state, batch, key) -> (learner state of the same structure, shapes and dtypes, metrics).
            `batch` is a Transition (B, ...) for "replay" and a Trajectory (T, E, ...) for "rollout"; rows of agents that are
            not `active` are not to be learnt from. Metrics are a flat dict of scalars, (n,) arrays of agents or (n, n) arrays
            of pairs.
        validate: config of plain numbers -> None, or a ValueError that names the field, its value and what would be right.
        data: whether `update` wants batches replayed at random or the last rollout as it came.
        training: fields of `TrainingConfig` whose defaults do not suit the algorithm, with those that do.
    """

    config: type
    init: Callable[[Config, jax.Array], LearnerState]
    act: Callable[..., jax.Array]
    greedy: Callable[..., jax.Array]
    update: Callable[[Config, LearnerState, Any, jax.Array], tuple[LearnerState, Metrics]]
    validate: Callable[[Config], None] = lambda config: None
    data: Data = "replay"
    training: Mapping[str, Any] = MappingProxyType({})


def require_action_masks(algorithm: Algorithm, name: str, spec: EnvSpec) -> None:
    """Raises ValueError where `spec` has action masks and the algorithm called `name` does not take them."""
    if not spec.has_action_masks:
        return
    for function in ("act", "greedy"):
        if not takes_action_mask(getattr(algorithm, function)):
            raise ValueError(
                f"algo {name!r} cannot play {spec.name}, which masks actions: its {function} has no parameter `action_mask`."
            )
