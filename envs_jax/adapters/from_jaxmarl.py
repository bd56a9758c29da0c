"""Converts JaxMARL environments to an `Environment`, whose functions remain pure and compile like built-in ones."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import jaxmarl
import numpy as np
from jaxmarl.environments import (
    SMAX,
    CoinGame,
    Hanabi,
    HeuristicEnemySMAX,
    JaxNav,
    LearnedPolicyEnemySMAX,
    MultiAgentEnv,
    Overcooked,
    OvercookedV2,
    SimpleMPE,
    SwitchRiddle,
    spaces,
)

from envs_jax.adapters.space_codec import SpaceError, is_rescaled, learning_space, native_box
from envs_jax.environment import Box, Discrete, Environment, EnvironmentFactory, EnvSpec, TimeStep, make_timestep
from envs_jax.native_spaces import NativeBox, NativeDiscrete, NativeMultiDiscrete, NativeSpace
from envs_jax.validation import nearest, one_line, require_count


@flax.struct.dataclass
class JaxMARLState:
    """State of a converted environment.

    Attributes:
        inner: JaxMARL's state.
        ended: (n,) bool, agents whose task has ended.
        step: () int32.
    """

    inner: Any
    ended: jax.Array
    step: jax.Array


def find_factory(name: str) -> EnvironmentFactory:
    """Returns the factory of the environment that `jaxmarl.make` calls `name`; raises ValueError if there is none."""
    names = jaxmarl.registered_envs
    if name not in names:
        some = ", ".join([*names[:9], "switch_riddle", "SMAX", "hanabi", "overcooked_v2", "coin_game"])
        raise ValueError(f"JaxMARL has no environment {name!r}{nearest(name, names)}. Some of its environments are {some}.")

    def factory(episode_limit: int | None = None, options: dict | None = None) -> Environment:
        """Builds the environment.

        Args:
            episode_limit: number of steps after which an episode is truncated. None means the limit of JaxMARL.
            options: keyword arguments of jaxmarl.make, such as {'num_agents': 5}.
        """
        try:
            inner = jaxmarl.make(name, **({} if options is None else options))
        except Exception as error:
            raise ValueError(f"JaxMARL cannot make {name!r} with options={options!r}: {one_line(error)}.") from error
        env = from_jaxmarl(inner, episode_limit)
        return env._replace(spec=dataclasses.replace(env.spec, name=f"jaxmarl/{name}"))

    return factory


def from_jaxmarl(env: MultiAgentEnv, episode_limit: int | None = None) -> Environment:
    """Converts a JaxMARL environment to an `Environment`, with arrays over agents instead of dicts.

    - Observations are flattened and zero-padded to the widest agent.
    - Actions are all discrete or all boxes. A MultiDiscrete action becomes one Discrete over all combinations. A Box whose
      components differ in their bounds becomes a Box from -1 to 1.
    - JaxMARL's `dones` do not distinguish termination from truncation. An episode that ends in the step of its time limit is
      truncated. An episode that ends earlier is terminated.
    - The MPE environments and SMAX test the time limit before they count the step. Their max_steps=25 is 26 steps here.
    - Dead agents stay, with their observations.
    - The noise of a step is the key of JaxMARL's `step_env`.

    Args:
        env: a JaxMARL environment, not wrapped.
        episode_limit: number of steps after which an episode is truncated; None for the environment's own limit.

    Raises:
        ValueError: if `episode_limit` is not a positive integer, exceeds the environment's own limit, or is None and that limit
            is unknown; if there is not one observation per agent; if an action space is not supported.
    """
    spec = _make_spec(env, episode_limit)
    legal_actions = _legal_actions(env, spec)
    spec = dataclasses.replace(spec, has_action_masks=legal_actions is not None)
    own_actions = [_decoder(_native_space(env, agent)) for agent in env.agents]

    def look(inner: Any, observations: dict[str, jax.Array]) -> TimeStep:
        rows = [jnp.ravel(observations[agent]).astype(jnp.float32) for agent in env.agents]
        action_mask = _padded(legal_actions(inner), spec.action_size) if legal_actions else None
        return make_timestep(spec, _padded(rows, spec.observation_size), action_mask=action_mask)

    def reset(key: jax.Array) -> tuple[JaxMARLState, TimeStep]:
        observations, inner = env.reset(key)
        state = JaxMARLState(inner, ended=jnp.zeros(spec.num_agents, bool), step=jnp.zeros((), jnp.int32))
        return state, look(inner, observations)

    def transition(state: JaxMARLState, action: jax.Array, noise: jax.Array) -> tuple[JaxMARLState, TimeStep]:
        actions = {agent: own_actions[i](action[i]) for i, agent in enumerate(env.agents)}
        observations, inner, rewards, dones, _ = env.step_env(noise, state.inner, actions)
        step, over = state.step + 1, dones["__all__"]
        truncated = step >= spec.episode_limit
        ended = jnp.where(truncated & over, state.ended, _over_agents(env, dones, bool) | over)
        reward = _over_agents(env, rewards, jnp.float32)
        timestep = look(inner, observations)._replace(reward=reward, terminated=ended, truncated=truncated)
        return JaxMARLState(inner, ended, step), timestep

    return Environment(spec, reset, transition, sample_noise=lambda key, state: key)


def _make_spec(env: MultiAgentEnv, episode_limit: int | None) -> EnvSpec:
    try:
        shapes = jax.eval_shape(env.reset, jax.random.key(0))[0]
    except Exception as error:
        raise ValueError(f"{env.name} cannot be converted: its reset raises an error: {one_line(error)}.") from error
    if not (isinstance(shapes, dict) and set(env.agents) <= set(shapes)):
        raise ValueError(
            f"{env.name} cannot be converted: its reset must return a dict with an array for each of {env.agents}."
        )
    observed = [shapes[agent] for agent in env.agents]
    dtype = np.result_type(*[each.dtype for each in observed])
    action_spaces = tuple(_action_space(env, agent) for agent in env.agents)
    if len({type(space) for space in action_spaces}) > 1:
        raise ValueError(
            f"{env.name} cannot be converted: some agents have discrete actions and others a Box. All must be of the same kind."
        )
    return EnvSpec(
        name=env.name,
        agent_names=tuple(env.agents),
        observation_sizes=tuple(math.prod(each.shape) for each in observed),
        action_spaces=action_spaces,
        episode_limit=_episode_limit(env, episode_limit),
        observation_dtype=dtype.name if dtype.itemsize == 1 else "float32",
    )


def _action_space(env: MultiAgentEnv, agent: str) -> Discrete | Box:
    try:
        own = learning_space(_native_space(env, agent))
    except SpaceError as error:
        kind = type(env.action_space(agent)).__name__
        raise ValueError(
            f"{env.name} cannot be converted, because the action space {kind} of {agent} is not valid: {error}"
        ) from error
    return dataclasses.replace(own, idle=_idle(env)) if isinstance(own, Discrete) else own


def _native_space(env: MultiAgentEnv, agent: str) -> NativeSpace:
    space = env.action_space(agent)
    if isinstance(space, spaces.Discrete):
        return NativeDiscrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        nvec = tuple(np.asarray(space.num_categories).tolist())
        return NativeMultiDiscrete(tuple(space.shape), nvec, (0,) * len(nvec), "int32")
    if isinstance(space, spaces.Box):
        return native_box(space.shape, np.dtype(space.dtype), space.low, space.high)
    raise SpaceError("it must be Discrete, MultiDiscrete, or a Box with bounds.")


def _decoder(space: NativeSpace) -> Callable[[jax.Array], jax.Array]:
    """JAX version of `space_codec.decoder`: returns a function from a padded action to the environment's own action."""
    if isinstance(space, NativeMultiDiscrete):
        return lambda action: jnp.stack(jnp.unravel_index(action, space.nvec)).astype(jnp.int32)
    if not isinstance(space, NativeBox):
        return lambda action: action
    own = learning_space(space)
    assert isinstance(own, Box)
    low, high = (jnp.asarray(bound, jnp.float32) for bound in (space.low, space.high))
    dtype = np.dtype(space.dtype)

    def decode(action: jax.Array) -> jax.Array:
        share = (action[: own.size] - own.low) / (own.high - own.low)
        if dtype.kind in "biu":
            value = low + jnp.clip(jnp.floor(share * (high - low + 1)), 0, high - low)
        else:
            value = low * (1 - share) + high * share if is_rescaled(space) else action[: own.size]
        return value.astype(dtype).reshape(space.shape)

    return decode


