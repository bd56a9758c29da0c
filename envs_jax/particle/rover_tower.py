"""Rover-Tower (Iqbal & Sha, 2019, "Actor-Attention-Critic"): towers guide rovers by messages to goals that only towers see."""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Discrete, Environment, EnvSpec, Noise, TimeStep, make_timestep
from envs_jax.particle.steering import look_ahead
from envs_jax.particle.world import integrate, squared_norm
from envs_jax.scene import PALE, Scene, arena, colour, shape_at
from envs_jax.validation import require_count

NUM_PAIRS = 4
NUM_LANDMARKS = 6
NUM_MESSAGES = 5
FORCE = 1.5 * 1.5  # the original applies its acceleration of 1.5 twice
MAX_SPEED = 1.0
BONUS = 10.0
BONUS_SQUARED_DISTANCE = (0.075 + 0.04) * 1.5  # the original compares this length with a squared distance
ROVER_MOVES = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
COAST_STEPS = 2


@flax.struct.dataclass
class RoverTowerState:
    """State of Rover-Tower.

    Attributes:
        rover_position: (4, 2).
        rover_velocity: (4, 2).
        tower_position: (4, 2), used only for drawing.
        landmark_position: (6, 2).
        message: (4, 5) one-hot, last message of each tower; zeros at the start.
        rover_of_tower: (4,) int32, rover of each tower, a permutation.
        goal_of_tower: (4,) int32, goal landmark of each tower and its rover.
        step: () int32.
    """

    rover_position: jax.Array
    rover_velocity: jax.Array
    tower_position: jax.Array
    landmark_position: jax.Array
    message: jax.Array
    rover_of_tower: jax.Array
    goal_of_tower: jax.Array
    step: jax.Array


