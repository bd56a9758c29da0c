"""The interface of an algorithm: a named tuple of pure functions over an explicit learner state."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from envs_jax.environment import EnvSpec, takes_action_mask
from envs_jax.imports import import_object
from envs_jax.validation import nearest
from mamt_jax.types import Config, LearnerState, Metrics

Data = Literal["replay", "rollout"]
"""Training data of an algorithm: random batches from the replay memory, or the latest rollout in order of time."""


def whole_state(learner_state: LearnerState) -> LearnerState:
    """Return the learner state unchanged. By default, all of it is stored with a policy."""
    return learner_state


class Algorithm(NamedTuple):
    """An algorithm as a tuple of pure functions. A function `make(spec)` builds it.

    Attributes:
        config: config class, a `flax.struct.dataclass` with a default for every field. Float fields are leaves, over which
            training can be vmapped. Sizes and choices are static (`pytree_node=False`).
        init: (config, key) -> learner state.
        act: (config, learner_state, observation (..., n, d), key, action_mask (..., n, A)) -> exploring action, (..., n) or
            (..., n, k). Environments with action masks pass the mask; actions that it excludes must not be chosen. An
            algorithm is rejected in these environments if its `act` or `greedy` has no parameter `action_mask`.
        greedy: (config, learner_state, observation (..., n, d), action_mask (..., n, A)) -> mode of each policy.
        update: (config, learner_state, batch, key) -> (learner state of the same structure, shapes and dtypes, metrics).
            `batch` is a Transition (B, ...) for "replay" and a Trajectory (T, E, ...) for "rollout". The update must not learn
            from rows of agents that are not `active`. Metrics are a flat dict of scalars, (n,) arrays with one value per agent,
            or (n, n) arrays with one value per pair of agents.
        policy: learner_state -> the same learner state with None for every leaf that `act` and `greedy` do not read. It only
            selects leaves, and therefore also accepts shapes, and states with a leading axis of runs. The default keeps all.
        validate: config of plain numbers -> None. It raises a ValueError that names the invalid field, its value and the valid
            values.
        data: data that `update` takes: "replay" for random batches from the replay memory, "rollout" for the latest rollout.
        hidden_state: (config, leading axes of observations) -> hidden states of the policies when an episode begins, zeros
            (..., n, h). None if policies have no memory. Otherwise `act` and `greedy` take them as `hidden_state`, and return
            (action, hidden states after it); a Trajectory has those before its first step.
        multi_step: whether `update` uses the `later` rewards of a Transition. Training requires it for `n_steps` above 1.
        training: defaults of `TrainingConfig` fields for this algorithm, where they differ from the general defaults.
    """

    config: type
    init: Callable[[Config, jax.Array], LearnerState]
    act: Callable[..., Any]
    greedy: Callable[..., Any]
    update: Callable[[Config, LearnerState, Any, jax.Array], tuple[LearnerState, Metrics]]
    policy: Callable[[LearnerState], LearnerState] = whole_state
    validate: Callable[[Config], None] = lambda config: None
    data: Data = "replay"
    hidden_state: Callable[[Config, tuple[int, ...]], jax.Array | None] = lambda config, shape: None
    multi_step: bool = False
    training: Mapping[str, Any] = MappingProxyType({})


def require_action_masks(algorithm: Algorithm, name: str, spec: EnvSpec) -> None:
    """Check that an algorithm takes action masks if the environment has them.

    Raises:
        ValueError: if `spec` has action masks, and `act` or `greedy` of the algorithm `name` has no parameter `action_mask`.
    """
    if not spec.has_action_masks:
        return
    for function in ("act", "greedy"):
        if not takes_action_mask(getattr(algorithm, function)):
            raise ValueError(
                f"algo {name!r} does not support the action masks of {spec.name}: its {function} has no `action_mask`."
            )


def as_policy(algorithm: Algorithm, config: Config, choose: Callable[..., Any]) -> Callable[..., Any]:
    """Create a policy (observation, key, action_mask) -> action, which also takes `hidden_state` if it has a memory.

    `choose` receives the observation, the key, the action mask, and the hidden state in a dict of keyword arguments, which is
    empty without memory. A hidden state of None begins an episode.
    """

    def without_memory(observation: Any, key: jax.Array | None = None, action_mask: Any = None) -> jax.Array:
        return choose(observation, key, action_mask, {})

    def with_memory(
        observation: Any, key: jax.Array | None = None, action_mask: Any = None, hidden_state: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        if hidden_state is None:
            hidden_state = algorithm.hidden_state(config, jnp.shape(observation)[:-2])
        return choose(observation, key, action_mask, {"hidden_state": hidden_state})

    return without_memory if algorithm.hidden_state(config, ()) is None else with_memory


def function_field(functions: Mapping[str, Callable], default: str) -> Any:
    """Declare a static field of a config that holds a function.

    Args:
        functions: selectable functions, by their names on the command line and in config.json.
        default: name of the default function.
    """
    return struct.field(pytree_node=False, default=functions[default], metadata={"functions": functions})


def resolve_functions(config: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the names of functions by the functions, in the options of a config.

    Only options of function fields change. The name of a selectable function becomes that function, and
    "package.module:function" is imported. A callable is kept.

    Raises:
        ValueError: if the option of a function field is none of these.
    """
    fields = {field.name: field for field in dataclasses.fields(config) if "functions" in field.metadata}
    return {name: _resolve(fields[name], value) if name in fields else value for name, value in options.items()}


def function_name(field: dataclasses.Field, function: Callable) -> str:
    """Return the name from which `resolve_functions` finds a function.

    It is the name among the selectable functions of the field, or "module:qualname" for any other function.
    """
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