def _idle(env: MultiAgentEnv) -> int:
    """The action that does nothing, or 0 if there is none."""
    match env:
        case SMAX() | HeuristicEnemySMAX() | LearnedPolicyEnemySMAX() | CoinGame() | Overcooked() | OvercookedV2():
            return 4
        case Hanabi():
            return int(env.num_moves) - 1
        case JaxNav():
            return 2
    return 0


def _own_limit(env: MultiAgentEnv) -> int | None:
    """Number of steps after which JaxMARL ends an episode, or None if that is unknown."""
    match env:
        case SimpleMPE() | SMAX() | HeuristicEnemySMAX() | LearnedPolicyEnemySMAX():
            return env.max_steps + 1
        case SwitchRiddle() | Overcooked() | OvercookedV2() | JaxNav():
            return env.max_steps
        case CoinGame():
            return env.num_inner_steps * env.num_outer_steps
    return None


def _episode_limit(env: MultiAgentEnv, asked: int | None) -> int:
    own = _own_limit(env)
    limit = own if asked is None else asked
    if limit is None:
        raise ValueError(f"episode_limit=None is not valid: {env.name} does not declare a time limit. Give a number of steps.")
    require_count("episode_limit", limit)
    if own is not None and limit > own:
        raise ValueError(
            f"episode_limit={limit} is not valid: {env.name} ends its episodes after {own} steps. Give at most {own}, or "
            f"increase the limit of {env.name} itself."
        )
    return limit


