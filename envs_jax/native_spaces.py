"""Spaces of environments outside JAX as plain data, which an `EnvSpec` holds and config.json stores.

`envs_jax.adapters.space_codec` converts between them and the arrays that policies see.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class NativeBox:
    """An array of numbers. `low` and `high` are flat, one number where all are equal, empty where one is not finite."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class NativeDiscrete:
    """An integer from `start` to `start + n - 1`. `masked`: the environment says which of them are allowed."""

    n: int
    start: int = 0
    masked: bool = False


@dataclasses.dataclass(frozen=True)
class NativeMultiDiscrete:
    """An array of integers, each from its `start`, `nvec` of them (both flat); `masked` as above."""

    shape: tuple[int, ...]
    nvec: tuple[int, ...]
    start: tuple[int, ...]
    dtype: str = "int64"
    masked: bool = False


@dataclasses.dataclass(frozen=True)
class NativeMultiBinary:
    """An array of zeros and ones; `masked` as above."""

    shape: tuple[int, ...]
    masked: bool = False


@dataclasses.dataclass(frozen=True)
class NativeText:
    """At most `max_length` of `characters`, in the order in which Gymnasium numbers them."""

    max_length: int
    characters: str


@dataclasses.dataclass(frozen=True)
class NativeDict:
    """A space for each key."""

    keys: tuple[str, ...]
    spaces: tuple["NativeSpace", ...]


@dataclasses.dataclass(frozen=True)
class NativeTuple:
    """A space for each place."""

    spaces: tuple["NativeSpace", ...]


NativeSpace = NativeBox | NativeDiscrete | NativeMultiDiscrete | NativeMultiBinary | NativeText | NativeDict | NativeTuple
KINDS = {
    kind.__name__.removeprefix("Native"): kind
    for kind in (NativeBox, NativeDiscrete, NativeMultiDiscrete, NativeMultiBinary, NativeText, NativeDict, NativeTuple)
}


def space_to_json(space: NativeSpace) -> dict[str, Any]:
    """A space as JSON takes it."""
    content: dict[str, Any] = {"kind": type(space).__name__.removeprefix("Native")} | vars(space)
    if isinstance(space, NativeDict | NativeTuple):
        content["spaces"] = [space_to_json(each) for each in space.spaces]
    return content


def space_from_json(content: Mapping[str, Any]) -> NativeSpace:
    """The space that `space_to_json` wrote."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items() if name != "kind"
    }
    if "spaces" in fields:
        fields["spaces"] = tuple(map(space_from_json, fields["spaces"]))
    return KINDS[content["kind"]](**fields)
