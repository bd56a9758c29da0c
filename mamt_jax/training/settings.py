"""Makes an Experiment from options of the command line or of Python."""

import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from envs_jax import registry as environments
from envs_jax.environment import Environment, HostEnvironment
from envs_jax.validation import nearest
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.algorithms.base import Algorithm
from mamt_jax.options import Group, Option, OptionError, config_options, function_options, is_float_leaf, place
from mamt_jax.presets import find_preset
from mamt_jax.training.config import TrainingConfig
from mamt_jax.training.experiment import Algo, Env, Experiment, name_of
from mamt_jax.training.initial import Source, open_source, static_fields
from mamt_jax.training.policies import pretrained_folder
from mamt_jax.training.references import task_name
from mamt_jax.training.run_folder import BEST

MAX_RUNS = 10_000
EPISODES_EACH = 10
COMMON = ("env", "algo", "seeds", "config", "init_from", "out", "log", "preset", "resume", "compilation_cache", "distributed")
"""Options that exist for every environment and algorithm."""

Read = Callable[[Mapping[str, Option]], Mapping[str, Any]]
"""(options by flat name) -> the values of those that were given."""


class Settings(NamedTuple):
    """The options of an algorithm in an environment.

    Attributes:
        env: name, factory or object of the environment.
        algo: name, factory or object of the algorithm.
        algorithm: the algorithm, made for the agents of the environment.
        groups: all options, with the defaults of the preset.
        places: prefix of the group and option, by flat name.
        preset: option values of the preset.
        minutes: measured duration of training with the preset in minutes on 2 CPU cores, if known.
        inherited: option values of the runs that provide the initial parameters, under the prefixes "env" and "algo".
    """

    env: Env
    algo: Algo
    algorithm: Algorithm
    groups: list[Group]
    places: Mapping[str, tuple[str, Option]]
    preset: Mapping[str, Any]
    minutes: float | None
    inherited: Mapping[str, Mapping[str, Any]]


def find_settings(env: Env, algo: Algo, preset: str, read: Read, source: Source | None = None) -> Settings:
    """Finds the options of `algo` in `env`; raises OptionError if they do not exist or do not fit together.

    `read` returns the given values of the environment's options. `source` provides initial parameters and inherited options.
    """
    same_env = source is not None and env == source.experiment.env
    inherited_env = source.experiment.env_options if source and same_env else {}
    try:
        groups = [
            Group("training", "training", config_options(TrainingConfig)),
            Group("environment", "env", env_options(env)),
        ]
        options = {name: option for name, (prefix, option) in place(groups, COMMON).items() if prefix == "env"}
        given = {options[name].name: value for name, value in read(options).items()}
        spec = environments.make_any(env, **{**inherited_env, **given}).spec
        algorithm = algorithms.make(algo, spec)
        task = task_name(env, {**inherited_env, **given}) or env if isinstance(env, str) else spec.name
        found = find_preset(preset, task, name_of(algo))
    except OptionError:
        raise
    except ValueError as error:
        raise OptionError(str(error)) from error
    try:
        inherited_algo = static_fields(source, algorithm.config) if source else {}
    except ValueError as error:
        raise OptionError(f"--init-from {source and source.name} cannot be used: {error}") from error
    groups.append(Group("algorithm", "algo", config_options(algorithm.config, several=is_float_leaf)))
    defaults = {**algorithm.training, **found.options}
    groups = [with_defaults(group, defaults) for group in groups]
    inherited = {"env": inherited_env, "algo": inherited_algo}
    return Settings(env, algo, algorithm, groups, place(groups, COMMON), found.options, found.minutes, inherited)


def env_options(env: Env) -> list[Option]:
    """The options of an environment's factory; none if `env` is an environment object."""
    if isinstance(env, Environment | HostEnvironment):
        return []
    return function_options(environments.find_factory(env) if isinstance(env, str) else env)


def with_defaults(group: Group, values: Mapping[str, Any]) -> Group:
    """The group with the defaults in `values`, for the options that are there."""
    return group._replace(
        options=[option._replace(default=values.get(option.name, option.default)) for option in group.options]
    )


def make_experiment(settings: Settings, values: Mapping[str, Any], seeds: int = 1) -> Experiment:
    """Makes an experiment from the preset and the given values, which override it.

    Fields with several values are swept: there is one run for each seed and each combination of these values.

    Args:
        settings: result of `find_settings`.
        values: given values by flat name.
        seeds: number of seeds for each combination.

    Raises:
        OptionError: if an option does not exist, or if there are too many runs.
    """
    for name in values:
        if name not in settings.places:
            raise OptionError(f"there is no option {name}{nearest(name, [*settings.places, *COMMON])}.")
    chosen = {**fitting(settings.preset, values), **values}
    given: dict[str, dict[str, Any]] = {
        "training": {**settings.algorithm.training},
        "env": {**settings.inherited["env"]},
        "algo": {**settings.inherited["algo"]},
    }
    for name, (prefix, option) in settings.places.items():
        inherits = name not in values and option.name in settings.inherited.get(prefix, {})
        if name in chosen and not inherits:
            given[prefix][option.name] = chosen[name]
    swept = {name: value for name, value in given["algo"].items() if isinstance(value, list) and len(value) > 1}
    fixed = {name: value[0] if isinstance(value, list) else value for name, value in given["algo"].items() if name not in swept}
    number = seeds * math.prod(map(len, swept.values()))
    if not 1 <= number <= MAX_RUNS:
        raise OptionError(
            f"--seeds {seeds} is not valid: it makes {number} runs. Give a number that makes 1 to {MAX_RUNS} runs."
        )
    training = TrainingConfig(**given["training"])
    points = [dict(zip(swept, point, strict=True)) for point in itertools.product(*swept.values())]
    runs = [{"seed": training.seed + number} | point for point in points for number in range(seeds)]
    return Experiment(settings.env, settings.algo, check_plain(given["env"]), check_plain(fixed), tuple(runs), training)


def fitting(preset: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The preset, with fewer environments and a proportionally smaller update interval for short runs.

    A run is short if each environment would play fewer than `EPISODES_EACH` episodes.
    """
    if not {"num_envs", "update_interval"} <= preset.keys() or {"num_envs", "update_interval"} & values.keys():
        return preset
    factor = math.ceil(EPISODES_EACH * preset["num_envs"] / max(1, values.get("episodes", preset["episodes"])))
    return {**preset, **{name: max(1, preset[name] // max(1, factor)) for name in ("num_envs", "update_interval")}}


def check_plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with functions replaced by their names; raises OptionError for a value that config.json cannot hold."""
    plain = {name: name_of(value) if callable(value) else value for name, value in options.items()}
    for name, value in plain.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise OptionError(f"{name}={value!r} is not valid: give numbers, text, or an importable function.") from error
    return plain


def find_source(name: str) -> Source:
    """Opens the runs that `init_from` names; raises OptionError or FolderError if there are none."""
    folder, (first, *rest) = Path(name), Path(name).parts or ("",)
    if first == "pretrained" and not folder.exists():
        folder = pretrained_folder("/".join(part for part in rest if part != BEST), "--init-from pretrained/")
    try:
        return open_source(name, folder)
    except ValueError as error:
        raise OptionError(str(error)) from error
