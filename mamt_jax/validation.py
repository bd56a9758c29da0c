"""What hyperparameters may be, by their names, which mean the same in all algorithms here."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from mamt_jax.types import Config

LARGEST = 2**31 - 1
"""Whole numbers are int32 wherever they are counted."""
_SHARES = ("gamma", "tau", "gae_lambda", "coordination_threshold")
_BOUNDS = ("policy_clip", "critic_clip", "decomposition_clip", "opponent_clip", "non_stationarity_clip")
_BOUNDS += ("epsilon", "epsilon_min", "epsilon_max", "clip_ratio", "clip_value")


def require_positive(config: Config, names: Iterable[str]) -> None:
    """Raise a ValueError for the first of these fields that is not above zero as float32."""
    for name in names:
        value = getattr(config, name)
        _require(_float32(value) > 0, name, value, "a number above 0")


def require_sound(config: Config) -> None:
    """Raise a ValueError for the first field that cannot be right in any algorithm here."""
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if name in _SHARES:
            _require(0 <= value <= 1, name, value, "a number from 0 to 1")
        elif name == "anneal_horizon":
            _require(value >= 0, name, value, "a number of updates, or 0 for learning rates that stay")
        elif name == "adam_b1":
            _require(0 <= value < 1, name, value, "a number from 0 to below 1")
        elif name in _BOUNDS:
            _require(_float32(value) > 0, name, value, "a number above 0; inf bounds nothing")
        elif name == "adam_epsilon":
            _require(0 < _float32(value) < math.inf, name, value, "a finite number above 0")
        elif isinstance(value, float):
            _require(math.isfinite(_float32(value)), name, value, "a finite number")


def require_representable(config: Config) -> None:
    """Raise a ValueError for the first field that is nan, or a whole number beyond int32."""
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
