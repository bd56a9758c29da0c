"""Lists environments, algorithms, presets and trained policies."""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

from envs_jax import registry as environments
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.cli.parser import Parser
from mamt_jax.options import OptionError
from mamt_jax.presets import PRESETS, TUNED
from mamt_jax.training.policies import pretrained_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        Parser("mamt list", "", description=__doc__).parse_args(sys.argv[1:] if arguments is None else arguments)
    except OptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(f"{title}\n{text}" for title, text in sections().items()))
    return 0


def sections() -> dict[str, str]:
    """The sections of the listing: title -> text."""
    factories = {name: environments.find_factory(name) for name in environments.environment_names()}
    tuned = {env: ", ".join(by_algo) for env, by_algo in TUNED.items()}
    policies: dict[str, list[str]] = {}
    for name in pretrained_names():
        env, _, algo = name.partition("/")
        policies.setdefault(env, []).append(algo)
    return {
        "Environments (--env)": columns({name: purpose(factory) for name, factory in factories.items()}),
        "Algorithms (--algo)": columns({name: entry.description for name, entry in algorithms.ALGORITHMS.items()}),
        "Presets (--preset)": columns(PRESETS) + "\n" + columns({f"tuned on {env}": names for env, names in tuned.items()}),
        "Trained policies (--pretrained ENV/ALGO)": columns({env: ", ".join(names) for env, names in policies.items()}),
    }


def purpose(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def columns(rows: dict[str, str]) -> str:
    """Formats names and their descriptions in two columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"  {name:{width}}  {text}" for name, text in rows.items())