def _rows(table: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take(table, index, axis=0, mode="clip")


def _pairs(state: RoverTowerState) -> jax.Array:
    """Which tower (rows) guides which rover (columns), (4, 4) bool."""
    return state.rover_of_tower[:, None] == jnp.arange(NUM_PAIRS)[None, :]


def _tower_of_rover(state: RoverTowerState) -> jax.Array:
    return jnp.argmax(_pairs(state), axis=0)


def observe(state: RoverTowerState) -> jax.Array:
    """Observations of all agents, (8, 13), in the order that `rover_tower` describes."""
    tower = _tower_of_rover(state)
    dtype = state.rover_position.dtype
    rover_sees = [jax.nn.one_hot(tower, NUM_PAIRS, dtype=dtype), _rows(state.message, tower)]
    rover_sees += [state.rover_position, state.rover_velocity]
    tower_sees = [jax.nn.one_hot(state.rover_of_tower, NUM_PAIRS, dtype=dtype)]
    tower_sees += [_rows(state.rover_position, state.rover_of_tower), _rows(state.landmark_position, state.goal_of_tower)]
    rover, tower = jnp.concatenate(rover_sees, axis=-1), jnp.concatenate(tower_sees, axis=-1)
    return jnp.concatenate([rover, jnp.pad(tower, ((0, 0), (0, rover.shape[-1] - tower.shape[-1])))])


def _squared_goal_distance(state: RoverTowerState) -> jax.Array:
    goal = _rows(state.landmark_position, state.goal_of_tower)
    return squared_norm(_rows(state.rover_position, state.rover_of_tower) - goal)


def _timestep(spec: EnvSpec, state: RoverTowerState, stepped: bool) -> TimeStep:
    squared_distance = _squared_goal_distance(state)
    on_goal = squared_distance < BONUS_SQUARED_DISTANCE
    pair_reward = jnp.where(on_goal, BONUS, 0.0) - squared_distance
    rover_reward = _rows(pair_reward, _tower_of_rover(state))
    return make_timestep(
        spec,
        observe(state),
        reward=jnp.concatenate([rover_reward, pair_reward]) if stepped else None,
        truncated=state.step >= spec.episode_limit,
        metrics={"rovers_on_goal": on_goal.astype(pair_reward.dtype).mean()},
    )


def _reset(key: jax.Array, spec: EnvSpec) -> tuple[RoverTowerState, TimeStep]:
    # One draw for everything, because with automatic reset every step contains a reset.
    chance = jax.random.uniform(key, (3 * NUM_PAIRS + NUM_LANDMARKS, 2))
    pairing, goal = chance[:NUM_PAIRS].T
    rover, tower, landmark = jnp.split(2 * chance[NUM_PAIRS:] - 1, (NUM_PAIRS, 2 * NUM_PAIRS))
    state = RoverTowerState(
        rover_position=rover,
        rover_velocity=jnp.zeros_like(rover),
        tower_position=tower,
        landmark_position=landmark,
        message=jnp.zeros((NUM_PAIRS, NUM_MESSAGES), rover.dtype),
        rover_of_tower=jnp.argsort(pairing).astype(jnp.int32),
        goal_of_tower=(NUM_LANDMARKS * goal).astype(jnp.int32),
        step=jnp.zeros((), jnp.int32),
    )
    return state, _timestep(spec, state, stepped=False)


def _transition(state: RoverTowerState, action: jax.Array, noise: Noise, spec: EnvSpec) -> tuple[RoverTowerState, TimeStep]:
    del noise
    dtype = state.rover_position.dtype
    direction = _rows(jnp.asarray(ROVER_MOVES, dtype), action[:NUM_PAIRS])
    position, velocity = integrate(
        state.rover_position, state.rover_velocity, FORCE * direction, position_first=False, max_speed=MAX_SPEED
    )
    state = dataclasses.replace(
        state,
        rover_position=position,
        rover_velocity=velocity,
        message=jax.nn.one_hot(action[NUM_PAIRS:], NUM_MESSAGES, dtype=dtype),
        step=state.step + 1,
    )
    return state, _timestep(spec, state, stepped=True)


def _scripted(key: jax.Array, state: RoverTowerState) -> jax.Array:
    """Rovers take the move that ends nearest to the goal after coasting. Towers send the number of their rover's move."""
    del key
    goal = _rows(state.landmark_position, _rows(state.goal_of_tower, _tower_of_rover(state)))
    forces = FORCE * jnp.asarray(ROVER_MOVES, state.rover_position.dtype)
    move = functools.partial(integrate, position_first=False, max_speed=MAX_SPEED)
    action = look_ahead(move, state.rover_position, state.rover_velocity, goal, forces, COAST_STEPS)
    return jnp.concatenate([action, _rows(action, state.rover_of_tower)])


def dependence(state: RoverTowerState) -> jax.Array:
    """Which agents depend on each other, (8, 8) bool: each rover and its tower, which share the reward."""
    pairs = _pairs(state)
    nobody = jnp.zeros_like(pairs)
    return jnp.block([[nobody, pairs.T], [pairs, nobody]])


def _scene(state: RoverTowerState) -> Scene:
    """Draws rovers as discs, towers as squares with their last message, and goals as rings that fill when they are reached."""
    pairs = list(enumerate(zip(state.rover_of_tower, state.goal_of_tower, strict=True)))
    reached = np.asarray(_squared_goal_distance(state)) < BONUS_SQUARED_DISTANCE
    said = [str(message.argmax()) if message.any() else "-" for message in state.message]
    landmarks = [shape_at("disc", position, 0.03, PALE) for position in state.landmark_position]
    goals = [shape_at("ring", state.landmark_position[goal], 0.1 + 0.03 * t, colour(t)) for t, (_, goal) in pairs]
    glow = [shape_at("disc", state.landmark_position[goal], 0.2, colour(t) + "60") for t, (_, goal) in pairs if reached[t]]
    towers = [shape_at("square", state.tower_position[t], 0.1, colour(t), f"{t}:{said[t]}") for t, _ in pairs]
    rovers = [shape_at("disc", state.rover_position[rover], 0.08, colour(t), str(t)) for t, (rover, _) in pairs]
    caption = f"step {state.step}    {reached.sum()} of {NUM_PAIRS} rovers at their goals    squares: tower:message"
    return arena(caption, [*glow, *towers, *landmarks, *goals, *rovers])


def rover_tower(episode_limit: int = 25) -> Environment:
    """Rover-Tower: 4 towers guide 4 rovers by messages to goals that only the towers see.

    Agents 0-3 are rovers, agents 4-7 are towers. In each episode they are paired at random, and the goal of each pair is one of
    6 landmarks.

    - observation: a rover sees the one-hot index of its tower (4), the tower's last message (5), its own position (2) and
      velocity (2): 13 entries. A tower sees the one-hot index of its rover (4), the rover's position (2) and the goal's
      position (2): 8 entries, padded to 13.
    - action: 0 to 4, int32. A rover accelerates: not at all, +x, -x, +y, -y. A tower sends a message.
    - reward: minus the squared distance from the rover to its goal, plus 10 if that is below 0.1725, for both agents of a pair.
    - termination: never; truncated after `episode_limit` steps.
    - state: `RoverTowerState`.

    The metric `rovers_on_goal` is the share of rovers that receive the bonus.

    Args:
        episode_limit: number of steps after which an episode is truncated.

    Raises:
        ValueError: if `episode_limit` is not a positive integer.
    """
    require_count("episode_limit", episode_limit)
    spec = EnvSpec(
        name="rover_tower",
        agent_names=tuple(f"{kind}_{i}" for kind in ("rover", "tower") for i in range(NUM_PAIRS)),
        observation_sizes=(13,) * NUM_PAIRS + (8,) * NUM_PAIRS,
        action_spaces=(Discrete(len(ROVER_MOVES)),) * NUM_PAIRS + (Discrete(NUM_MESSAGES),) * NUM_PAIRS,
        episode_limit=episode_limit,
    )
    return Environment(
        spec=spec,
        reset=functools.partial(_reset, spec=spec),
        transition=functools.partial(_transition, spec=spec),
        scripted=_scripted,
        scene=_scene,
        dependence=dependence,
    )
