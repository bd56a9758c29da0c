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
    """Everything that Spread remembers.

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
    """What tells one Spread from another.

    Attributes:
        spec: the environment's spec.
        collides: (n, n) bool, which pairs of agents feel each other.
        reward: (distances of agents to landmarks (n, n), touches (n, n) bool) -> (n,).
        position_first: mpe2's order of integration, or the original MPE's.
        assign: (agent_position, landmark_position) -> (n,), where the scripted policy sends each agent.
    """

    spec: EnvSpec
    collides: np.ndarray
    reward: Reward
    position_first: bool
    assign: Callable[[jax.Array, jax.Array], jax.Array]


def _others(n: int) -> np.ndarray:
    """(n, n - 1): for each agent the other agents, ascending."""
    index = np.arange(n - 1)[None, :]
    return index + (index >= np.arange(n)[:, None])


def observe(state: SpreadState) -> jax.Array:
    """What the agents see in a state, (n, 6 n); the factory says in which order."""
    position = state.agent_position
    n = position.shape[0]
    to_landmarks = state.landmark_position[None, :, :] - position[:, None, :]
    to_others = position[_others(n)] - position[:, None, :]
    messages = jnp.zeros((n, 2 * (n - 1)), position.dtype)  # agents are silent, yet mpe2 shows their messages
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
    """The direction of push, (n, 2): an integer action stands for its one-hot vector."""
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
    )


def _stay(agent_position: jax.Array, landmark_position: jax.Array) -> jax.Array:
    """Agent m goes to landmark m."""
    del landmark_position
    return jnp.arange(agent_position.shape[0])


def _assign_ends(agent_position: jax.Array, landmark_position: jax.Array) -> jax.Array:
    """Agent 1 goes to landmark 1; agents 0 and 2 share out landmarks 0 and 2."""
    first, last = 2 * assign(agent_position[::2], landmark_position[::2])
    return jnp.stack([first, jnp.ones_like(first), last])


def shared_reward(distance: jax.Array, touches: jax.Array, local_ratio: float) -> jax.Array:
    """mpe2's reward, (n,): minus the sum over landmarks of the nearest agent's distance, mixed with minus an agent's touches.

    Args:
        distance: (n, m) of agents to landmarks.
        touches: (n, n) bool.
        local_ratio: weight of the second part; the first has the rest.
    """
    return (1 - local_ratio) * -distance.min(0).sum() - local_ratio * touches.sum(1).astype(distance.dtype)


def _shared(local_ratio: float) -> Reward:
    require_share("local_ratio", local_ratio)
    return functools.partial(shared_reward, local_ratio=local_ratio)


def _everyone(n: int) -> np.ndarray:
    return ~np.eye(n, dtype=bool)


def separate_reward(distance: jax.Array, touches: jax.Array) -> jax.Array:
    """Spread-3-Sep (App. F), (3,): minus each agent's distance to its own landmark."""
    del touches
    return -jnp.diagonal(distance)


def mixed_reward(distance: jax.Array, touches: jax.Array) -> jax.Array:
    """Spread-3-Mix (App. F), (3,): agent 1 as in Sep; agents 0 and 2 share landmarks 0 and 2, and pay 1 for a touch."""
    shared = -distance[::2, ::2].min(0).sum() - touches[0, 2].astype(distance.dtype)
    return jnp.stack([shared, -distance[1, 1], shared])


def spread(
    num_agents: int = 2,
    local_ratio: float = 0.5,
    episode_limit: int = 25,
    position_first: bool = True,
    continuous_actions: bool = False,
) -> Environment:
    """Spread: agents cover as many landmarks as there are agents, and avoid each other.

    - observation: own velocity (2) and position (2), the landmarks (2 n) and the other agents (2 (n - 1)) relative to it, and
      the others' messages (2 (n - 1)), always zero: 6 n in all.
    - action: five, int32: push nowhere, -x, +x, -y, +y. With `continuous_actions` a vector of five in [0, 1], clipped, that
      pushes by (a2 - a1, a4 - a3).
    - reward: (1 - local_ratio) x minus the sum over landmarks of the nearest agent's distance + local_ratio x minus the
      number of agents that this one touches.
    - termination: never; truncated after `episode_limit` steps.
    - state: `SpreadState`.

    Metrics: `landmarks_covered`, the share of landmarks with an agent within 0.1; `collisions`, the mean over agents of how
    many others each touches.

    Args:
        num_agents: number of agents and of landmarks, n.
        local_ratio: weight of the collision part of the reward, 0 to 1.
        episode_limit: steps before truncation.
        position_first: move by the old velocity, as mpe2 does; False for the original MPE's order, the new velocity.
        continuous_actions: whether actions are vectors of five numbers.

    Raises:
        ValueError: if an option has a value that is not allowed.
    """
    require_size("num_agents", num_agents)
    reward = _shared(local_ratio)
    return _environment("spread", _everyone(num_agents), reward, assign, episode_limit, position_first, continuous_actions)


def spread3_sep(episode_limit: int = 25, position_first: bool = True, continuous_actions: bool = False) -> Environment:
    """Spread-3-Sep (MAMT, App. F): `spread` with 3 agents that do not depend on each other.

    - observation, action, termination, state: as `spread`, except that agents pass through each other.
    - reward: minus the distance of agent m to landmark m.

    Nobody collides, so the metric `collisions` is zero.
    """
    nobody = np.zeros((3, 3), bool)
    return _environment("spread3_sep", nobody, separate_reward, _stay, episode_limit, position_first, continuous_actions)


def spread3_mix(episode_limit: int = 25, position_first: bool = True, continuous_actions: bool = False) -> Environment:
    """Spread-3-Mix (MAMT, App. F): `spread` with 3 agents of which 0 and 2 depend on each other.

    - observation, action, termination, state: as `spread`, except that only agents 0 and 2 collide.
    - reward: agent 1 as in `spread3_sep`; agents 0 and 2 get minus the sum over landmarks 0 and 2 of the smaller of their two
      distances, minus 1 while they touch.
    """
    ends = np.zeros((3, 3), bool)
    ends[0, 2] = ends[2, 0] = True
    return _environment("spread3_mix", ends, mixed_reward, _assign_ends, episode_limit, position_first, continuous_actions)


def spread3_ful(
    local_ratio: float = 0.5, episode_limit: int = 25, position_first: bool = True, continuous_actions: bool = False
) -> Environment:
    """Spread-3-Ful (MAMT, App. F): `spread` with 3 agents, in everything but the name."""
    reward = _shared(local_ratio)
    return _environment("spread3_ful", _everyone(3), reward, assign, episode_limit, position_first, continuous_actions)
