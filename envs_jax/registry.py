"""From a name to an environment: our own, another library's as "library/name", anybody's as "package.module:Factory"."""

import importlib
import inspect
import os
import sys
from typing import Any

from envs_jax.environment import Environment, EnvironmentFactory, HostEnvironment
from envs_jax.matrix_game import matrix_game
from envs_jax.multiwalker import multiwalker
from envs_jax.particle.rover_tower import rover_tower
from envs_jax.particle.spread import spread, spread3_ful, spread3_mix, spread3_sep
from envs_jax.pursuit import pursuit
from envs_jax.validation import one_line, suggestion

_FACTORIES: dict[str, EnvironmentFactory] = {
    "spread": spread,
    "spread3_sep": spread3_sep,
    "spread3_mix": spread3_mix,
    "spread3_ful": spread3_ful,
    "rover_tower": rover_tower,
    "pursuit": pursuit,
    "matrix_game": matrix_game,
    "multiwalker": multiwalker,
}
_DOORS = {"jaxmarl": "envs_jax.adapters.from_jaxmarl", "pettingzoo": "envs_jax.adapters.pettingzoo_names"}


def environment_names() -> tuple[str, ...]:
    """The names that `make` knows by itself."""
    return tuple(_FACTORIES)


def door_names() -> tuple[str, ...]:
    """The libraries whose environments `make` builds as "library/name"; each is also the name of the extra that it needs."""
    return tuple(_DOORS)


def make(name: str, **options: Any) -> Environment:
    """Builds an environment that runs in JAX; `make_any` says how.

    Raises:
        ValueError: as `make_any`, or if it runs outside JAX.
    """
    env = make_any(name, **options)
    if isinstance(env, HostEnvironment):
        raise ValueError(f"{name!r} runs outside JAX: train in it with `mamt train`, or take it from `make_any`.")
    return env


def make_any(name: str, **options: Any) -> Environment | HostEnvironment:
    """Builds an environment.

    Args:
        name: one of `environment_names()`; or "library/name" for an environment of one of
            `door_names()`; or "package.module:Factory", a function from options to an Environment that is imported with the
            working directory on the path.
        **options: passed to the factory; its docstring describes them.

    Raises:
        ValueError: if there is no such environment or option, or an option has a value that is not allowed; also for whatever
            a factory raises.
    """
    factory = find_factory(name)
    _check_options(name, factory, options)
    try:
        env = factory(**options)
    except Exception as error:
        if isinstance(error, ValueError) and ":" not in name:
            raise  # a sentence of ours
        raise ValueError(f"Environment {name!r} cannot be made with {_described(options)}: {one_line(error)}.") from error
    if not isinstance(env, Environment | HostEnvironment):
        raise ValueError(f"{name!r} returned {type(env).__name__} where an envs_jax.Environment was expected{_advice(env)}.")
    return env


def _described(options: dict[str, Any]) -> str:
    return ", ".join(f"{option}={value!r}" for option, value in options.items()) or "its default options"


def _advice(env: Any) -> str:
    """What to do with an environment of PettingZoo, which need not be installed; empty for anything else."""
    kinds = {kind.__name__ for kind in type(env).__mro__ if kind.__module__.startswith("pettingzoo")}
    wrapped = "envs_jax.adapters.from_pettingzoo.from_pettingzoo(make_env, episode_limit)"
    if "AECEnv" in kinds:
        return f": it is turn-based, so wrap it in pettingzoo.utils.aec_to_parallel, and that in {wrapped}"
    return f": return {wrapped}, where make_env makes it" if "ParallelEnv" in kinds else ""


def find_factory(name: str) -> EnvironmentFactory:
    """The function that builds the environment called `name`; raises ValueError if there is none."""
    if ":" in name:
        return _import_factory(name)
    door, slash, inner = name.partition("/")
    return _factory_behind(door, inner) if slash and door in _DOORS else _known_factory(name)


def _known_factory(name: str) -> EnvironmentFactory:
    if name not in _FACTORIES:
        raise ValueError(
            f"There is no environment {name!r}{suggestion(name, _FACTORIES)}; there are {', '.join(_FACTORIES)}, "
            f'{", ".join(f"{door}/NAME" for door in _DOORS)}, and "package.module:Factory" for your own.'
        )
    return _FACTORIES[name]


def _factory_behind(door: str, name: str) -> EnvironmentFactory:
    try:
        module = importlib.import_module(_DOORS[door])
    except ImportError as error:
        raise ValueError(
            f"Environment {f'{door}/{name}'!r} needs a package that cannot be imported ({error}): "
            f'pip install "mamt_jax[{door}]".'
        ) from error
    return module.find_factory(name)


def _import_factory(name: str) -> EnvironmentFactory:
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"Environment {name!r} cannot be imported: {one_line(error)}.") from error
    factory: EnvironmentFactory | None = getattr(module, attribute, None)
    if not callable(factory):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == module.__name__]
        raise ValueError(
            f"Module {module_name!r} has no function {attribute!r}{suggestion(attribute, own)}; it has {_listed(own)}."
        )
    return factory


def _check_options(name: str, factory: EnvironmentFactory, options: dict[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in options:
        if option not in named:
            raise ValueError(
                f"Environment {name!r} has no option {option!r}{suggestion(option, named)}; its options are {_listed(named)}."
            )
    missing = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in options]
    if missing:
        raise ValueError(f"Environment {name!r} needs the option {_listed(missing)}.")


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"
