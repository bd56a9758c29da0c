"""What reference policies earn, as config.json and learning curves hold it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Reference(NamedTuple):
    """What a reference policy earns.

    Attributes:
        value: mean return per agent and episode.
        error: its standard error; nan where nobody knows.
    """

    value: float
    error: float = math.nan

    def __str__(self) -> str:
        """Both, where both are known."""
        return f"{self.value:.1f}" + (f" ± {self.error:.1f}" if math.isfinite(self.error) else "")


def references_to_json(references: Mapping[str, Reference]) -> dict[str, Any]:
    """The fields of config.json that hold them."""
    return {
        "references": {name: each.value for name, each in references.items()},
        "reference_errors": {name: each.error for name, each in references.items() if math.isfinite(each.error)},
    }


def read_references(content: Mapping[str, Any]) -> dict[str, Reference]:
    """What `references_to_json` wrote, from the whole config.json; older ones have no errors."""
    errors = content.get("reference_errors") or {}
    return {name: Reference(value, errors.get(name, math.nan)) for name, value in (content.get("references") or {}).items()}
