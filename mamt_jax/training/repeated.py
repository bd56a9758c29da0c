"""Options for new runs from the config.json of earlier runs."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mamt_jax.options import Option, OptionError
from mamt_jax.training.experiment import experiment_from_json
from mamt_jax.training.run_folder import CONFIG, read_config, read_config_file


class Repeated(NamedTuple):
    """Options that a config.json describes.

    Attributes:
        env: the environment.
        algo: the algorithm.
        seeds: number of seeds for each combination of hyperparameters.
        options: values by name, under "training", "env" and "algo"; a list if runs differ.
    """

    env: Any
    algo: Any
    seeds: int
    options: Mapping[str, Mapping[str, Any]]

    def given(self, places: Mapping[str, tuple[str, Option]]) -> dict[str, Any]:
        """The values by flat option name, for the options in `places`."""
        known = {name: (self.options[prefix], option.name) for name, (prefix, option) in places.items()}
        return {name: values[own] for name, (values, own) in known.items() if own in values}


def read_repeated(path: Path) -> Repeated:
    """Reads the config.json at `path`, or in the folder `path`.

    Raises:
        FolderError: if it cannot be read.
        OptionError: if it does not describe runs that one command can start.
    """
    content = read_config_file(path) if path.suffix == ".json" else read_config(path)
    try:
        experiment, configs = experiment_from_json(content["experiment"]), content["algorithm_configs"]
        rows = list(zip(experiment.runs, configs, strict=True))
        values = {name: list(dict.fromkeys(_hashable(each[name]) for each in configs)) for name in configs[0]}
    except (IndexError, KeyError, ValueError) as error:
        raise OptionError(f"--config {path} is not valid: give the {CONFIG} of a run.") from error
    swept = {name: found for name, found in values.items() if len(found) > 1}
    seeds = len(experiment.runs) // math.prod(map(len, swept.values()))
    first = experiment.training.seed
    expected = set(itertools.product(range(first, first + seeds), *swept.values()))
    if {(run["seed"], *(config[name] for name in swept)) for run, config in rows} != expected:
        raise OptionError(f"--config {path} is not valid: it holds merged runs. Give the {CONFIG} of a single command.")
    algo = {name: found if name in swept else found[0] for name, found in values.items()}
    options = {"training": dataclasses.asdict(experiment.training), "env": dict(experiment.env_options), "algo": algo}
    return Repeated(experiment.env, experiment.algo, seeds, options)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
