"""Spaces of environments outside JAX as plain data, for `EnvSpec` and config.json.

`envs_jax.adapters.space_codec` converts between values of these spaces and the arrays of policies.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class NativeBox:
    """An array of numbers. `low` and `high` are flat: one number if all bounds are equal, empty if a bound is not finite."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class NativeDiscrete:
    """An integer from `start` to `start + n - 1`. `masked` says whether the environment provides action masks."""

    n: int
    start: int = 0
    masked: bool = False


@dataclasses.dataclass(frozen=True)
class NativeMultiDiscrete:
    """An array of integers: entry i has `nvec[i]` values from `start[i]` on (both flat). `masked` is as in `NativeDiscrete`."""

    shape: tuple[int, ...]
    nvec: tuple[int, ...]
    start: tuple[int, ...]
    dtype: str = "int64"
    masked: bool = False


@dataclasses.dataclass(frozen=True)
class NativeMultiBinary:
    """An array of zeros and ones. `masked` is as in `NativeDiscrete`."""

    shape: tuple[int, ...]
    masked: bool = False


@dataclasses.dataclass(frozen=True)
class NativeText:
    """A string of at most `max_length` of the `characters`, which are in Gymnasium's order."""

    max_length: int
    characters: str


@dataclasses.dataclass(frozen=True)
class NativeDict:
    """A dict with one space per key."""

    keys: tuple[str, ...]
    spaces: tuple["NativeSpace", ...]


@dataclasses.dataclass(frozen=True)
class NativeTuple:
    """A tuple with one space per entry."""

    spaces: tuple["NativeSpace", ...]


NativeSpace = NativeBox | NativeDiscrete | NativeMultiDiscrete | NativeMultiBinary | NativeText | NativeDict | NativeTuple
KINDS = {
    kind.__name__.removeprefix("Native"): kind
    for kind in (NativeBox, NativeDiscrete, NativeMultiDiscrete, NativeMultiBinary, NativeText, NativeDict, NativeTuple)
}


def space_to_json(space: NativeSpace) -> dict[str, Any]:
    """Converts a space to a dict for JSON."""
    content: dict[str, Any] = {"kind": type(space).__name__.removeprefix("Native")} | vars(space)
    if isinstance(space, NativeDict | NativeTuple):
        content["spaces"] = [space_to_json(each) for each in space.spaces]
    return content


def space_from_json(content: Mapping[str, Any]) -> NativeSpace:
    """Converts a dict from `space_to_json` back to a space."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items() if name != "kind"
    }
    if "spaces" in fields:
        fields["spaces"] = tuple(map(space_from_json, fields["spaces"]))
    return KINDS[content["kind"]](**fields)
