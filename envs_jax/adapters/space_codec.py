"""Converts observations, actions and action masks of environments outside JAX to and from the arrays of policies.

A Gymnasium space becomes a frozen dataclass of `envs_jax.native_spaces`, which is stored in a run's `EnvSpec`. Training and
deployment build the same conversions from it:

- `flattener`: observation of the environment -> float32 vector, as `gymnasium.spaces.utils.flatten`.
- `decoder`: action of a policy, in `learning_space(space)` -> the environment's own action.
- `encoder`: the inverse of `decoder`.
- `mask_reader`: action mask of the environment -> bool vector.

A `Codec` holds the conversions of all agents. `joint_observation`, `joint_mask` and `own_actions` use it to convert between
dicts over agents and joint arrays.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from envs_jax.environment import Box, Discrete, EnvSpec
from envs_jax.native_spaces import (
    KINDS,
    NativeBox,
    NativeDict,
    NativeDiscrete,
    NativeMultiBinary,
    NativeMultiDiscrete,
    NativeSpace,
    NativeText,
    NativeTuple,
)

if TYPE_CHECKING:
    import gymnasium

MASK = "action_mask"
"""Key of action masks in observation dicts and in infos."""
MOST_COMBINATIONS = 4096
"""Largest number of combinations that a MultiDiscrete or MultiBinary action space may have."""
_LARGEST_INTEGER = 2**53
_FLOAT32 = np.finfo(np.float32)


class SpaceError(ValueError):
    """Raised for an unsupported space or a value outside its space. A message may be completed by the caller to a sentence."""


def native_space(space: "gymnasium.Space") -> NativeSpace:
    """Converts a Gymnasium space to plain data; raises SpaceError for a space without a flat form of fixed size."""
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        low, high = (space.low, space.high) if space.is_bounded() else (-np.inf, np.inf)  # integer arrays cannot hold infinity
        return native_box(space.shape, space.dtype, low, high)
    if isinstance(space, spaces.Discrete):
        return NativeDiscrete(int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start = (tuple(map(int, array.ravel())) for array in (space.nvec, space.start))
        return NativeMultiDiscrete(tuple(space.shape), nvec, start, space.dtype.name)
    if isinstance(space, spaces.MultiBinary):
        return NativeMultiBinary(tuple(space.shape))
    if isinstance(space, spaces.Text):
        return NativeText(space.max_length, "".join(space.character_list))
    if isinstance(space, spaces.Dict):
        return NativeDict(tuple(space.spaces), tuple(map(native_space, space.spaces.values())))
    if isinstance(space, spaces.Tuple):
        return NativeTuple(tuple(map(native_space, space.spaces)))
    raise SpaceError(f"{space} is not supported. The supported spaces are {', '.join(KINDS)}.")


def native_box(shape: Sequence[int], dtype: np.dtype, low: Any, high: Any) -> NativeBox:
    """Makes a NativeBox. Bounds are numbers, or arrays of its shape."""
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return NativeBox(tuple(shape), dtype.name)
    flat = (np.broadcast_to(bound, shape).ravel().tolist() for bound in (low, high))
    return NativeBox(tuple(shape), dtype.name, *(tuple(each[:1] if len(set(each)) == 1 else each) for each in flat))


def flat_size(space: NativeSpace) -> int:
    """Width of a flattened observation."""
    match space:
        case NativeBox() | NativeMultiBinary():
            return math.prod(space.shape)
        case NativeDiscrete():
            return space.n
        case NativeMultiDiscrete():
            return sum(space.nvec)
        case NativeText():
            return space.max_length
        case NativeDict() | NativeTuple():
            return sum(map(flat_size, space.spaces))


def flattener(space: NativeSpace) -> Callable[[Any], np.ndarray]:
    """Returns a function from an observation to a float32 vector (`flat_size(space)`,), equal to Gymnasium's `flatten`.

    The function raises SpaceError for a value outside the space: another shape, a missing entry, None, an integer out of range,
    or a fraction in an integer space. It accepts lists of numbers. It does not check the bounds of a Box.
    """
    match space:
        case NativeBox():
            dtype = np.dtype(space.dtype)
            return lambda value: _array(value, space.shape, dtype).ravel().astype(np.float32, copy=False)
        case NativeMultiBinary():
            return lambda value: _binary(value, space.shape).ravel().astype(np.float32)
        case NativeDiscrete():
            return _one_hots((space.n,), (space.start,), ())
        case NativeMultiDiscrete():
            return _one_hots(space.nvec, space.start, space.shape)
        case NativeText():
            return lambda value: _characters(space, value)
        case NativeDict():
            return _dict_flattener(space)
        case NativeTuple():
            return _tuple_flattener(space)


def numbers(value: Any) -> np.ndarray:
    """Converts an array or nested lists to an array; raises SpaceError unless it contains numbers."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise SpaceError(f"an array of numbers is expected, but the value is {_short(value)}.")
    return array


