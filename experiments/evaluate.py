"""Plays what a run has learnt: its return, and a film of one episode.

python experiments/evaluate.py runs/NAME --gif film.gif
python experiments/evaluate.py runs/NAME --original
"""

import argparse
import inspect
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, os.getcwd())
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax import registry as environments
from envs_jax.environment import Environment, EnvSpec, EnvState, HostEnvironment, HostError
from envs_jax.host import play_episodes
from envs_jax.rendering import FORMATS, frames, save, scenes
from experiments.compilation_cache import use_compilation_cache
from experiments.options import OptionError, Parser
from mamt_jax.training.checkpoint import CheckpointError
from mamt_jax.training.experiment import Experiment, experiment_from_json
from mamt_jax.training.load_policy import Policy, load_policy
from mamt_jax.training.writers import FolderError, read_config

HOST_ENVS = 12


class Episode(NamedTuple):
    """One episode, padded to the episode limit.

    Attributes:
        state: T + 1 states, the first one included.
        reward: (T, n).
        playing: (T,) bool, whether the step still belonged to the episode.
    """

    state: EnvState
    reward: jax.Array
    playing: jax.Array


def play(env: Environment, policy: Policy, sample: bool, key: jax.Array) -> Episode:
    """One episode of `env` under `policy`."""
    reset_key, steps_key = jax.random.split(key)
    first, timestep = env.reset(reset_key)

    def step(carry: tuple[EnvState, jax.Array, jax.Array], number: jax.Array) -> tuple[tuple, tuple]:
        state, observation, playing = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(steps_key, number))
        action = policy(observation, act_key) if sample else policy(observation)
        state, timestep = env.step(env_key, state, action)
        return (state, timestep.observation, playing & ~timestep.done), (state, timestep.reward, playing)

    carry = (first, timestep.observation, jnp.ones((), bool))
    _, (later, reward, playing) = jax.lax.scan(step, carry, jnp.arange(env.spec.episode_limit))
    state = jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, later)
    return Episode(state, reward, playing)


def mean_returns(env: Environment, policy: Policy, sample: bool, key: jax.Array, episodes: int) -> np.ndarray:
    """(episodes,): the sum of rewards, mean over agents."""

    def one(key: jax.Array) -> jax.Array:
        episode = play(env, policy, sample, key)
        return jnp.where(episode.playing[:, None], episode.reward, 0.0).sum(0).mean()

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, episodes)))


def host_returns(env: HostEnvironment, policy: Policy, sample: bool, seed: int, episodes: int) -> np.ndarray:
    """`mean_returns` in processes, of as many episodes or a few more."""
    num_envs, key = min(episodes, HOST_ENVS), jax.random.key(seed)

    def act(observation: np.ndarray, step: int) -> np.ndarray:
        return np.asarray(policy(observation, jax.random.fold_in(key, step)) if sample else policy(observation))

    seeds, batch = np.random.SeedSequence(seed).generate_state(num_envs), env.open(num_envs)
    try:
        played = play_episodes(batch, act, seeds, math.ceil(episodes / num_envs))
    finally:
        batch.close()
    return played.episode_return.mean(-1).ravel()


def in_original(experiment: Experiment, spec: EnvSpec, policy: Policy, sample: bool) -> Callable[[int, int], np.ndarray]:
    """(episodes, seed) -> `mean_returns` in the environment that ours copies; raises ValueError if there is none."""
    from envs_jax.adapters.originals import make_original
    from envs_jax.adapters.policy_in_pettingzoo import episode_returns, parallel_actor

    original = make_original(experiment.env, **experiment.env_options)

    def play_original(episodes: int, seed: int) -> np.ndarray:
        return episode_returns(original, parallel_actor(policy, spec, seed if sample else None), episodes, seed)

    return play_original


def describe(returns: np.ndarray) -> str:
    """Mean and standard error."""
    error = returns.std(ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else np.nan
    return f"{returns.mean():.2f} ± {error:.2f} over {len(returns)} episodes"


def film(env: Environment, policy: Policy, sample: bool, key: jax.Array, options: dict[str, Any]) -> np.ndarray:
    """Frames of one episode, its last state included."""
    episode = jax.device_get(jax.jit(lambda key: play(env, policy, sample, key))(key))
    length = int(episode.playing.sum()) + 1
    return frames(env, jax.tree.map(lambda leaf: leaf[:length], episode.state), **options)


def check_picture(env: Environment | HostEnvironment, views: bool) -> None:
    """Raises ValueError unless `env` can be drawn, with views if asked for."""
    if isinstance(env, HostEnvironment):
        raise OptionError(f"--gif: {env.spec.name} runs outside JAX and draws itself, leave it out.")
    options = inspect.signature(scenes(env)).parameters
    if views and "views" not in options:
        raise OptionError(f"--views: {env.spec.name} has none to show, leave it out.")


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """What was typed; raises OptionError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of a run of experiments/run.py")
    parser.add_argument("--run", type=int, default=0, help="which of its runs (default 0)")
    parser.add_argument("--episodes", type=int, default=100, help="episodes to play for the return (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of starts, noise and sampled actions (default 0)")
    parser.add_argument("--sample", action="store_true", help="sample actions instead of taking the most likely")
    parser.add_argument("--original", action="store_true", help="play in the environment that ours copies, too")
    parser.add_argument("--gif", type=Path, help="film of one episode to write, a .gif or .mp4")
    parser.add_argument("--views", action="store_true", help="show in the film what agents see, where an environment can")
    values = parser.parse_args(arguments)
    if values.episodes < 1:
        raise OptionError(f"--episodes {values.episodes} is not valid: give a whole number of at least 1.")
    if values.gif and values.gif.suffix not in FORMATS:
        raise OptionError(f"--gif {values.gif} is not valid: give a name that ends with {' or '.join(FORMATS)}.")
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    try:
        values = read_arguments(sys.argv[1:] if arguments is None else arguments)
        use_compilation_cache(None)
        policy = load_policy(values.folder, values.run)
        content = read_config(Path(values.folder))
        experiment = experiment_from_json(content["experiment"])
        env = environments.make_any(experiment.env, **experiment.env_options)
        if values.gif:
            check_picture(env, values.views)
        play_original = in_original(experiment, env.spec, policy, values.sample) if values.original else None
        key = jax.random.key(values.seed)
        if isinstance(env, HostEnvironment):
            returns = host_returns(env, policy, values.sample, values.seed, values.episodes)
        else:
            returns = mean_returns(env, policy, values.sample, key, values.episodes)
        others = ", ".join(f"{name} {value:.1f}" for name, value in content.get("references", {}).items())
        kind = "sampled" if values.sample else "greedy"
        print(f"{kind} return {describe(returns)} ({others})")
        if play_original:
            print(f"in the original {describe(play_original(values.episodes, values.seed))}")
        if values.gif and isinstance(env, Environment):
            save(film(env, policy, values.sample, key, {"views": True} if values.views else {}), values.gif)
            print(f"wrote {values.gif}")
    except (OptionError, FolderError, CheckpointError, HostError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
