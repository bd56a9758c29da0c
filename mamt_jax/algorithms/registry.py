"""Algorithms by name, or by "package.module:make" for one's own."""

import difflib
import importlib
from collections.abc import Callable

from envs_jax.environment import EnvSpec
from mamt_jax.algorithms import lola, maac, maddpg, mamd, mamt, mappo
from mamt_jax.algorithms.base import Algorithm

ALGORITHMS: dict[str, Callable[[EnvSpec], Algorithm]] = {
    "maac": maac.make,
    "mamd": mamd.make,
    "mamd_op": mamd.make_optimal,
    "mamt": mamt.make,
    "maddpg": maddpg.make,
    "mappo": mappo.make,
    "lola": lola.make,
}


def algorithm_names() -> tuple[str, ...]:
    """The names that `make` knows."""
    return tuple(ALGORITHMS)


def make(name: str, spec: EnvSpec) -> Algorithm:
    """Build the algorithm called `name`, or the one that `package.module:make` makes, for the agents of `spec`.

    Raises:
        ValueError: if there is none of that name, or it cannot be imported or cannot play `spec`.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name](spec)
    if ":" not in name:
        close = difflib.get_close_matches(name, ALGORITHMS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(
            f"algo {name!r} is unknown; {hint}there are {', '.join(ALGORITHMS)}, or package.module:make for your own"
        )
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"algo {name!r} cannot be imported: {error}; it must name a function spec -> Algorithm") from error
    return factory(spec)