def _array(value: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Converts `value` to an array of this shape and dtype; axes of length 1 may be missing or added.

    Raises SpaceError for any other shape, or if an integer dtype does not hold the value exactly.
    """
    array = numbers(value)
    if array.shape != shape:
        if [axis for axis in array.shape if axis != 1] != [axis for axis in shape if axis != 1]:
            raise SpaceError(f"the space declares shape {shape}, but the value has shape {array.shape}.")
        array = array.reshape(shape)
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
    if dtype.kind != "f" and (cast != array).any():
        raise SpaceError(f"the space declares {dtype.name}, but the value contains {array[cast != array][0]!s}.")
    return cast


def _binary(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = _array(value, shape, np.dtype(np.int64))
    if ((array != 0) & (array != 1)).any():
        raise SpaceError(f"the space declares zeros and ones, but the value contains {array[(array != 0) & (array != 1)][0]}.")
    return array


def _one_hots(nvec: tuple[int, ...], start: tuple[int, ...], shape: tuple[int, ...]) -> Callable[[Any], np.ndarray]:
    sizes, first, dtype = np.array(nvec), np.array(start), np.dtype(np.int64)
    offsets = np.cumsum([0, *nvec[:-1]])

    def flatten(value: Any) -> np.ndarray:
        place = _array(value, shape, dtype).ravel() - first
        outside = (place < 0) | (place >= sizes)
        if outside.any():
            i = int(outside.argmax())
            raise SpaceError(
                f"the space declares integers from {start[i]} to {start[i] + nvec[i] - 1}, but the value is "
                f"{place[i] + first[i]}."
            )
        flat = np.zeros(sum(nvec), np.float32)
        flat[offsets + place] = 1.0
        return flat

    return flatten


def _characters(space: NativeText, value: Any) -> np.ndarray:
    if not isinstance(value, str) or len(value) > space.max_length or not set(value) <= set(space.characters):
        declared = f"a text of at most {space.max_length} characters from {space.characters!r}"
        raise SpaceError(f"the space declares {declared}, but the value is {_short(value)}.")
    flat = np.full(space.max_length, len(space.characters), np.float32)
    flat[: len(value)] = [space.characters.index(each) for each in value]
    return flat


def _dict_flattener(space: NativeDict) -> Callable[[Any], np.ndarray]:
    parts = {key: flattener(each) for key, each in zip(space.keys, space.spaces, strict=True)}

    def flatten(value: Any) -> np.ndarray:
        missing = [key for key in parts if key not in value] if isinstance(value, Mapping) else list(parts)
        if missing:
            raise SpaceError(f"the space declares a dict with {', '.join(map(repr, parts))}, but the value is {_short(value)}.")
        return np.concatenate([_entry(key, part, value[key]) for key, part in parts.items()])

    return flatten


def _tuple_flattener(space: NativeTuple) -> Callable[[Any], np.ndarray]:
    parts = [flattener(each) for each in space.spaces]

    def flatten(value: Any) -> np.ndarray:
        if not isinstance(value, tuple | list) or len(value) != len(parts):
            raise SpaceError(f"the space declares a tuple of length {len(parts)}, but the value is {_short(value)}.")
        return np.concatenate([_entry(i, part, each) for i, (part, each) in enumerate(zip(parts, value, strict=True))])

    return flatten


def _entry(key: Any, part: Callable[[Any], np.ndarray], value: Any) -> np.ndarray:
    try:
        return part(value)
    except SpaceError as error:
        raise SpaceError(f"in its entry {key!r}, {error}") from None


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(repr, value))}" if value else "an empty dict"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def learning_space(space: NativeSpace) -> Discrete | Box:
    """Action space of the algorithms for a native action space; raises SpaceError if it is not supported.

    A Box keeps its bounds if they are the same for all components. Otherwise it becomes a Box from -1 to 1. A MultiDiscrete or
    MultiBinary space becomes one Discrete over all combinations.
    """
    match space:
        case NativeDiscrete():
            return Discrete(space.n)
        case NativeMultiDiscrete() | NativeMultiBinary():
            nvec = _nvec(space)
            if math.prod(nvec) > MOST_COMBINATIONS:
                sizes = " x ".join(map(str, nvec)) if len(nvec) < 10 else f"from {len(nvec)} components"
                raise SpaceError(
                    f"it has {math.prod(nvec)} combinations ({sizes}), but at most {MOST_COMBINATIONS} are supported."
                )
            return Discrete(math.prod(nvec))
        case NativeBox():
            _check_box(space)
            bounds = (-1.0, 1.0) if is_rescaled(space) else (float(space.low[0]), float(space.high[0]))
            return Box(math.prod(space.shape), *bounds)
    raise SpaceError("it must be Discrete, MultiDiscrete, MultiBinary, or a Box with bounds.")


def _nvec(space: NativeMultiDiscrete | NativeMultiBinary) -> tuple[int, ...]:
    return space.nvec if isinstance(space, NativeMultiDiscrete) else (2,) * math.prod(space.shape)


def _check_box(space: NativeBox) -> None:
    if not space.low:
        raise SpaceError("it must be Discrete, MultiDiscrete, MultiBinary, or a Box with bounds. Give finite low and high.")
    if not math.prod(space.shape):
        raise SpaceError(f"its shape {space.shape} has no components.")
    if np.dtype(space.dtype).kind in "iu" and max(map(abs, [*space.low, *space.high])) > _LARGEST_INTEGER:
        raise SpaceError(
            "the bounds of an integer Box must be from -2**53 to 2**53. Larger integers cannot be represented exactly."
        )


def is_rescaled(space: NativeBox) -> bool:
    """Whether policies act in [-1, 1] instead of the space's own bounds."""
    alike = len(space.low) == len(space.high) == 1
    return not alike or not 0 < float(space.high[0]) - float(space.low[0]) <= _FLOAT32.max


def decoder(space: NativeSpace) -> Callable[[np.ndarray], Any]:
    """Returns a function from an action in `learning_space(space)`, padded or not, to the environment's own action.

    Actions in a Box are clipped to its bounds. An integer Box divides the interval into equal parts, one per integer.
    """
    match space:
        case NativeDiscrete():
            return lambda action: int(action) + space.start
        case NativeMultiDiscrete() | NativeMultiBinary():
            table = _combinations(space)
            return lambda action: table[int(action)].copy()
        case NativeBox():
            return _integer_decoder(space) if np.dtype(space.dtype).kind in "biu" else _real_decoder(space)
    raise SpaceError("it is not supported as an action space.")


def _combinations(space: NativeMultiDiscrete | NativeMultiBinary) -> np.ndarray:
    """All actions, (number of combinations, *shape). The last component changes fastest."""
    nvec = _nvec(space)
    table = np.stack(np.unravel_index(np.arange(math.prod(nvec)), nvec), -1)
    start, dtype = (space.start, space.dtype) if isinstance(space, NativeMultiDiscrete) else ((0,), "int8")
    return (table + np.array(start)).astype(dtype).reshape(-1, *space.shape)


def _real_decoder(space: NativeBox) -> Callable[[np.ndarray], np.ndarray]:
    low, high = (np.array(bound, np.float64) for bound in (space.low, space.high))
    size, dtype, rescaled = math.prod(space.shape), np.dtype(space.dtype), is_rescaled(space)

    def decode(action: np.ndarray) -> np.ndarray:
        value = np.asarray(action, np.float64)[:size]
        if rescaled:
            share = (value.clip(-1.0, 1.0) + 1.0) / 2.0
            value = low * (1.0 - share) + high * share  # exact at both ends
        return value.clip(low, high).astype(dtype).reshape(space.shape)

    return decode


def _integer_decoder(space: NativeBox) -> Callable[[np.ndarray], np.ndarray]:
    own = learning_space(space)
    assert isinstance(own, Box)
    low, high = (np.array(bound, np.float64) for bound in (space.low, space.high))
    dtype = np.dtype(space.dtype)

    def decode(action: np.ndarray) -> np.ndarray:
        value = np.fmin(np.fmax(np.asarray(action, np.float64)[: own.size], own.low), own.high)  # NaN becomes `low`
        share = (value - own.low) / (own.high - own.low)
        offset = np.minimum(np.floor(share * (high - low + 1)), high - low)
        return (low + offset).astype(dtype).reshape(space.shape)

    return decode


def encoder(space: NativeSpace) -> Callable[[Any], np.ndarray]:
    """Returns the inverse of `decoder`: () int32, or (size,) float32. An integer of a Box becomes the middle of its part."""
    own = learning_space(space)
    match space:
        case NativeDiscrete():
            return lambda action: np.asarray(int(action) - space.start, np.int32)
        case NativeMultiDiscrete() | NativeMultiBinary():
            nvec, start = _nvec(space), np.array(space.start if isinstance(space, NativeMultiDiscrete) else 0)
            return lambda action: np.asarray(np.ravel_multi_index(tuple(np.ravel(action) - start), nvec), np.int32)
        case NativeBox():
            assert isinstance(own, Box)
            return _box_encoder(space, own)
    raise SpaceError("it is not supported as an action space.")


def _box_encoder(space: NativeBox, own: Box) -> Callable[[Any], np.ndarray]:
    low, high = (np.array(bound, np.float64) for bound in (space.low, space.high))
    integer, rescaled = np.dtype(space.dtype).kind in "biu", is_rescaled(space)

    def encode(action: Any) -> np.ndarray:
        value = np.asarray(action, np.float64).ravel()
        if integer:
            share = (value - low + 0.5) / (high - low + 1)
        elif rescaled:
            width = np.where(high > low, high - low, 1.0)
            share = (value - low) / width
        else:
            return value.astype(np.float32)
        return (own.low + share * (own.high - own.low)).astype(np.float32)

    return encode


def mask_reader(space: NativeSpace) -> Callable[[Any], np.ndarray]:
    """Returns a function from an environment's action mask to (A,) bool. If the mask allows nothing, all actions are allowed.

    The mask of a MultiDiscrete or MultiBinary space is a tuple with one mask per component, or their concatenation. An action
    is allowed if each of its components is allowed. The function raises SpaceError for a mask of another length, or with
    entries other than 0 and 1.
    """
    if isinstance(space, NativeDiscrete):
        size, table = space.n, np.arange(space.n)[:, None]
    elif isinstance(space, NativeMultiDiscrete | NativeMultiBinary):
        nvec = _nvec(space)
        size, table = sum(nvec), np.stack(np.unravel_index(np.arange(math.prod(nvec)), nvec), -1) + np.cumsum([0, *nvec[:-1]])
    else:
        raise SpaceError("only discrete actions can be masked.")

    def read(mask: Any) -> np.ndarray:
        if isinstance(mask, tuple | list) and mask and np.ndim(mask[0]):
            mask = np.concatenate([np.ravel(each) for each in mask])
        allowed: np.ndarray = np.all(_binary(mask, (size,)).astype(bool)[table], axis=1)
        return allowed if allowed.any() else np.ones_like(allowed)

    return read


class Codec(NamedTuple):
    """Conversions of all agents. The keys of dicts are the agents' names.

    Attributes:
        spec: spec of the environment.
        flatten: observation -> (observation width of the agent,) float32.
        decode: row of the joint action -> the environment's own action.
        read_mask: action mask -> (number of the agent's actions,) bool; only for agents with action masks.
        place: row of the agent in joint arrays.
        action_mask: (n, A) bool, the actions that each agent has.
    """

    spec: EnvSpec
    flatten: dict[str, Callable[[Any], np.ndarray]]
    decode: dict[str, Callable[[np.ndarray], Any]]
    read_mask: dict[str, Callable[[Any], np.ndarray]]
    place: dict[str, int]
    action_mask: np.ndarray


def make_codec(spec: EnvSpec) -> Codec:
    """Makes the conversions of a spec.

    Without native spaces in the spec, observations may have any shape of the right size, and an action is an int, or a float32
    vector of the agent's own width.
    """
    names, actions = spec.agent_names, spec.native_action_spaces
    place = {name: i for i, name in enumerate(names)}
    if not actions:
        flatten = {name: _any_shape(size) for name, size in zip(names, spec.observation_sizes, strict=True)}
        decode = {name: _plain(space) for name, space in zip(names, spec.action_spaces, strict=True)}
        own = zip(names, spec.action_sizes, strict=True)
        masks = {name: mask_reader(NativeDiscrete(size)) for name, size in own}
        return Codec(spec, flatten, decode, masks if spec.has_action_masks else {}, place, spec.action_mask)
    return Codec(
        spec,
        {name: flattener(each) for name, each in zip(names, spec.native_observation_spaces, strict=True)},
        {name: decoder(each) for name, each in zip(names, actions, strict=True)},
        {name: mask_reader(each) for name, each in zip(names, actions, strict=True) if is_masked(each)},
        place,
        spec.action_mask,
    )


def is_masked(space: NativeSpace) -> bool:
    """Whether the environment provides action masks for this space."""
    return getattr(space, "masked", False)


def _any_shape(size: int) -> Callable[[Any], np.ndarray]:
    def flatten(observation: Any) -> np.ndarray:
        array = numbers(observation)
        if array.size != size:
            raise SpaceError(f"it has {array.size} entries in shape {array.shape}, but the policy was trained on {size}.")
        return array.ravel().astype(np.float32, copy=False)

    return flatten


def _plain(space: Discrete | Box) -> Callable[[np.ndarray], Any]:
    if isinstance(space, Discrete):
        return int
    return lambda action: action[: space.size].astype(np.float32)


def joint_observation(codec: Codec, observations: Mapping[str, Any], agents: Iterable[str]) -> np.ndarray:
    """Joint observation of `agents`, (n, d) float32, with zeros for all others; raises SpaceError with the agent's name."""
    spec = codec.spec
    joint = np.zeros((spec.num_agents, spec.observation_size), np.float32)
    for agent in agents:
        if agent not in observations:
            raise SpaceError(
                f"The observation of {agent} is missing: every agent that acts next or was truncated must have one. "
                f"There are observations of {', '.join(map(str, observations)) or 'no agent'}."
            )
        i = codec.place[agent]
        try:
            joint[i, : spec.observation_sizes[i]] = codec.flatten[agent](observations[agent])
        except SpaceError as error:
            raise SpaceError(f"The observation of {agent} is not valid: {error}") from error
    return joint


def joint_mask(codec: Codec, observations: Mapping[str, Any], infos: Mapping[str, Any], agents: Iterable[str]) -> np.ndarray:
    """Joint action mask of `agents`, (n, A) bool, with all own actions for the other agents; raises SpaceError."""
    joint = codec.action_mask.copy()
    for agent in agents:
        mask = find_mask(observations.get(agent), infos.get(agent))
        read = codec.read_mask.get(agent)
        if read is None:
            if mask is not None and codec.spec.discrete:
                raise SpaceError(
                    f"{agent} has an action_mask, but had none after the first reset. Give a mask from the first reset on."
                )
            continue
        i = codec.place[agent]
        if mask is None:
            raise SpaceError(f"The action_mask of {agent} is missing: it is neither in its observation nor in its info.")
        try:
            joint[i, : codec.spec.action_sizes[i]] = read(mask)
        except SpaceError as error:
            raise SpaceError(f"The action_mask of {agent} is not valid: {error}") from error
    return joint


def find_mask(observation: Any, info: Any) -> Any:
    """Action mask in an observation dict or in an info, or None if there is none."""
    for place in (observation, info):
        if (type(place) is dict or isinstance(place, Mapping)) and place.get(MASK) is not None:
            return place[MASK]
    return None


def own_actions(codec: Codec, action: np.ndarray, agents: Iterable[str]) -> dict[str, Any]:
    """Converts a joint action, (n,) or (n, k), to the environment's own actions of `agents`."""
    return {agent: codec.decode[agent](action[codec.place[agent]]) for agent in agents}
