"""Original environments with the options of ours: Spread in mpe2, Pursuit and Multi-Walker in PettingZoo."""

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from envs_jax.registry import find_factory, make

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv


class Original(NamedTuple):
    """Module and options of an original environment.

    Attributes:
        module: name of the module that has its `parallel_env`.
        names: our name -> the original's name, for options whose names differ.
        fixed: our options that the original lacks, with the only value that corresponds to it.
        ours: our options that the original lacks and that do not change what agents can do. They are ignored.
    """

    module: str
    names: Mapping[str, str]
    fixed: Mapping[str, Any]
    ours: tuple[str, ...] = ()


ORIGINALS = {
    "spread": Original(
        module="mpe2.simple_spread_v3",
        names={"num_agents": "N", "episode_limit": "max_cycles"},
        fixed={"position_first": True},
    ),
    "pursuit": Original(
        module="pettingzoo.sisl.pursuit.pursuit",
        names={
            "num_pursuers": "n_pursuers",
            "num_evaders": "n_evaders",
            "observation_range": "obs_range",
            "num_catch": "n_catch",
            "episode_limit": "max_cycles",
        },
        fixed={},
    ),
    "multiwalker": Original(
        module="pettingzoo.sisl.multiwalker.multiwalker",
        names={"num_walkers": "n_walkers", "episode_limit": "max_cycles"},
        fixed={},
        ours=("original_rules", "solver"),
    ),
}


def make_original(name: str, **options: Any) -> "ParallelEnv":
    """Makes the original of the environment that `envs_jax.make(name, **options)` builds.

    Raises:
        ValueError: if there is no original, if it is not installed, or if it does not support the value of an option.
    """
    arguments = original_options(name, **options)
    try:
        module = importlib.import_module(ORIGINALS[name].module)
    except ModuleNotFoundError as error:
        raise ValueError(f"The original of {name} needs {error.name}: install the extra `pettingzoo`.") from error
    return module.parallel_env(**arguments)


def original_options(name: str, **options: Any) -> dict[str, Any]:
    """Converts our options, including defaults, to those of the original; raises ValueError as `make_original` does."""
    if name not in ORIGINALS:
        raise ValueError(f"{name} has no original in PettingZoo. The environments with an original are {', '.join(ORIGINALS)}.")
    make(name, **options)  # raises ValueError for options that are not valid
    original = ORIGINALS[name]
    bound = inspect.signature(find_factory(name)).bind(**options)
    bound.apply_defaults()
    for option, value in original.fixed.items():
        if bound.arguments[option] != value:
            given = f"{option}={bound.arguments[option]!r}"
            raise ValueError(f"{given} is not valid: the original of {name} supports only {option}={value!r}.")
    own = {option: value for option, value in bound.arguments.items() if option not in {*original.fixed, *original.ours}}
    return {original.names.get(option, option): value for option, value in own.items()}
