"""Spread (Lowe et al., 2017) as in mpe2's simple_spread_v3, and the three Spread-3 variants of MAMT's App. F."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Box, Discrete, Environment, EnvSpec, Noise, TimeStep, make_timestep
from envs_jax.particle.steering import assign, look_ahead
from envs_jax.particle.world import contact_force, distances, integrate
from envs_jax.scene import INK, Scene, arena, colour, shape_at
from envs_jax.validation import require_count, require_share, require_size, require_switch

AGENT_RADIUS = 0.15
COVER_RADIUS = 0.1
FORCE = 5.0
NUM_ACTIONS = 5
COAST_STEPS = 4

Reward = Callable[[jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class SpreadState:
    """State of Spread.

    Attributes:
        agent_position: (n, 2).
        agent_velocity: (n, 2).
        landmark_position: (n, 2).
        step: () int32.
    """

    agent_position: jax.Array
    agent_velocity: jax.Array
    landmark_position: jax.Array
    step: jax.Array


class Scenario(NamedTuple):
    """Properties in which the Spread environments differ.

    Attributes:
        spec: the environment's spec.
        collides: (n, n) bool, which pairs of agents collide. These are the pairs that depend on each other.
        reward: (distances of agents to landmarks (n, n), touches (n, n) bool) -> (n,).
        position_first: whether the order of integration is that of mpe2; otherwise it is that of the original MPE.
        assign: (agent_position, landmark_position) -> (n,), the landmark of each agent in the scripted policy.
    """

    spec: EnvSpec
    collides: np.ndarray
    reward: Reward
    position_first: bool
    assign: Callable[[jax.Array, jax.Array], jax.Array]


def _others(n: int) -> np.ndarray:
    """Indices of the other agents in ascending order, (n, n - 1)."""
    index = np.arange(n - 1)[None, :]
    return index + (index >= np.arange(n)[:, None])


def observe(state: SpreadState) -> jax.Array:
    """Observations of all agents, (n, 6 n), in the order that `spread` describes."""
    position = state.agent_position
    n = position.shape[0]
    to_landmarks = state.landmark_position[None, :, :] - position[:, None, :]
    to_others = position[_others(n)] - position[:, None, :]
    messages = jnp.zeros((n, 2 * (n - 1)), position.dtype)  # mpe2 also observes messages, which are always zero
    parts = [state.agent_velocity, position, to_landmarks.reshape(n, -1), to_others.reshape(n, -1), messages]
    return jnp.concatenate(parts, axis=-1)


def _touches(position: jax.Array, collides: np.ndarray) -> jax.Array:
    return (distances(position, position) < 2 * AGENT_RADIUS) & jnp.asarray(collides)


def _timestep(scenario: Scenario, state: SpreadState, stepped: bool) -> TimeStep:
    distance = distances(state.agent_position, state.landmark_position)
    touches = _touches(state.agent_position, scenario.collides)
    dtype = distance.dtype
    return make_timestep(
        scenario.spec,
        observe(state),
        reward=scenario.reward(distance, touches) if stepped else None,
        truncated=state.step >= scenario.spec.episode_limit,
        metrics={
            "landmarks_covered": (distance.min(0) < COVER_RADIUS).astype(dtype).mean(),
            "collisions": touches.astype(dtype).sum(1).mean(),
        },
    )


def _reset(key: jax.Array, scenario: Scenario) -> tuple[SpreadState, TimeStep]:
    n = scenario.spec.num_agents
    agent_position, landmark_position = jax.random.uniform(key, (2, n, 2), minval=-1.0, maxval=1.0)
    state = SpreadState(agent_position, jnp.zeros_like(agent_position), landmark_position, jnp.zeros((), jnp.int32))
    return state, _timestep(scenario, state, stepped=False)


def _control(action: jax.Array, discrete: bool, dtype: jnp.dtype) -> jax.Array:
    """Direction of the push, (n, 2). An integer action counts as its one-hot vector."""
    vector = jax.nn.one_hot(action, NUM_ACTIONS, dtype=dtype) if discrete else jnp.clip(action, 0.0, 1.0)
    _, left, right, down, up = jnp.moveaxis(vector, -1, 0)
    return jnp.stack([right - left, up - down], axis=-1).astype(dtype)


def _transition(state: SpreadState, action: jax.Array, noise: Noise, scenario: Scenario) -> tuple[SpreadState, TimeStep]:
    del noise
    control = _control(action, scenario.spec.discrete, state.agent_position.dtype)
    force = FORCE * control + contact_force(state.agent_position, AGENT_RADIUS, jnp.asarray(scenario.collides))
    position, velocity = integrate(state.agent_position, state.agent_velocity, force, scenario.position_first)
    state = dataclasses.replace(state, agent_position=position, agent_velocity=velocity, step=state.step + 1)
    return state, _timestep(scenario, state, stepped=True)


def _scripted(key: jax.Array, state: SpreadState, scenario: Scenario) -> jax.Array:
    del key
    target = state.landmark_position[scenario.assign(state.agent_position, state.landmark_position)]
    forces = FORCE * _control(jnp.arange(NUM_ACTIONS), True, target.dtype)
    move = functools.partial(integrate, position_first=scenario.position_first)
    action = look_ahead(move, state.agent_position, state.agent_velocity, target, forces, COAST_STEPS)
    return action if scenario.spec.discrete else jax.nn.one_hot(action, NUM_ACTIONS)


def _scene(state: SpreadState) -> Scene:
    landmarks = [shape_at("ring", position, COVER_RADIUS, INK) for position in state.landmark_position]
    agents = [shape_at("disc", at, AGENT_RADIUS, colour(i), str(i)) for i, at in enumerate(state.agent_position)]
    return arena(f"step {state.step}", [*agents, *landmarks])


def _environment(
    name: str,
    collides: np.ndarray,
    reward: Reward,
    assign: Callable[[jax.Array, jax.Array], jax.Array],
    episode_limit: int,
    position_first: bool,
    continuous_actions: bool,
) -> Environment:
    require_count("episode_limit", episode_limit)
    require_switch("position_first", position_first)
    require_switch("continuous_actions", continuous_actions)
    n = len(collides)
    spec = EnvSpec(
        name=name,
        agent_names=tuple(f"agent_{i}" for i in range(n)),
        observation_sizes=(6 * n,) * n,
        action_spaces=(Box(NUM_ACTIONS, 0.0, 1.0) if continuous_actions else Discrete(NUM_ACTIONS),) * n,
        episode_limit=episode_limit,
    )
    scenario = Scenario(spec, collides, reward, position_first, assign)
    return Environment(
        spec=spec,
        reset=functools.partial(_reset, scenario=scenario),
        transition=functools.partial(_transition, scenario=scenario),
        scripted=functools.partial(_scripted, scenario=scenario),
        scene=_scene,
        dependence=lambda state: jnp.asarray(collides),
    )


def _stay(agent_position: jax.Array, landmark_position: jax.Array) -> jax.Array:
    """Assigns landmark m to agent m."""
    del landmark_position
    return jnp.arange(agent_position.shape[0])


def _assign_ends(agent_position: jax.Array, landmark_position: jax.Array) -> jax.Array:
    """Assigns landmark 1 to agent 1, and landmarks 0 and 2 to agents 0 and 2 with the least total distance."""
    first, last = 2 * assign(agent_position[::2], landmark_position[::2])
    return jnp.stack([first, jnp.ones_like(first), last])


def shared_reward(distance: jax.Array, touches: jax.Array, local_ratio: float) -> jax.Array:
    """Reward of mpe2, (n,): (1 - local_ratio) times a shared distance term plus local_ratio times a collision term.

    The distance term is minus the sum over landmarks of the nearest agent's distance. The collision term is minus the number of
    agents that an agent touches.

    Args:
        distance: (n, m), distances of agents to landmarks.
        touches: (n, n) bool.
        local_ratio: weight of the collision term.
    """
    return (1 - local_ratio) * -distance.min(0).sum() - local_ratio * touches.sum(1).astype(distance.dtype)


def _shared(local_ratio: float) -> Reward:
    require_share("local_ratio", local_ratio)
    return functools.partial(shared_reward, local_ratio=local_ratio)


def _everyone(n: int) -> np.ndarray:
    return ~np.eye(n, dtype=bool)


def separate_reward(distance: jax.Array, touches: jax.Array) -> jax.Array:
    """Reward of Spread-3-Sep (MAMT, App. F), (3,): minus the distance of agent m to landmark m."""
    del touches
    return -jnp.diagonal(distance)


def mixed_reward(distance: jax.Array, touches: jax.Array) -> jax.Array:
    """Reward of Spread-3-Mix (MAMT, App. F), (3,).

    Agent 1 has the reward of Spread-3-Sep. Agents 0 and 2 share landmarks 0 and 2, and lose 1 while they touch.
    """
    shared = -distance[::2, ::2].min(0).sum() - touches[0, 2].astype(distance.dtype)
    return jnp.stack([shared, -distance[1, 1], shared])


def spread(
    num_agents: int = 2,
    local_ratio: float = 0.5,
    episode_limit: int = 25,
    position_first: bool = True,
    continuous_actions: bool = False,
) -> Environment:
    """Spread: n agents cover n landmarks and avoid each other.

    - observation: own velocity (2) and position (2), relative positions of the landmarks (2 n) and of the other agents
      (2 (n - 1)), and messages of the other agents (2 (n - 1)), which are always zero: 6 n entries.
    - action: 0 to 4, int32: no push, -x, +x, -y, +y. With `continuous_actions` a vector a of five numbers, clipped to [0, 1],
      which pushes by (a2 - a1, a4 - a3).
    - reward: minus (1 - local_ratio) times the sum over landmarks of the distance to the nearest agent, minus local_ratio times
      the number of agents that the agent touches.
    - termination: never; truncated after `episode_limit` steps.
    - state: `SpreadState`.

    Metrics: `landmarks_covered`, the share of landmarks with an agent within 0.1; `collisions`, the number of others that an
    agent touches, averaged over agents.

    Args:
        num_agents: number of agents, and number of landmarks.
        local_ratio: weight of the collision term in the reward, from 0 to 1.
        episode_limit: number of steps after which an episode is truncated.
        position_first: whether positions change by the old velocity, as in mpe2. If False, they change by the new velocity, as
            in the original MPE.
        continuous_actions: whether actions are vectors of five numbers instead of integers.

    Raises:
        ValueError: if an option has a value that is not allowed.
    """
    require_size("num_agents", num_agents)
    reward = _shared(local_ratio)
    return _environment("spread", _everyone(num_agents), reward, assign, episode_limit, position_first, continuous_actions)


def spread3_sep(episode_limit: int = 25, position_first: bool = True, continuous_actions: bool = False) -> Environment:
    """Spread-3-Sep (MAMT, App. F): `spread` with 3 agents that do not depend on each other.

    - observation, action, termination, state: as in `spread`, except that agents pass through each other.
    - reward: minus the distance of agent m to landmark m.

    The metric `collisions` is always zero.

    Args:
        episode_limit: number of steps after which an episode is truncated.
        position_first: whether positions change by the old velocity, as in mpe2. If False, they change by the new velocity, as
            in the original MPE.
        continuous_actions: whether actions are vectors of five numbers instead of integers.
    """
    nobody = np.zeros((3, 3), bool)
    return _environment("spread3_sep", nobody, separate_reward, _stay, episode_limit, position_first, continuous_actions)


def spread3_mix(episode_limit: int = 25, position_first: bool = True, continuous_actions: bool = False) -> Environment:
    """Spread-3-Mix (MAMT, App. F): `spread` with 3 agents, of which 0 and 2 depend on each other.

    - observation, action, termination, state: as in `spread`, except that only agents 0 and 2 collide.
    - reward: agent 1 as in `spread3_sep`; agents 0 and 2 receive minus the sum over landmarks 0 and 2 of the smaller of their
      two distances, minus 1 while they touch.

    Args:
        episode_limit: number of steps after which an episode is truncated.
        position_first: whether positions change by the old velocity, as in mpe2. If False, they change by the new velocity, as
            in the original MPE.
        continuous_actions: whether actions are vectors of five numbers instead of integers.
    """
    ends = np.zeros((3, 3), bool)
    ends[0, 2] = ends[2, 0] = True
    return _environment("spread3_mix", ends, mixed_reward, _assign_ends, episode_limit, position_first, continuous_actions)


def spread3_ful(
    local_ratio: float = 0.5, episode_limit: int = 25, position_first: bool = True, continuous_actions: bool = False
) -> Environment:
    """Spread-3-Ful (MAMT, App. F): `spread` with 3 agents, which all depend on each other.

    Args:
        local_ratio: weight of the collision term in the reward, from 0 to 1.
        episode_limit: number of steps after which an episode is truncated.
        position_first: whether positions change by the old velocity, as in mpe2. If False, they change by the new velocity, as
            in the original MPE.
        continuous_actions: whether actions are vectors of five numbers instead of integers.
    """
    reward = _shared(local_ratio)
    return _environment("spread3_ful", _everyone(3), reward, assign, episode_limit, position_first, continuous_actions)
