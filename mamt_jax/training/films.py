"""Films of policies, each of one episode."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from envs_jax.environment import Environment, EnvState, HostEnvironment, TimeStep
from envs_jax.rendering import Film, film, save
from envs_jax.rollout import rollout
from mamt_jax.training.experiment import Built, Experiment
from mamt_jax.training.policies import Policy, acting, load_learner_states, make_policy
from mamt_jax.training.run_folder import FILMS
from mamt_jax.types import Config, LearnerState


def film_best(experiment: Experiment, built: Built, folder: Path) -> Iterator[tuple[int, Path]]:
    """Films one episode of the best policy for each of a folder's first runs, as `mamt evaluate --policy best --gif` does.

    All runs share one compiled program. Environments without a `scene` and environments outside JAX have no films.

    Args:
        experiment: the experiment that was trained.
        built: the objects that it describes.
        folder: folder of the results, to which the films are written.

    Yields:
        The number of a run and the path of its GIF file, which has been written.
    """
    env, algorithm = built.env, built.algorithm
    if isinstance(env, HostEnvironment) or env.scene is None:
        return
    sample = experiment.training.evaluation_policy == "sampled"

    @jax.jit
    def play_out(config: Config, learner_state: LearnerState, key: jax.Array) -> tuple[EnvState, TimeStep]:
        policy = make_policy(algorithm, config, learner_state, env.spec)
        return rollout(env, acting(policy, sample), key, env.spec.episode_limit)

    best = load_learner_states(folder, "best", algorithm, built.configs)
    for run, (config, name) in enumerate(zip(built.configs, FILMS, strict=False)):
        learner_state = jax.tree.map(lambda leaf, run=run: leaf[run], best)
        made = film(env, first_episode(*play_out(config, learner_state, jax.random.key(0))))
        save(made.frames, folder / name, made.frames_per_second)
        yield run, folder / name


def film_episode(env: Environment, policy: Policy, sample: bool, key: jax.Array, **options: Any) -> Film:
    """Films one episode, including its last state."""
    play_out = jax.jit(lambda key: rollout(env, acting(policy, sample), key, env.spec.episode_limit))
    return film(env, first_episode(*play_out(key)), **options)


def first_episode(states: EnvState, timesteps: TimeStep) -> EnvState:
    """The states of a rollout up to the end of its first episode, on the host."""
    states, done = jax.device_get((states, timesteps.done))
    length = int(done.argmax()) + 1 if done.any() else len(done)
    return jax.tree.map(lambda leaf: leaf[:length], states)


def film_on_host(env: HostEnvironment, policy: Policy, sample: bool, seed: int, fps: float | None) -> Film:
    """Films one episode with the environment's own pictures, at its own frame rate unless `fps` is given."""
    from envs_jax.adapters.policy_in_pettingzoo import episode_pictures, parallel_actor

    assert env.with_pictures
    drawn = env.with_pictures()
    try:
        act = parallel_actor(policy, env.spec, seed if sample else None)
        pictures = episode_pictures(drawn, act, seed, env.spec.episode_limit)
        return Film(pictures, fps or float(drawn.metadata.get("render_fps", 10)))
    finally:
        drawn.close()
