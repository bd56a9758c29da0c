"""Builds environments by name: built-in ones, "library/name" of other libraries, and any "package.module:Factory"."""

import importlib
import inspect
from typing import Any

from envs_jax.environment import Environment, EnvironmentFactory, HostEnvironment
from envs_jax.imports import import_object
from envs_jax.matrix_game import matrix_game
from envs_jax.multiwalker import multiwalker
from envs_jax.particle.rover_tower import rover_tower
from envs_jax.particle.spread import spread, spread3_ful, spread3_mix, spread3_sep
from envs_jax.pursuit import pursuit
from envs_jax.repeat_first import repeat_first
from envs_jax.validation import nearest, one_line

_FACTORIES: dict[str, EnvironmentFactory] = {
    "spread": spread,
    "spread3_sep": spread3_sep,
    "spread3_mix": spread3_mix,
    "spread3_ful": spread3_ful,
    "rover_tower": rover_tower,
    "pursuit": pursuit,
    "matrix_game": matrix_game,
    "multiwalker": multiwalker,
    "repeat_first": repeat_first,
}
_EXTERNAL_LIBRARIES = {"jaxmarl": "envs_jax.adapters.from_jaxmarl", "pettingzoo": "envs_jax.adapters.pettingzoo_environments"}


def environment_names() -> tuple[str, ...]:
    """Names of the built-in environments."""
    return tuple(_FACTORIES)


def external_libraries() -> tuple[str, ...]:
    """Libraries whose environments `make_any` builds as "library/name". Each needs the extra of the same name."""
    return tuple(_EXTERNAL_LIBRARIES)


def make(env: str | EnvironmentFactory | Environment, **options: Any) -> Environment:
    """Builds an environment that runs in JAX, with the arguments of `make_any`.

    Raises:
        ValueError: if `make_any` raises it, or if the environment runs outside JAX.
    """
    made = make_any(env, **options)
    if isinstance(made, HostEnvironment):
        raise ValueError(
            f"{_name(env)!r} runs outside JAX: train in it with mamt_jax.train, or build it with `envs_jax.registry.make_any`."
        )
    return made


def make_any(env: str | EnvironmentFactory | Environment | HostEnvironment, **options: Any) -> Environment | HostEnvironment:
    """Builds an environment, which runs in JAX or outside it.

    Args:
        env: a name from `environment_names()`; "library/name" with a library from `external_libraries()`;
            "package.module:Factory", where the module may be in the working directory; a factory, which is a function from
            options to an environment; or an environment, which is returned unchanged.
        **options: options of the factory, which its docstring describes.

    Raises:
        ValueError: if there is no such environment or option, if a value is not allowed, or if the factory raises an error.
    """
    if isinstance(env, Environment | HostEnvironment):
        if options:
            raise ValueError(f"{_listed([*options])} cannot be set: {env} is already built. Give a name or a factory.")
        return env
    if not isinstance(env, str) and not callable(env):
        raise ValueError(f"Environment {env!r} is not valid: give a name, a factory or an envs_jax.Environment.{_advice(env)}")
    name = _name(env)
    factory = find_factory(env) if isinstance(env, str) else env
    _check_options(name, factory, options)
    try:
        made = factory(**options)
    except Exception as error:
        if isinstance(error, ValueError) and isinstance(env, str) and ":" not in env:
            raise  # built-in factories raise complete sentences
        raise ValueError(f"Environment {name!r} cannot be made with {_described(options)}: {one_line(error)}.") from error
    if not isinstance(made, Environment | HostEnvironment):
        raise ValueError(f"{name!r} returned {type(made).__name__}, but an envs_jax.Environment is expected.{_advice(made)}")
    return made


def _name(env: Any) -> str:
    return env if isinstance(env, str) else getattr(env, "__qualname__", repr(env))


def _described(options: dict[str, Any]) -> str:
    return ", ".join(f"{option}={value!r}" for option, value in options.items()) or "its default options"


def _advice(env: Any) -> str:
    """Last sentences of an error message, which say how to wrap a PettingZoo environment; empty for other objects."""
    kinds = {kind.__name__ for kind in type(env).__mro__ if kind.__module__.startswith("pettingzoo")}
    wrapped = "envs_jax.adapters.from_pettingzoo.from_pettingzoo(make_env, episode_limit)"
    if "AECEnv" in kinds:
        return f" It is turn-based: wrap it in pettingzoo.utils.aec_to_parallel, and return {wrapped}."
    return f" Return {wrapped}, where make_env() builds it." if "ParallelEnv" in kinds else ""


def find_factory(name: str) -> EnvironmentFactory:
    """Returns the factory of the environment called `name`; raises ValueError if there is none."""
    if ":" in name:
        return import_object(name, "Environment")
    library, slash, inner = name.partition("/")
    return _external_factory(library, inner) if slash and library in _EXTERNAL_LIBRARIES else _known_factory(name)


def _known_factory(name: str) -> EnvironmentFactory:
    if name not in _FACTORIES:
        raise ValueError(
            f"There is no environment {name!r}{nearest(name, _FACTORIES)}: give one of {', '.join(_FACTORIES)}, "
            f'{", ".join(f"{library}/NAME" for library in _EXTERNAL_LIBRARIES)}, or "package.module:Factory" for your own.'
        )
    return _FACTORIES[name]


def _external_factory(library: str, name: str) -> EnvironmentFactory:
    try:
        module = importlib.import_module(_EXTERNAL_LIBRARIES[library])
    except ImportError as error:
        raise ValueError(
            f"Environment {f'{library}/{name}'!r} needs a package that cannot be imported ({error}): "
            f'install it with `pip install "mamt_jax[{library}]"`.'
        ) from error
    return module.find_factory(name)


def _check_options(name: str, factory: EnvironmentFactory, options: dict[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    named = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in options:
        if option not in named:
            raise ValueError(
                f"Environment {name!r} has no option {option!r}{nearest(option, named)}. "
                f"It has {_listed(named) or 'no options'}."
            )
    missing = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in options]
    if missing:
        raise ValueError(f"Environment {name!r} needs the option {_listed(missing)}.")


def _listed(names: list[str]) -> str:
    return ", ".join(names)
