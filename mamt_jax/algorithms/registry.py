"""The registry of algorithms: factory, description and plot style of each one."""

from collections.abc import Callable
from typing import NamedTuple

from envs_jax.environment import EnvSpec
from envs_jax.imports import import_object
from envs_jax.validation import nearest
from mamt_jax.algorithms import happo, hatrpo, ippo, lola, maac, maddpg, mamd, mamt, mappo
from mamt_jax.algorithms.base import Algorithm

Factory = Callable[[EnvSpec], Algorithm]


class Entry(NamedTuple):
    """A registered algorithm.

    Attributes:
        make: function spec -> Algorithm.
        description: one-line description.
        color: color of the algorithm in figures, from palettes for colour-blind readers (Okabe & Ito, then Tol).
        linestyle: line style of the algorithm in figures.
        marker: marker of the algorithm in figures.
    """

    make: Factory
    description: str
    color: str
    linestyle: str
    marker: str


ALGORITHMS = {
    "maac": Entry(maac.make, "MAAC: soft actor-critic with centralized attention critics", "#000000", "-", "o"),
    "mamd": Entry(mamd.make, "MAMD: MAAC with mirror descent in trust regions of fixed size", "#E69F00", "--", "s"),
    "mamd_op": Entry(mamd.make_optimal, "MAMD-OP: MAMD with trust regions only for dependent agents", "#009E73", "-.", "^"),
    "mamt": Entry(mamt.make, "MAMT: MAMD with trust regions learnt by decomposition", "#D55E00", "-", "D"),
    "maddpg": Entry(maddpg.make, "MADDPG: one centralized critic per agent, deterministic policies", "#CC79A7", "-.", "X"),
    "mappo": Entry(mappo.make, "MA-PPO: PPO with one centralized critic per agent", "#0072B2", "--", "v"),
    "ippo": Entry(ippo.make, "IPPO: PPO with one value function per agent, of its own observation", "#56B4E9", "-.", "P"),
    "happo": Entry(happo.make, "HAPPO: PPO for one agent after another, with the compound ratio", "#882255", "--", "h"),
    "hatrpo": Entry(hatrpo.make, "HATRPO: TRPO for one agent after another, with the compound ratio", "#999933", "-", "p"),
    "lola": Entry(lola.make, "LOLA: learning with opponent-learning awareness, two agents", "#117733", "-", "<"),
}


def algorithm_names() -> tuple[str, ...]:
    """Return the names of the registered algorithms."""
    return tuple(ALGORITHMS)


def make(algorithm: str | Factory | Algorithm, spec: EnvSpec) -> Algorithm:
    """Build an algorithm for the agents of `spec`.

    Args:
        algorithm: name of a registered algorithm, "package.module:make" for your own, a function spec -> Algorithm, or an
            Algorithm, which is returned unchanged.
        spec: spec of the environment.

    Raises:
        ValueError: if the algorithm is unknown, cannot be imported, or does not support the environment.
    """
    if isinstance(algorithm, Algorithm):
        return algorithm
    if callable(algorithm):
        return algorithm(spec)
    if algorithm in ALGORITHMS:
        return ALGORITHMS[algorithm].make(spec)
    if ":" in algorithm:
        return import_object(algorithm, "Algorithm")(spec)
    raise ValueError(
        f"algo {algorithm!r} is not valid{nearest(algorithm, ALGORITHMS)}: give one of {', '.join(ALGORITHMS)}, "
        "or package.module:make for your own."
    )
