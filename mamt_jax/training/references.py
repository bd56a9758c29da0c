"""What reference policies earn, as config.json and learning curves hold it."""

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from envs_jax.registry import environment_names, find_factory

RETURNS = Path(__file__).parents[1] / "reference_returns.json"
"""What `experiments/reference_returns.py` measured."""
TASKS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in environment_names()} | {
    "spread_n3": ("spread", {"num_agents": 3}),
    "pursuit_local": ("pursuit", {"shared_reward": False}),
}
ORIGINALS = {"multiwalker_original": "pettingzoo/multiwalker"}
HOW = {"processes"}
"""Options that say how an environment runs and not what it is."""
OBSERVED = {"contact_events"}
"""Options that change observations alone, which reference policies do not read."""


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


def task_name(env: str, options: Mapping[str, Any]) -> str | None:
    """What results call the task of `env` with `options`, such as "spread_n3"; None where they know no such task."""
    tasks = TASKS | {name: (original, {}) for name, original in ORIGINALS.items()}
    for name, (other, own) in tasks.items():
        if env == other and _all_options(env, options) == _all_options(env, own):
            return name
    return None


def measured_references(env: str, options: Mapping[str, Any]) -> dict[str, Reference] | None:
    """What reference policies earn in `env` with `options`, from the file of the package; None where it has no such task."""
    returns, name = json.loads(RETURNS.read_text())["returns"], task_name(env, options)
    if name not in returns:
        return None
    return {policy: Reference(each["return"], each["return_std_error"]) for policy, each in returns[name].items()}


def _all_options(env: str, options: Mapping[str, Any]) -> Any:
    """All options as JSON has them, defaults included where they are known without another package."""
    parameters = inspect.signature(find_factory(env)).parameters if env in environment_names() else {}
    options = {name: parameter.default for name, parameter in parameters.items()} | dict(options)
    return json.loads(json.dumps({name: value for name, value in options.items() if name not in HOW | OBSERVED}, default=str))
