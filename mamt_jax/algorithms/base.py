"""The algorithm contract: a named tuple of pure functions over an explicit learner state."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
from flax import struct

from envs_jax.environment import EnvSpec, takes_action_mask
from envs_jax.imports import import_object
from envs_jax.validation import nearest
from mamt_jax.types import Config, LearnerState, Metrics

Data = Literal["replay", "rollout"]
"""Batches replayed at random, or the latest rollout as it came."""


def whole_state(learner_state: LearnerState) -> LearnerState:
    """The learner state itself: all of it is stored with a policy."""
    return learner_state


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
        policy: learner_state -> the same learner state with None for every leaf that `act` and `greedy` do not read. It only
            selects, so it also takes states with a leading axis of runs, and shapes. By default it keeps every leaf.
        validate: config of plain numbers -> None, or a ValueError that names the field, its value and what would be right.
        data: whether `update` wants batches replayed at random or the last rollout as it came.
        multi_step: whether `update` learns from a Transition's `later` rewards, so that `n_steps` may be above 1.
        training: fields of `TrainingConfig` whose defaults do not suit the algorithm, with those that do.
    """

    config: type
    init: Callable[[Config, jax.Array], LearnerState]
    act: Callable[..., jax.Array]
    greedy: Callable[..., jax.Array]
    update: Callable[[Config, LearnerState, Any, jax.Array], tuple[LearnerState, Metrics]]
    policy: Callable[[LearnerState], LearnerState] = whole_state
    validate: Callable[[Config], None] = lambda config: None
    data: Data = "replay"
    multi_step: bool = False
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


def function_field(functions: Mapping[str, Callable], default: str) -> Any:
    """A static field of a config that holds a function.

    Args:
        functions: those that the command line and config.json know by a name.
        default: name of one of them.
    """
    return struct.field(pytree_node=False, default=functions[default], metadata={"functions": functions})


def resolve_functions(config: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a config whose function fields hold functions in place of names.

    A name of the field's functions becomes that function, and "package.module:function" is imported. A callable stays.

    Raises:
        ValueError: if an option of a function field is something else.
    """
    fields = {field.name: field for field in dataclasses.fields(config) if "functions" in field.metadata}
    return {name: _resolve(fields[name], value) if name in fields else value for name, value in options.items()}


def function_name(field: dataclasses.Field, function: Callable) -> str:
    """What `resolve_functions` knows a function by: its name among the field's functions, else "module:qualname"."""
    for name, known in field.metadata["functions"].items():
        if known is function:
            return name
    return f"{function.__module__}:{function.__qualname__}"


def _resolve(field: dataclasses.Field, value: Any) -> Callable:
    functions = field.metadata["functions"]
    if isinstance(value, str) and value in functions:
        return functions[value]
    if isinstance(value, str) and ":" in value:
        value = import_object(value, field.name)
    if callable(value):
        return value
    raise ValueError(
        f"{field.name}={value!r} is not valid{nearest(str(value), functions)}: give {', '.join(functions)}, "
        "or package.module:function."
    )