def _legal_actions(env: MultiAgentEnv, spec: EnvSpec) -> Callable[[Any], list[jax.Array]] | None:
    """Returns a function from a state to the allowed actions of each agent, (number of its actions,) bool.

    Returns None if the environment does not mask actions. If a mask allows no action, all are allowed. In Hanabi this happens
    for all agents when the game is over.
    """
    if not spec.discrete:
        return None
    known = getattr(env, "get_legal_moves", env.get_avail_actions)  # only Hanabi has get_legal_moves

    def legal_actions(inner: Any) -> list[jax.Array]:
        legal = known(inner)
        rows = [legal[agent].astype(bool) for agent in env.agents]
        return [row | ~row.any() for row in rows]

    try:
        shapes = jax.eval_shape(lambda key: legal_actions(env.reset(key)[1]), jax.random.key(0))
    except NotImplementedError:
        return None
    fits = [each.shape for each in shapes] == [(size,) for size in spec.action_sizes]
    return legal_actions if fits else None  # JaxNav masks two actions but has fifteen


def _over_agents(env: MultiAgentEnv, values: dict[str, jax.Array], dtype: Any) -> jax.Array:
    """Stacks one scalar per agent, (n,)."""
    return jnp.stack([jnp.asarray(values[agent], dtype).reshape(()) for agent in env.agents])


def _padded(rows: list[jax.Array], width: int) -> jax.Array:
    """Stacks rows into (n, width), padded with zero or False."""
    return jnp.stack([jnp.pad(row, (0, width - row.size)) for row in rows])
