"""PettingZoo's parallel environments as environments that the host steps, in processes of their own."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pettingzoo import ParallelEnv

from envs_jax.adapters.codec import MASK, find_mask, is_masked, make_codec
from envs_jax.adapters.pettingzoo_checks import check_environment_type, check_reset
from envs_jax.adapters.pettingzoo_episodes import Episodes
from envs_jax.adapters.space_codec import SpaceError, flat_size, learning_space, native_space
from envs_jax.adapters.worker_processes import open_batch
from envs_jax.environment import Discrete, EnvSpec, HostEnvironment
from envs_jax.native_spaces import NativeDict, NativeSpace
from envs_jax.validation import one_line, require_count

MakeEnv = Callable[..., ParallelEnv]


def from_pettingzoo(
    make_env: MakeEnv, episode_limit: int, metrics: Sequence[str] = (), processes: int | None = None
) -> HostEnvironment:
    """Any PettingZoo parallel environment as one that `mamt train` trains in.

    Spaces:

    - Observations are flattened as by `gymnasium.spaces.utils.flatten` and zero-padded to the widest agent.
    - Actions are Discrete, MultiDiscrete, MultiBinary or a Box with bounds. MultiDiscrete and MultiBinary become one Discrete
      over all combinations. A Box with bounds of several sizes becomes one from -1 to 1. An integer Box gives each integer an
      equal part of the interval.
    - `action_mask` in an observation dict, or in the infos from reset on, says which actions are allowed. In an observation
      dict it is not observed.

    Episodes, of which the environment has to show the following:

    - `agents` lists, after reset and each step, the agents that act in the next step. It may be any of `possible_agents`:
      agents may leave early and may appear, or appear again, during an episode.
    - An agent leaves in a step that terminates or truncates it. If it stays in `agents` all the same, it has ended until it
      has left them.
    - An episode is over when all agents have ended, whether or not `agents` is empty then. It is truncated if one of them was
      truncated in its last step, and after `episode_limit` steps in any case.
    - An agent that was truncated in the last step must have an observation of that step, as must all agents that act next.
      An agent that is truncated while others go on counts as terminated.
    - An agent that does not act observes zeros and counts as terminated.
    - `reset(seed=...)` gets a seed for every episode, derived from the environment's first seed and the episode's number.

    What contradicts this raises HostError with one sentence in the step that shows it; `check_pettingzoo` says it beforehand.

    Args:
        make_env: () -> ParallelEnv, called in each process; it is sent there by cloudpickle. For films it is called with
            `render_mode="rgb_array"`, if it takes a `render_mode`.
        episode_limit: steps after which an episode is truncated, if it is not over before.
        metrics: names of numbers in the agents' `infos` that are reported as task metrics, their mean over agents.
        processes: processes to share out the environments among, the CPU cores if None.

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
        spec = pettingzoo_spec(env, episode_limit)
    finally:
        _close(env)
    batch = partial(open_batch, make_env, spec, tuple(metrics), processes or os.cpu_count() or 1)
    return HostEnvironment(spec, batch, tuple(metrics), partial(_with_pictures, make_env))


def check_pettingzoo(env: ParallelEnv, episode_limit: int = 1000, metrics: Sequence[str] = ()) -> None:
    """Inspects the spaces of an environment, its first reset and its first step under the first action of each agent.

    Training inspects the same. `env` is reset and stepped, and not closed.

    Args:
        env: to inspect.
        episode_limit: as in `from_pettingzoo`.
        metrics: as in `from_pettingzoo`.

    Raises:
        ValueError: with one sentence that says what is wrong: which agent, what is expected, and what there is.
    """
    spec = pettingzoo_spec(env, episode_limit)
    episodes = Episodes(env, make_codec(spec), tuple(metrics))
    allowed = episodes.reset(0)["action_mask"]
    actions = allowed.argmax(-1)
    if not spec.discrete:
        actions = allowed * 0.0
    episodes.step(actions)


def pettingzoo_spec(env: ParallelEnv, episode_limit: int) -> EnvSpec:
    """What is fixed about `env`, which may be reset to see whether its infos have action masks; raises SpaceError."""
    check_environment_type(env)
    agents = tuple(env.possible_agents)
    described = [_describe(env, agent) for agent in agents]
    own = tuple(learning_space(action) for _, action in described)
    if len({type(space) for space in own}) > 1:
        raise SpaceError("Some agents have discrete actions and others a Box, which is not valid: all must be of one kind.")
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
    """An agent's spaces of observations and of actions; an action mask among the observations is told by the latter."""
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
        raise SpaceError(f"The observation space {space} of {agent} is not valid: it has nothing but an action_mask.")
    return NativeDict(*map(tuple, zip(*rest, strict=True))), _masked(action, True)


def _masked(action: NativeSpace, masked: bool) -> NativeSpace:
    return dataclasses.replace(action, masked=masked) if masked else action


def _masked_in_infos(env: ParallelEnv) -> set[str]:
    """The agents whose infos have an action mask after reset."""
    _, infos = check_reset(env.reset(seed=0))
    return {agent for agent in env.possible_agents if find_mask(None, infos.get(agent)) is not None}


def _with_pictures(make_env: MakeEnv) -> ParallelEnv:
    """The environment with render_mode "rgb_array"; raises ValueError if it has none."""
    parameters = inspect.signature(make_env).parameters.values()
    takes = any(each.name == "render_mode" or each.kind is each.VAR_KEYWORD for each in parameters)
    try:
        env = make_env(render_mode="rgb_array") if takes else make_env()
    except Exception as error:
        raise ValueError(f"The environment cannot be made with render_mode='rgb_array': {one_line(error)}.") from error
    if getattr(env, "render_mode", None) != "rgb_array":
        _close(env)
        raise ValueError(
            f"{type(env.unwrapped).__name__} draws no pictures, its render_mode is {getattr(env, 'render_mode', None)!r}: give "
            f"from_pettingzoo a make_env with the parameter render_mode, to be passed on to the environment."
        )
    return env


def _close(env: Any) -> None:
    with suppress(Exception):
        env.close()
