"""Valid values of hyperparameters. Config fields declare them, and `require_valid` checks them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax import struct

from mamt_jax.types import Config

LARGEST = 2**31 - 1
"""Largest whole number, because counters are int32."""


class Valid(NamedTuple):
    """Valid values of a number.

    Attributes:
        holds: function number -> whether it is valid. Numbers are rounded to float32 first.
        expected: description of the valid values, for the error message.
    """

    holds: Callable[[float], bool]
    expected: str


FINITE = Valid(math.isfinite, "a finite number")
FRACTION = Valid(lambda x: 0 <= x <= 1, "a number from 0 to 1")
MOMENTUM = Valid(lambda x: 0 <= x < 1, "a number of at least 0 and below 1")
POSITIVE = Valid(lambda x: 0 < x < math.inf, "a finite number above 0")
BOUND = Valid(lambda x: x > 0, "a number above 0, or inf for no limit")
COUNT = Valid(lambda x: x > 0, "a number above 0")
COUNT_OR_NONE = Valid(lambda x: x >= 0, "a number of at least 0")


def number(default: float, valid: Valid) -> Any:
    """Declare a float field of a config and its valid values. Runs can be vmapped over it."""
    return struct.field(default=default, metadata={"valid": valid})


def static(default: Any, valid: Valid | None = None) -> Any:
    """Declare a field of a config that is equal in all runs, such as a size or a choice, and its valid values."""
    return struct.field(pytree_node=False, default=default, metadata={"valid": valid} if valid else {})


def require_valid(config: Config) -> None:
    """Check the fields of a config against their declared valid values. Other floats must be finite.

    Raises:
        ValueError: for the first field that is not valid.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        valid = field.metadata.get("valid", FINITE if isinstance(value, float) else None)
        if valid is not None:
            _require(valid.holds(_float32(value)), field.name, value, valid.expected)


def require_representable(config: Config) -> None:
    """Check that no field of a config is nan or a whole number beyond int32.

    Raises:
        ValueError: for the first field that is not valid.
    """
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if isinstance(value, int):
            _require(abs(value) <= LARGEST, name, value, f"a whole number of at most {LARGEST}")
        if isinstance(value, float):
            _require(not math.isnan(value), name, value, "a number")


def _float32(value: float) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def _require(valid: bool, name: str, value: Any, expected: str) -> None:
    if not valid:
        raise ValueError(f"{name}={value} is not valid: give {expected}.")
