"""Converts PettingZoo's parallel environments to a `HostEnvironment`, which runs them in separate processes."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pettingzoo import ParallelEnv

from envs_jax.adapters.pettingzoo_episodes import Episodes, check_environment_type, check_reset
from envs_jax.adapters.space_codec import (
    MASK,
    SpaceError,
    find_mask,
    flat_size,
    is_masked,
    learning_space,
    make_codec,
    native_space,
)
from envs_jax.adapters.worker_processes import open_batch
from envs_jax.environment import Discrete, EnvSpec, HostEnvironment
from envs_jax.native_spaces import NativeDict, NativeSpace
from envs_jax.validation import one_line, require_count

MakeEnv = Callable[..., ParallelEnv]


def from_pettingzoo(
    make_env: MakeEnv,
    episode_limit: int,
    metrics: Sequence[str] = (),
    processes: int | None = None,
    last_metrics: Sequence[str] = (),
) -> HostEnvironment:
    """Converts a PettingZoo parallel environment to an environment for `mamt_jax.train`.

    Spaces:

    - Observations are flattened as by `gymnasium.spaces.utils.flatten` and zero-padded to the widest agent.
    - Actions are Discrete, MultiDiscrete, MultiBinary or a bounded Box. MultiDiscrete and MultiBinary become one Discrete over
      all combinations. A Box whose components differ in their bounds becomes a Box from -1 to 1. An integer Box divides the
      interval into equal parts, one per integer.
    - `action_mask` in an observation dict, or in the infos from reset on, says which actions are allowed. In an observation
      dict it is not a part of the flattened observation.

    Rules for episodes:

    - After reset and each step, `agents` lists the agents that act in the next step. They may be any of `possible_agents`:
      agents may leave early, and they may appear or return during an episode.
    - An agent leaves in a step that terminates or truncates it. If it stays in `agents`, it counts as ended until it leaves.
    - An episode is over when all agents have ended, even if `agents` is not empty. It is truncated if an agent was truncated in
      the last step, and if agents are still alive after `episode_limit` steps.
    - All agents that act next, and all agents that were truncated in the last step of an episode, must have an observation of
      that step. An agent that is truncated while others continue counts as terminated.
    - An agent that does not act observes zeros and counts as terminated.
    - `reset(seed=...)` receives a seed for every episode, derived from the environment's first seed and the episode's number.

    A violation raises HostError in the step that reveals it. `check_pettingzoo` checks the first step before
    training.

    Args:
        make_env: () -> ParallelEnv, sent to each process by cloudpickle and called there. For films it is called with
            `render_mode="rgb_array"`, if it has a parameter `render_mode`.
        episode_limit: number of steps after which an episode is truncated, if it is not over before.
        metrics: names of numbers in the agents' `infos` to report as task metrics, averaged over agents.
        processes: number of processes that share the environments; None for the number of CPU cores.
        last_metrics: those of `metrics` whose last value an episode reports, instead of the mean over its steps.

    Raises:
        ValueError: if an option or a space is not valid, or the environment is not a ParallelEnv.
    """
    require_count("episode_limit", episode_limit)
    if processes is not None:
        require_count("processes", processes)
    if not callable(make_env):
        raise ValueError(f"make_env={make_env!r} is not valid: give a function that makes the environment.")
    env = make_env()
    try:
        spec = dataclasses.replace(pettingzoo_spec(env, episode_limit), last_metrics=tuple(last_metrics))
    finally:
        _close(env)
    batch = partial(open_batch, make_env, spec, tuple(metrics), processes or os.cpu_count() or 1)
    return HostEnvironment(spec, batch, tuple(metrics), partial(_with_pictures, make_env))


def check_pettingzoo(env: ParallelEnv, episode_limit: int = 1000, metrics: Sequence[str] = ()) -> None:
    """Checks the spaces of an environment, its first reset, and its first step with the first allowed action of each agent.

    Training makes the same checks. `env` is reset and stepped, but not closed.

    Args:
        env: the environment to check.
        episode_limit: as in `from_pettingzoo`.
        metrics: as in `from_pettingzoo`.

    Raises:
        ValueError: if a check fails. The message names the agent, the expected value and the actual value.
    """
    spec = pettingzoo_spec(env, episode_limit)
    episodes = Episodes(env, make_codec(spec), tuple(metrics))
    allowed = episodes.reset(0)["action_mask"]
    actions = allowed.argmax(-1)
    if not spec.discrete:
        actions = allowed * 0.0
    episodes.step(actions)


def pettingzoo_spec(env: ParallelEnv, episode_limit: int) -> EnvSpec:
    """Makes the EnvSpec of `env`; raises SpaceError. It may reset `env` to look for action masks in the infos."""
    check_environment_type(env)
    agents = tuple(env.possible_agents)
    described = [_describe(env, agent) for agent in agents]
    own = tuple(learning_space(action) for _, action in described)
    if len({type(space) for space in own}) > 1:
        raise SpaceError(
            "The action spaces are not valid: some agents have discrete actions and others a Box. All must be of the same kind."
        )
    masked = {agent for agent, (_, action) in zip(agents, described, strict=True) if is_masked(action)}
    if isinstance(own[0], Discrete) and not masked:
        masked = _masked_in_infos(env)
    return EnvSpec(
        name=str(env.metadata.get("name", type(env.unwrapped).__name__)),
        agent_names=agents,
        observation_sizes=tuple(flat_size(observation) for observation, _ in described),
        action_spaces=own,
        episode_limit=episode_limit,
        has_action_masks=bool(masked),
        native_action_spaces=tuple(
            _masked(action, agent in masked) for agent, (_, action) in zip(agents, described, strict=True)
        ),
        native_observation_spaces=tuple(observation for observation, _ in described),
    )


def _describe(env: ParallelEnv, agent: str) -> tuple[NativeSpace, NativeSpace]:
    """Observation space and action space of an agent. A mask in the observation dict sets `masked` of the action space."""
    what, space = "observation", env.observation_space(agent)
    try:
        observation = native_space(space)
        what, space = "action", env.action_space(agent)
        action = native_space(space)
        own = learning_space(action)
    except SpaceError as error:
        raise SpaceError(f"The {what} space {space} of {agent} is not valid: {error}") from error
    if not (isinstance(own, Discrete) and isinstance(observation, NativeDict) and MASK in observation.keys):
        return observation, action
    rest = [(key, each) for key, each in zip(observation.keys, observation.spaces, strict=True) if key != MASK]
    if not rest:
        raise SpaceError(
            f"The observation space {space} of {agent} is not valid: it contains only an action_mask. Add an entry."
        )
    return NativeDict(*map(tuple, zip(*rest, strict=True))), _masked(action, True)


def _masked(action: NativeSpace, masked: bool) -> NativeSpace:
    return dataclasses.replace(action, masked=masked) if masked else action


def _masked_in_infos(env: ParallelEnv) -> set[str]:
    """Agents whose infos have an action mask after reset."""
    _, infos = check_reset(env.reset(seed=0))
    return {agent for agent in env.possible_agents if find_mask(None, infos.get(agent)) is not None}


def _with_pictures(make_env: MakeEnv) -> ParallelEnv:
    """Makes the environment with render_mode "rgb_array"; raises ValueError if it does not support that."""
    parameters = inspect.signature(make_env).parameters.values()
    takes = any(each.name == "render_mode" or each.kind is each.VAR_KEYWORD for each in parameters)
    try:
        env = make_env(render_mode="rgb_array") if takes else make_env()
    except Exception as error:
        raise ValueError(f"The environment cannot be made with render_mode='rgb_array': {one_line(error)}.") from error
    if getattr(env, "render_mode", None) != "rgb_array":
        _close(env)
        raise ValueError(
            f"{type(env.unwrapped).__name__} has render_mode={getattr(env, 'render_mode', None)!r}, but pictures need "
            f"'rgb_array'. Give from_pettingzoo a make_env that has a parameter render_mode and passes it to the environment."
        )
    return env


def _close(env: Any) -> None:
    with suppress(Exception):
        env.close()
