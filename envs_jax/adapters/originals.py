"""The environments that ours copy, with the same options: Spread in mpe2, Pursuit and Multi-Walker in pettingzoo."""

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from envs_jax.registry import find_factory, make

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv


class Original(NamedTuple):
    """Where an original is, and how its options are called.

    Attributes:
        module: that makes it.
        names: its names of those of our options that it calls differently.
        fixed: our options that it lacks, and what it does always.
        ours: our options that it lacks and that do not change what agents can do.
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
        ours=(
            "push",
            "same_push",
            "falls_pay_again",
            "contact_events",
            "solver",
            "velocity_sweeps",
            "position_sweeps",
            "most_position_sweeps",
            "ground_contacts",
        ),
    ),
}


def make_original(name: str, **options: Any) -> "ParallelEnv":
    """The original of the environment that `envs_jax.make(name, **options)` builds.

    Raises:
        ValueError: if there is no original, it is not installed, or it lacks what an option asks for.
    """
    arguments = original_options(name, **options)
    try:
        module = importlib.import_module(ORIGINALS[name].module)
    except ModuleNotFoundError as error:
        raise ValueError(f"The original of {name} needs {error.name}: install the extra `pettingzoo`.") from error
    return module.parallel_env(**arguments)


def original_options(name: str, **options: Any) -> dict[str, Any]:
    """The original's options for those of ours, defaults included; raises ValueError as `make_original` does."""
    if name not in ORIGINALS:
        raise ValueError(f"{name} has no original in PettingZoo: there are those of {', '.join(ORIGINALS)}.")
    make(name, **options)  # for its refusals
    original = ORIGINALS[name]
    bound = inspect.signature(find_factory(name)).bind(**options)
    bound.apply_defaults()
    for option, value in original.fixed.items():
        if bound.arguments[option] != value:
            raise ValueError(f"{option}={bound.arguments[option]!r} is not in the original of {name}, only {option}={value!r}.")
    own = {option: value for option, value in bound.arguments.items() if option not in {*original.fixed, *original.ours}}
    return {original.names.get(option, option): value for option, value in own.items()}
