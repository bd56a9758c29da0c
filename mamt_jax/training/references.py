"""Returns of reference policies, as config.json and learning curves hold them."""

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from envs_jax.registry import environment_names, find_factory

RETURNS = Path(__file__).parents[1] / "reference_returns.json"
"""Returns that `experiments/reference_returns.py` measured."""
TASKS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in environment_names()} | {
    "spread_n3": ("spread", {"num_agents": 3}),
    "pursuit_local": ("pursuit", {"shared_reward": False}),
}
ORIGINALS = {"multiwalker_original": "pettingzoo/multiwalker"}
HOW = {"processes"}
"""Options that change how an environment runs, but not the task."""
OBSERVED = {"original_rules"}
"""Options that hardly change the returns of reference policies, which read no observations."""


class Reference(NamedTuple):
    """The return of a reference policy.

    Attributes:
        value: mean return per agent and episode.
        error: standard error of the mean; nan if unknown.
    """

    value: float
    error: float = math.nan

    def __str__(self) -> str:
        """The value, followed by the standard error if it is known."""
        return f"{self.value:.1f}" + (f" ± {self.error:.1f}" if math.isfinite(self.error) else "")


def references_to_json(references: Mapping[str, Reference]) -> dict[str, Any]:
    """The fields of config.json that hold the references."""
    return {
        "references": {name: each.value for name, each in references.items()},
        "reference_errors": {name: each.error for name, each in references.items() if math.isfinite(each.error)},
    }


def read_references(content: Mapping[str, Any]) -> dict[str, Reference]:
    """Reads the references from the content of config.json; standard errors are nan in files of older versions."""
    errors = content.get("reference_errors") or {}
    return {name: Reference(value, errors.get(name, math.nan)) for name, value in (content.get("references") or {}).items()}


def task_name(env: str, options: Mapping[str, Any]) -> str | None:
    """The name of the task of `env` with `options` in results, such as "spread_n3"; None if it is not one of the tasks."""
    tasks = TASKS | {name: (original, {}) for name, original in ORIGINALS.items()}
    for name, (other, own) in tasks.items():
        if env == other and _all_options(env, options) == _all_options(env, own):
            return name
    return None


def measured_references(env: str, options: Mapping[str, Any]) -> dict[str, Reference] | None:
    """The measured returns of reference policies in `env` with `options`; None if this task was not measured."""
    returns, name = json.loads(RETURNS.read_text())["returns"], task_name(env, options)
    if name not in returns:
        return None
    return {policy: Reference(each["return"], each["return_std_error"]) for policy, each in returns[name].items()}


def _all_options(env: str, options: Mapping[str, Any]) -> Any:
    """The options that define the task, as JSON values, with defaults for environments of this package."""
    parameters = inspect.signature(find_factory(env)).parameters if env in environment_names() else {}
    options = {name: parameter.default for name, parameter in parameters.items()} | dict(options)
    return json.loads(json.dumps({name: value for name, value in options.items() if name not in HOW | OBSERVED}, default=str))
