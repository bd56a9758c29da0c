"""Evaluates trained policies: return and task metrics, a film of one episode, an export for plain JAX.

mamt evaluate runs/NAME --gif film.gif
mamt evaluate runs/NAME --original
mamt evaluate runs/NAME --absolute
mamt evaluate --pretrained rover_tower/mappo --export rover_tower.jax
"""

import argparse
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import jax
import numpy as np

from envs_jax.environment import Environment, EnvSpec, HostEnvironment, HostError, takes
from envs_jax.rendering import FORMATS, SIZE, save, scenes
from envs_jax.rollout import Episodes, play
from mamt_jax.cli.compilation_cache import use_compilation_cache
from mamt_jax.cli.parser import Parser
from mamt_jax.options import OptionError
from mamt_jax.training.best import describe_latest
from mamt_jax.training.checkpoint import CheckpointError
from mamt_jax.training.experiment import Experiment, experiment_from_json, make_env
from mamt_jax.training.films import film_episode, film_on_host
from mamt_jax.training.policies import Policy, Which, acting, export_policy, load_policy, pretrained_folder
from mamt_jax.training.references import Reference, read_references
from mamt_jax.training.run_folder import METRICS, FolderError, read_config, read_rows

EPISODES, ABSOLUTE = 100, 10


def in_original(experiment: Experiment, spec: EnvSpec, policy: Policy, sample: bool) -> Callable[[int, int], np.ndarray]:
    """Makes a function that plays the policy in the original environment.

    Returns:
        (episodes, seed) -> (episodes,) returns, mean over agents.

    Raises:
        ValueError: if the environment has no original.
    """
    from envs_jax.adapters.originals import make_original
    from envs_jax.adapters.policy_in_pettingzoo import episode_returns, parallel_actor

    original = make_original(experiment.env_name, **experiment.env_options)

    def play_original(episodes: int, seed: int) -> np.ndarray:
        shares = [1] * episodes if takes(policy, "hidden_state") else [episodes]  # an actor remembers one episode
        seeds = [seed + number for number in range(len(shares))]
        actors = (parallel_actor(policy, spec, each if sample else None) for each in seeds)
        played = zip(actors, shares, seeds, strict=True)
        return np.concatenate([episode_returns(original, *each, spec.episode_limit) for each in played])

    return play_original


def returns_of(played: Episodes) -> np.ndarray:
    """Return of each episode, mean over agents, (episodes,)."""
    return np.asarray(played.episode_return).mean(-1)


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean; nan for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan


def describe(returns: np.ndarray) -> str:
    """Formats the mean return with its standard error and the number of episodes."""
    return f"{returns.mean():.2f} ± {standard_error(returns):.2f} over {len(returns)} episodes"


def report(played: Episodes, sample: bool, references: Mapping[str, Reference]) -> str:
    """Formats the return, beside the reference returns, and the task metrics, one per line."""
    others = ", ".join(f"{name} {value}" for name, value in references.items())
    lines = [f"{'sampled' if sample else 'greedy'} return {describe(returns_of(played))} ({others})"]
    width = max(map(len, played.metrics), default=0)
    rows = [(name, values.mean(), standard_error(values)) for name, values in played.metrics.items()]
    return "\n".join(lines + [f"  {name:{width}}  {mean:.4g} ± {error:.2g}" for name, mean, error in rows])


def absolute(returns: Sequence[np.ndarray]) -> str:
    """Formats the absolute metric of each run and over runs. `returns` holds each best policy's episode returns."""
    lines = [f"absolute metric of run {number}: {describe(each)}" for number, each in enumerate(returns)]
    means = np.array([each.mean() for each in returns])
    if len(means) > 1:
        lines.append(f"mean over {len(means)} runs: {means.mean():.2f}, standard deviation {means.std(ddof=1):.2f}")
    return "\n".join(lines)


def check_picture(env: Environment | HostEnvironment, views: bool, size: int | None) -> None:
    """Raises ValueError unless `env` can be drawn, and with the `views` and in the `size` that are asked for."""
    if isinstance(env, HostEnvironment):
        if size is not None:
            raise OptionError(f"--size {size} is not valid: {env.spec.name} draws pictures of a fixed size. Leave out --size.")
        if env.with_pictures is None:
            raise OptionError(
                f"--gif is not valid: {env.spec.name} runs outside JAX and cannot draw pictures. Leave out --gif."
            )
        env.with_pictures().close()
    elif "views" in inspect.signature(scenes(env)).parameters:
        return
    if views:
        raise OptionError(f"--views is not valid: {env.spec.name} cannot show what agents see. Leave out --views.")


