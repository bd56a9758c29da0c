"""Renamed options. The old name is accepted for one release, with a warning. It also occurs in old config.json files."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Renamed(NamedTuple):
    """New name of an option.

    Attributes:
        name: new name.
        factor: factor from old to new values, if the unit has changed.
    """

    name: str
    factor: float | None = None


RENAMED = {
    "policy_clip": Renamed("max_policy_grad_norm"),
    "critic_clip": Renamed("max_critic_grad_norm"),
    "decomposition_clip": Renamed("max_decomposition_grad_norm"),
    "opponent_clip": Renamed("max_opponent_grad_norm"),
    "non_stationarity_clip": Renamed("max_non_stationarity"),
    "clip_ratio": Renamed("clip_eps"),
    "clip_value": Renamed("value_clip_eps"),
    "anneal_horizon": Renamed("lr_decay_updates"),
    "contact_events": Renamed("original_rules"),
    "critic_regularisation": Renamed("attention_logit_coef", 1e-3),
}


def with_new_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options to their new names, and their values or lists of values to the new units. The order is kept.

    Raises:
        ValueError: if an option is given under both names.
    """
    for old in options:
        if old in RENAMED and RENAMED[old].name in options:
            raise ValueError(f"{old} is the old name of {RENAMED[old].name}: give only {RENAMED[old].name}.")
    return {_new_name(name): _new_value(name, value) for name, value in options.items()}


def rename_warnings(options: Mapping[str, Any]) -> list[str]:
    """Return one warning for each option that is given under its old name."""
    return [
        f"{name}={value} is now {_new_name(name)}={_new_value(name, value)}: the old name will be removed in the next release."
        for name, value in options.items()
        if name in RENAMED
    ]


def _new_name(name: str) -> str:
    return RENAMED[name].name if name in RENAMED else name


def _new_value(name: str, value: Any) -> Any:
    factor = RENAMED[name].factor if name in RENAMED else None
    if factor is None:
        return value
    return type(value)(each * factor for each in value) if isinstance(value, list | tuple) else value * factor
