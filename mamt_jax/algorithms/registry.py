"""Algorithms by name, or by "package.module:make" for one's own."""

from collections.abc import Callable

from envs_jax.environment import EnvSpec
from envs_jax.imports import import_object
from envs_jax.validation import nearest
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
        raise ValueError(
            f"algo {name!r} is unknown{nearest(name, ALGORITHMS)}; "
            f"there are {', '.join(ALGORITHMS)}, or package.module:make for your own"
        )
    return import_object(name, "Algorithm")(spec)