def make_parser() -> Parser:
    """The options of the command."""
    parser = Parser("mamt evaluate", "[FOLDER] [options]", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of a run of `mamt train`")
    parser.add_argument("--pretrained", metavar="ENV/ALGO", help="name of a policy in mamt_jax/pretrained, instead of a folder")
    parser.add_argument("--run", type=int, default=0, help="number of the run (default 0)")
    parser.add_argument("--policy", choices=get_args(Which), help="which policy of the run (default latest)")
    many = f"print the absolute metric: the return of each best policy over {ABSOLUTE} times the episodes of an evaluation"
    parser.add_argument("--absolute", action="store_true", help=many)
    parser.add_argument("--episodes", type=int, help=f"episodes to play for the return (default {EPISODES})")
    parser.add_argument("--seed", type=int, default=0, help="seed of starts, noise and sampled actions (default 0)")
    sample = "sample actions, or take the most likely actions (default: as in the evaluations during training)"
    parser.add_argument("--sample", action=argparse.BooleanOptionalAction, help=sample)
    parser.add_argument("--original", action="store_true", help="also play in the original environment")
    parser.add_argument("--gif", type=Path, help="write a film of one episode to this .gif or .mp4 file")
    parser.add_argument("--views", action="store_true", help="show in the film what agents see, if the environment supports it")
    parser.add_argument("--fps", type=float, help="frames per second of the film (default: the environment's own)")
    parser.add_argument("--size", type=int, help=f"longer side of the film in pixels (default {SIZE})")
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write the policy to FILE as StableHLO, which runs without mamt_jax"
    )
    return parser


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; raises OptionError if it is not valid."""
    values = make_parser().parse_args(arguments)
    if (values.folder is None) == (values.pretrained is None):
        raise OptionError("give either the folder of a run or --pretrained ENV/ALGO.")
    if values.pretrained:
        values.folder = pretrained_folder(values.pretrained)
    values.policy = values.policy or ("best" if values.pretrained or values.absolute else "latest")
    if values.absolute and values.policy != "best":
        raise OptionError(
            f"--policy {values.policy} is not valid with --absolute, which evaluates the best policies: leave out --policy."
        )
    if values.episodes is not None and values.episodes < 1:
        raise OptionError(f"--episodes {values.episodes} is not valid: give a whole number of at least 1.")
    if values.gif and values.gif.suffix not in FORMATS:
        raise OptionError(f"--gif {values.gif} is not valid: give a name that ends with {' or '.join(FORMATS)}.")
    if values.fps is not None and not 0.1 <= values.fps <= 100:
        raise OptionError(f"--fps {values.fps:g} is not valid: give a number from 0.1 to 100.")
    if values.size is not None and not 64 <= values.size <= 4096:
        raise OptionError(f"--size {values.size} is not valid: give a whole number from 64 to 4096.")
    if values.export and importlib.util.find_spec("flatbuffers") is None:
        raise OptionError("--export needs flatbuffers: install it with `pip install -e '.[export]'`.")
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        values = read_arguments(sys.argv[1:] if arguments is None else arguments)
        use_compilation_cache(None)
        evaluate(values)
    except (OptionError, FolderError, CheckpointError, HostError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(values: argparse.Namespace) -> None:
    """Plays the policies and prints their returns; writes the film and the export if asked for."""
    policy = load_policy(values.folder, values.run, values.policy)
    content = read_config(values.folder)
    experiment = experiment_from_json(content["experiment"])
    env = make_env(experiment)
    if values.sample is None:
        values.sample = experiment.training.evaluation_policy == "sampled"
    if values.gif:
        check_picture(env, values.views, values.size)
    play_original = in_original(experiment, env.spec, policy, values.sample) if values.original else None
    episodes = values.episodes or (ABSOLUTE * experiment.training.evaluation_episodes if values.absolute else EPISODES)

    def play_out(policy: Policy) -> Episodes:
        return play(env, acting(policy, values.sample), jax.random.key(values.seed), episodes)

    if values.policy == "best":
        runs = range(len(experiment.runs)) if values.absolute else [values.run]
        for sentence in describe_latest(read_rows(values.folder / METRICS), runs):
            print(sentence)
    if values.absolute:
        best = (load_policy(values.folder, run, "best") for run in range(len(experiment.runs)))
        print(absolute([returns_of(play_out(each)) for each in best]))
    else:
        print(report(play_out(policy), values.sample, read_references(content)))
    if play_original:
        print(f"return in the original environment {describe(play_original(episodes, values.seed))}")
    if values.gif:
        if isinstance(env, HostEnvironment):
            made = film_on_host(env, policy, values.sample, values.seed, values.fps)
        else:
            options = {
                "frames_per_second": values.fps,
                "size": values.size or SIZE,
                **({"views": True} if values.views else {}),
            }
            made = film_episode(env, policy, values.sample, jax.random.key(values.seed), **options)
        save(made.frames, values.gif, made.frames_per_second)
        print(f"Wrote {values.gif}")
    if values.export:
        values.export.write_bytes(export_policy(values.folder, values.run, values.policy, values.sample))
        masks = ["action_mask"] if env.spec.has_action_masks else []
        hidden = ["hidden_state"] if takes(policy, "hidden_state") else []
        arguments = ", ".join(["observation", *masks, *hidden, *(["numpy.uint32(seed)"] if values.sample else [])])
        shape = ("batch", env.spec.num_agents, env.spec.observation_size)
        call = f"jax.export.deserialize(file.read()).call({arguments})"
        print(f"Wrote {values.export}. Call it with {call}, where observation is float32 {shape}.")
