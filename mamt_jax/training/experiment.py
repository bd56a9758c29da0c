"""Experiments: a description of training that config.json can hold, and the objects that it describes."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from envs_jax import registry as environments
from envs_jax.environment import Environment, EnvSpec, HostEnvironment
from envs_jax.wrappers import infer_spec
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.algorithms.base import Algorithm, function_name, require_action_masks, resolve_functions
from mamt_jax.precision import with_bfloat16_products
from mamt_jax.renamed import with_new_names
from mamt_jax.training.config import Schedule, TrainingConfig, make_schedule, validate
from mamt_jax.types import Config
from mamt_jax.validation import LARGEST, require_representable

Env = str | Environment | HostEnvironment | Callable[..., Environment | HostEnvironment]
Algo = str | Algorithm | Callable[[EnvSpec], Algorithm]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Description of what is trained, in plain values unless the environment or the algorithm is an object.

    Attributes:
        env: name of the environment, "package.module:Factory", a factory, or the environment itself.
        algo: name of the algorithm, "package.module:make", a factory, or the algorithm itself.
        env_options: options of the environment that are not the defaults.
        algo_options: fields of the algorithm's config that are not the defaults.
        runs: one dict per run with its "seed" and the float fields of the config that are set for each run.
        training: settings of training.
    """

    env: Env
    algo: Algo
    env_options: Mapping[str, Any]
    algo_options: Mapping[str, Any]
    runs: tuple[Mapping[str, Any], ...]
    training: TrainingConfig

    @property
    def env_name(self) -> str:
        """The name of the environment."""
        return name_of(self.env)

    @property
    def algo_name(self) -> str:
        """The name of the algorithm."""
        return name_of(self.algo)

    @property
    def labels(self) -> list[str]:
        """One label per run: its own hyperparameters, or the algorithm's name if it has none. Seeds share a label."""
        own = [{name: value for name, value in run.items() if name != "seed"} for run in self.runs]
        return [", ".join(f"{name} {value:g}" for name, value in each.items()) or self.algo_name for each in own]

    @property
    def titles(self) -> list[str]:
        """The name of each run: its label and its seed."""
        return [f"{label}, seed {run['seed']}" for label, run in zip(self.labels, self.runs, strict=True)]


class Built(NamedTuple):
    """The objects that an Experiment describes.

    Attributes:
        env: the environment.
        algorithm: the algorithm, made for this environment.
        configs: one algorithm config per run.
        schedule: the schedule of a run in iterations.
    """

    env: Environment | HostEnvironment
    algorithm: Algorithm
    configs: tuple[Config, ...]
    schedule: Schedule


def name_of(thing: Any) -> str:
    """The name of an environment, an algorithm or a function: "module:function" if importable, else a name in brackets."""
    if isinstance(thing, str):
        return thing
    if isinstance(thing, Environment | HostEnvironment):
        return f"<{thing.spec.name}>"
    if isinstance(thing, Algorithm):
        return f"<{thing.config.__name__}>"
    module, name = getattr(thing, "__module__", ""), getattr(thing, "__qualname__", type(thing).__name__)
    importable = getattr(sys.modules.get(module), name, None) is thing
    return f"{module}:{name}" if importable else f"<{name}>"


def build(experiment: Experiment) -> Built:
    """Builds the objects that an experiment describes.

    Raises:
        ValueError: if that is not possible; the message says what is wrong and what would be right.
    """
    env = make_env(experiment)
    algorithm = algorithms.make(experiment.algo, env.spec)
    require_action_masks(algorithm, experiment.algo_name, env.spec)
    validate(experiment.training, env.spec.episode_limit, algorithm.data)
    if experiment.training.n_steps > 1 and not algorithm.multi_step:
        why = f"{experiment.algo_name} does not support multi-step returns"
        raise ValueError(f"n_steps={experiment.training.n_steps} is not valid: {why}. Give 1.")
    if experiment.training.precision == "bfloat16":
        algorithm = algorithm._replace(update=with_bfloat16_products(algorithm.update))
    return Built(
        env=env,
        algorithm=algorithm,
        configs=make_configs(algorithm, experiment),
        schedule=make_schedule(experiment.training, env.spec.episode_limit, algorithm.data),
    )


def make_env(experiment: Experiment) -> Environment | HostEnvironment:
    """Makes the environment of an experiment and completes its spec by `infer_spec`; raises ValueError if that fails."""
    env = environments.make_any(experiment.env, **experiment.env_options)
    return infer_spec(env) if isinstance(env, Environment) else env


def make_configs(algorithm: Algorithm, experiment: Experiment) -> tuple[Config, ...]:
    """One algorithm config per run; raises ValueError if there is no run, or if a seed or a field is not valid."""
    if not experiment.runs:
        raise ValueError("seeds=0 is not valid: give at least 1.")
    for run in experiment.runs:
        if not 0 <= run["seed"] <= LARGEST:
            raise ValueError(f"seed={run['seed']} is not valid: the seeds of all runs must be from 0 to {LARGEST}.")
    own = [{name: value for name, value in run.items() if name != "seed"} for run in experiment.runs]
    try:
        options = resolve_functions(algorithm.config, experiment.algo_options)
        configs = tuple(algorithm.config(**options, **each) for each in own)
    except TypeError as error:
        raise ValueError(f"{experiment.algo_name} does not take these options: {error}.") from error
    for config in configs:
        require_representable(config)
        algorithm.validate(config)
    return configs


def experiment_to_json(experiment: Experiment) -> dict[str, Any]:
    """An Experiment as plain values for config.json."""
    plain = dataclasses.replace(experiment, env=experiment.env_name, algo=experiment.algo_name)
    return dataclasses.asdict(plain)


def experiment_from_json(content: Mapping[str, Any]) -> Experiment:
    """Reads an Experiment that `experiment_to_json` wrote.

    Raises:
        ValueError: if the content does not describe an experiment.
    """
    try:
        fields = {field.name: content[field.name] for field in dataclasses.fields(Experiment)}
        training, runs = TrainingConfig(**fields.pop("training")), tuple(map(with_new_names, fields.pop("runs")))
        fields |= {name: with_new_names(_tuples(fields[name])) for name in ("env_options", "algo_options")}
        return Experiment(training=training, runs=runs, **fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it does not describe an experiment ({error})") from error


def config_values(configs: tuple[Config, ...]) -> list[dict[str, Any]]:
    """All fields of each run's config, including defaults."""
    fields = sorted(dataclasses.fields(configs[0]), key=lambda field: field.name)
    return [{field.name: plain_value(field, getattr(config, field.name)) for field in fields} for config in configs]


def plain_value(field: dataclasses.Field, value: Any) -> Any:
    """The value of a config field as a JSON value; functions are given by name."""
    if "functions" in field.metadata:
        return function_name(field, value)
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, bool | int | float | str | None) else str(leaf), value)


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with lists, which JSON has instead of tuples, converted back to tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
