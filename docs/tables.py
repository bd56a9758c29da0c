"""Tables of environments, algorithms and options for the documentation, generated from the code."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence

from analysis.markdown import markdown
from analysis.results import read_returns
from envs_jax import registry as environments
from envs_jax.environment import Box, Discrete
from mamt_jax.algorithms import registry as algorithms
from mamt_jax.cli import compare, evaluate, figures, sweep, train
from mamt_jax.options import Option, config_options, default_in_words, is_float_leaf, kind_in_words
from mamt_jax.presets import TUNED
from mamt_jax.training.config import TrainingConfig
from mamt_jax.training.policies import PRETRAINED
from mamt_jax.training.settings import env_options

PLAYED_BY = {"lola": "matrix_game", "mamd_op": "spread3_mix"}
"""Environments for the algorithms that do not support every environment."""
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "train": lambda: train.common_parser(add_help=False),
    "sweep": sweep.own_parser,
    "evaluate": evaluate.make_parser,
    "compare": compare.make_parser,
    "figures": figures.make_parser,
}
POLICIES = {"random": "random", "do_nothing": "do nothing", "scripted": "scripted"}


def spaces(env: str) -> str:
    """A table of agents, observations and actions, and the length of an episode."""
    spec = environments.make_any(env).spec
    rows: list[Sequence[str]] = [("agents", "observation", "actions")]
    groups: dict[tuple[int, Discrete | Box], list[str]] = {}
    for name, size, space in zip(spec.agent_names, spec.observation_sizes, spec.action_spaces, strict=True):
        groups.setdefault((size, space), []).append(f"`{name}`")
    for (size, space), names in groups.items():
        span = ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
        actions = (
            f"discrete, {space.num_actions}"
            if isinstance(space, Discrete)
            else f"{space.size} real numbers from {space.low:g} to {space.high:g}"
        )
        rows.append((span, f"{size} real numbers", actions))
    return f"{markdown(rows)}\n\nAn episode lasts at most {spec.episode_limit} steps."


def option_rows(options: Iterable[Option]) -> str:
    """A table with one option per row."""
    rows: list[Sequence[str]] = [("option", "value", "default", "meaning")]
    for option in options:
        kind, default = kind_in_words(option).strip("{}").replace(",", ", ").replace(" | ", " or "), default_in_words(option)
        rows.append((f"`--{option.name.replace('_', '-')}`", kind, f"`{default}`", " ".join(option.help.split())))
    return markdown(rows)


def hyperparameters(algo: str) -> str:
    """A table of an algorithm's hyperparameters, with the defaults of Table 1."""
    spec = environments.make(PLAYED_BY.get(algo, "rover_tower")).spec
    return option_rows(config_options(algorithms.make(algo, spec).config, several=is_float_leaf))


def defaults(algo: str) -> str:
    """A table of the options that the tuned presets of an algorithm set, with one column per task."""
    presets = {task: by_algo[algo].options for task, by_algo in TUNED.items() if algo in by_algo}
    names = dict.fromkeys(name for options in presets.values() for name in options)
    rows: list[Sequence[str]] = [("option", *presets)]
    for name in names:
        cells = (in_words(options[name]) if name in options else "" for options in presets.values())
        rows.append((f"`--{name.replace('_', '-')}`", *cells))
    return markdown(rows)


def in_words(value: object) -> str:
    """Formats whole numbers with commas; leaves other values as they are."""
    return f"{value:,}" if type(value) is int else str(value)


def reference_returns(*tasks: str) -> str:
    """A table of the returns of the reference policies and of the best included policy."""
    earned, included = read_returns(), json.loads((PRETRAINED / "returns.json").read_text())["returns"]
    rows: list[Sequence[str]] = [("task", *POLICIES.values(), "best included policy")]
    for task in tasks:
        cells = [shown(earned[task][name]) if name in earned[task] else "" for name in POLICIES]
        own = {name: each for name, each in included.items() if name.startswith(f"{task}/")}
        best = max(own, key=lambda name: own[name]["return"], default=None)
        rows.append((task, *cells, f"{shown(own[best])} (`{best}`)" if best else ""))
    return markdown(rows)


def shown(result: dict[str, float]) -> str:
    """Formats a return with its standard error."""
    return f"{result['return']:.2f} ± {result['return_std_error']:.2f}"


def arguments(command: str) -> str:
    """A table of the options that a command has for every environment and algorithm."""
    rows: list[Sequence[str]] = [("option", "value", "meaning")]
    for action in PARSERS[command]()._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        kind = str(action.metavar or action.dest).upper()
        names = ", ".join(f"`{name}`" for name in action.option_strings or [kind])
        value = ", ".join(map(str, action.choices or ([] if action.nargs == 0 else [kind])))
        rows.append((names, value, " ".join((action.help or "").replace("%%", "%").split())))
    return markdown(rows)


TABLES: dict[str, Callable[..., str]] = {
    "spaces": spaces,
    "environment_options": lambda env: option_rows(env_options(env)),
    "reference_returns": reference_returns,
    "hyperparameters": hyperparameters,
    "defaults": defaults,
    "training_options": lambda: option_rows(config_options(TrainingConfig)),
    "arguments": arguments,
}
"""Functions that make the tables, by name. Those of the results are in `experiments/analysis/tables.py`."""
