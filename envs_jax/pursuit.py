"""Pursuit (Gupta et al., 2017) as in pettingzoo's pursuit_v5: pursuers on a grid catch evaders that move at random."""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.environment import Discrete, Environment, EnvSpec, TimeStep, make_timestep
from envs_jax.scene import INK, WALL, Scene, colour, shape_at
from envs_jax.validation import require_count, require_each, require_number, require_share, require_size, require_switch

# Change of (x, y) by actions 0 to 4. The first four are also the sides from which an evader is caught.
MOVES = np.array([[-1, 0], [1, 0], [0, 1], [0, -1], [0, 0]], np.int32)
SIDES, STAY = MOVES[:4], 4


@flax.struct.dataclass
class PursuitState:
    """State of Pursuit. Positions are cells (x, y).

    Attributes:
        pursuer_position: (n, 2) int32.
        evader_position: (m, 2) int32, meaningless for caught evaders.
        evader_alive: (m,) bool.
        step: () int32.
    """

    pursuer_position: jax.Array
    evader_position: jax.Array
    evader_alive: jax.Array
    step: jax.Array


class Rules(NamedTuple):
    """Options of `pursuit`, and constants that are derived from them.

    Attributes:
        spec: the environment's spec.
        building: (X, Y) bool, the block in the middle that agents cannot enter.
        needed: (X, Y) int32, number of sides that pursuers must hold to catch an evader on the cell.
        num_evaders, observation_range, ...: options of `pursuit`.
    """

    spec: EnvSpec
    building: np.ndarray
    needed: np.ndarray
    num_evaders: int
    shared_reward: bool
    observation_range: int
    num_catch: int
    freeze_evaders: bool
    tag_reward: float
    catch_reward: float
    urgency_reward: float
    surround: bool
    constraint_window: float


def block(x_size: int, y_size: int) -> np.ndarray:
    """Cells of the building, (X, Y) bool."""
    x, y = np.arange(x_size) / x_size, np.arange(y_size) / y_size
    return np.outer((x > 0.3) & (x < 1.0 - 0.3), (y > 0.2) & (y < 1.0 - 0.2))


def sides_to_hold(building: np.ndarray) -> np.ndarray:
    """Number of sides of each cell that are neither outside the map nor building, (X, Y) int32."""
    inner = building.copy()
    inner[0] = inner[:, 0] = False  # the original ignores buildings in the first row and column
    on_edge = [np.isin(np.arange(size), (0, size - 1)).astype(np.int32) for size in building.shape]
    return 4 - np.add.outer(*on_edge) - np.asarray(sum_of_sides(np.pad(inner.astype(np.int32), 1)))


def sum_of_sides(padded: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Sum over the four sides of each cell, from (X + 2, Y + 2) with padding to (X, Y)."""
    return padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2]


def count(position: jax.Array, weight: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Sum of the weights on each cell, (X, Y) int32, from positions (k, 2) and weights (k,)."""
    x, y = position.T
    return jnp.zeros(size, jnp.int32).at[x, y].add(weight.astype(jnp.int32), mode="promise_in_bounds")


def look_up(layer: jax.Array | np.ndarray, position: jax.Array) -> jax.Array:
    """Values of `layer` (X, Y) at the cells (..., 2)."""
    return jnp.asarray(layer)[position[..., 0], position[..., 1]]


def move(building: np.ndarray, position: jax.Array, action: jax.Array) -> jax.Array:
    """Positions (k, 2) after one action each. Moves off the map or into the building have no effect. Agents may share cells."""
    moved = position + jnp.asarray(MOVES)[action]
    inside = jnp.clip(moved, 0, np.array(building.shape, np.int32)[None] - 1)
    free = (inside == moved).all(-1) & ~look_up(building, inside)
    return jnp.where(free[:, None], inside, position)


def catch(rules: Rules, pursuers: jax.Array, evader_position: jax.Array, alive: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the evaders that are caught. All evaders are tested against the same pursuers.

    Args:
        rules: the rules.
        pursuers: (X, Y), number of pursuers on each cell.
        evader_position: (m, 2).
        alive: (m,) bool, evaders that have not been caught before.

    Returns:
        (m,) bool, the caught evaders; (X, Y) bool, the cells from which pursuers took part.
    """
    if not rules.surround:
        caught = alive & (look_up(pursuers, evader_position) >= rules.num_catch)
        return caught, count(evader_position, caught, rules.building.shape) > 0
    held = sum_of_sides(jnp.pad((pursuers > 0).astype(jnp.int32), 1))
    caught = alive & look_up(jnp.asarray(held) == rules.needed, evader_position)
    return caught, jnp.asarray(sum_of_sides(jnp.pad(count(evader_position, caught, rules.building.shape), 1))) > 0


def tags(rules: Rules, evaders: jax.Array, position: jax.Array) -> jax.Array:
    """Number of evaders on the four sides of each pursuer, (n,). For a side outside the map, its own cell counts."""
    return look_up(jnp.asarray(sum_of_sides(jnp.pad(evaders, 1, mode="edge"))), position)


def reward(rules: Rules, tags_before: jax.Array, tags_after: jax.Array, involved: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Reward of each pursuer for a step in which all pursuers move, (n,).

    The original moves pursuers one after another and pays 1 / n of the tag reward after every move. Pursuer j is therefore
    paid j times for its position before its move and n - j times for its position after it.
    """
    n = rules.spec.num_agents
    moves_before = jnp.arange(n)
    tagged = (moves_before * tags_before.astype(dtype) + (n - moves_before) * tags_after.astype(dtype)) / n
    own = rules.tag_reward * tagged + rules.catch_reward * involved.astype(dtype) + rules.urgency_reward
    return jnp.broadcast_to(own.mean(), own.shape) if rules.shared_reward else own


def observe(rules: Rules, pursuer_position: jax.Array, pursuers: jax.Array, evaders: jax.Array) -> jax.Array:
    """Observations, (n, w * w * 3): the window around each pursuer, flattened from [y, x, layer].

    The layers are: building or outside the map, number of pursuers, number of evaders.
    """
    width = rules.observation_range
    offset = (width - 1) // 2
    seen, unseen = 2 * offset + 1, width - (2 * offset + 1)
    # The three layers share an integer. One cut per window takes two thirds of the time of three cuts.
    layers = jnp.pad(rules.building.astype(np.int32), offset, constant_values=1)
    layers += jnp.pad(pursuers << 1, offset) + jnp.pad(evaders << 16, offset)
    cut = jax.vmap(lambda position: jax.lax.dynamic_slice(layers.T, (position[1], position[0]), (seen, seen)))
    view = jnp.pad(cut(pursuer_position), ((0, 0), (0, unseen), (0, unseen)), constant_values=1)
    view = jnp.stack([view & 1, view >> 1 & 0x7FFF, view >> 16], -1)
    return view.reshape(rules.spec.num_agents, -1).astype(jnp.float32)


def windows(size: int, share: float) -> set[tuple[int, int]]:
    """All intervals [low, high) that a random window of `share` of an axis of `size` cells can cover."""
    cells = np.arange(size + 1) / size
    ends = np.unique(np.clip(np.concatenate([cells, cells - share]), 0.0, 1.0 - share))
    starts = (ends[:-1] + ends[1:]) / 2 if share < 1.0 else np.zeros(1)
    return {(int(size * start), int(size * (start + share))) for start in starts}


def require_room(building: np.ndarray, share: float, crowd: int) -> None:
    """Raises ValueError if some start window has no room for `crowd` agents without two of them side by side."""
    parity = np.add.outer(*map(np.arange, building.shape)) % 2
    rooms = [
        max((~building[x0:x1, y0:y1] & (parity[x0:x1, y0:y1] == side)).sum() for side in (0, 1))
        for x0, x1 in windows(building.shape[0], share)
        for y0, y1 in windows(building.shape[1], share)
    ]
    if min(rooms) < crowd:
        raise ValueError(
            f"constraint_window={share} is not valid: on this {building.shape[0]} x {building.shape[1]} map, a window may hold "
            f"only {min(rooms)} agents that are not side by side, but {crowd} must be placed. Give a wider window, a larger "
            f"map or fewer agents."
        )


def place(key: jax.Array, allowed: jax.Array, num: int) -> jax.Array:
    """Draws start cells one after another, (num, 2), each uniform over the `allowed` cells (X, Y) not beside earlier ones.

    Every cell draws a random rank once. The cell of highest rank among the remaining ones is then uniform over them. If no cell
    remains, cells on or beside earlier ones are taken. The original would search forever.
    """
    x, y = (jnp.arange(size) for size in allowed.shape)
    # Rank and cell share an int32, which makes the search one maximum. With automatic reset, every step contains a reset.
    cell_bits = (allowed.size - 1).bit_length()
    rank = jax.random.bits(key, allowed.shape).astype(jnp.uint32) >> (cell_bits + 2) << cell_bits
    rank = rank.astype(jnp.int32) + jnp.arange(allowed.size, dtype=jnp.int32).reshape(allowed.shape)
    rank = jnp.where(allowed, rank, -(2**31))

    def pick(rank: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        best = rank.max() & ((1 << cell_bits) - 1)
        cell = jnp.stack(jnp.unravel_index(best, allowed.shape)).astype(jnp.int32)
        near = jnp.abs(x - cell[0])[:, None] + jnp.abs(y - cell[1])[None] <= 1
        return jnp.where(near & (rank >= 0), rank - 2**30, rank), cell

    return jax.lax.scan(pick, rank, None, num)[1]


def in_window(key: jax.Array, size: int, share: float) -> jax.Array:
    """Cells of one axis inside a random window that covers `share` of the axis, (size,) bool."""
    start = jax.random.uniform(key, maxval=1.0 - share) if share < 1.0 else 0.0
    cell = jnp.arange(size)
    return (cell >= jnp.floor(size * start)) & (cell < jnp.floor(size * (start + share)))


def _timestep(rules: Rules, state: PursuitState, reward: jax.Array | None = None, caught: jax.Array | None = None) -> TimeStep:
    size = rules.building.shape
    pursuers = count(state.pursuer_position, jnp.ones(rules.spec.num_agents, bool), size)
    evaders = count(state.evader_position, state.evader_alive, size)
    truncated = state.step >= rules.spec.episode_limit
    return make_timestep(
        rules.spec,
        observe(rules, state.pursuer_position, pursuers, evaders),
        reward=reward,
        terminated=jnp.broadcast_to(~state.evader_alive.any() & ~truncated, (rules.spec.num_agents,)),
        truncated=truncated,
        metrics={
            "catches": jnp.zeros(()) if caught is None else caught.sum().astype(jnp.float32),
            "evaders_left": state.evader_alive.astype(jnp.float32).mean(),
            "all_caught": (~state.evader_alive.any()).astype(jnp.float32),
        },
    )


def _reset(key: jax.Array, rules: Rules) -> tuple[PursuitState, TimeStep]:
    x_key, y_key, pursuer_key, evader_key = jax.random.split(key, 4)
    x_size, y_size = rules.building.shape
    x, y = in_window(x_key, x_size, rules.constraint_window), in_window(y_key, y_size, rules.constraint_window)
    allowed = x[:, None] & y[None] & ~rules.building
    state = PursuitState(
        pursuer_position=place(pursuer_key, allowed, rules.spec.num_agents),
        evader_position=place(evader_key, allowed, rules.num_evaders),
        evader_alive=jnp.ones(rules.num_evaders, bool),
        step=jnp.zeros((), jnp.int32),
    )
    return state, _timestep(rules, state)


def _sample_noise(key: jax.Array, state: PursuitState) -> jax.Array:
    return (len(MOVES) * jax.random.uniform(key, state.evader_alive.shape, jnp.float32)).astype(jnp.int32)


def _transition(state: PursuitState, action: jax.Array, noise: jax.Array, rules: Rules) -> tuple[PursuitState, TimeStep]:
    size, dtype = rules.building.shape, jnp.result_type(float)
    evaders = count(state.evader_position, state.evader_alive, size)
    position = move(rules.building, state.pursuer_position, action)
    pursuers = count(position, jnp.ones(rules.spec.num_agents, bool), size)
    caught, held_from = catch(rules, pursuers, state.evader_position, state.evader_alive)
    earned = reward(
        rules,
        tags(rules, evaders, state.pursuer_position),
        tags(rules, evaders, position),
        look_up(held_from, position),
        dtype,
    )
    evader_action = jnp.full_like(noise, STAY) if rules.freeze_evaders else noise
    state = PursuitState(
        pursuer_position=position,
        evader_position=move(rules.building, state.evader_position, evader_action),
        evader_alive=state.evader_alive & ~caught,
        step=state.step + 1,
    )
    return state, _timestep(rules, state, earned, caught)


def _scripted(key: jax.Array, state: PursuitState, rules: Rules) -> jax.Array:
    """Groups of four pursuers take the four sides of the evader that is nearest to their group."""
    del key
    position = state.pursuer_position
    index = np.arange(rules.spec.num_agents)
    same_group = jnp.asarray(index[:, None] // len(SIDES) == index // len(SIDES))
    distance = jnp.abs(position[:, None] - state.evader_position[None]).sum(-1)
    group_distance = jnp.where(state.evader_alive[None], same_group.astype(jnp.int32) @ distance, jnp.iinfo(jnp.int32).max)
    side = state.evader_position[group_distance.argmin(1)] + SIDES[index % len(SIDES)]
    reached = jax.vmap(lambda action: move(rules.building, position, jnp.full(index.shape, action)))(jnp.arange(len(MOVES)))
    return jnp.abs(reached - side[None]).sum(-1).argmin(0).astype(jnp.int32)


def _side_by_side(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) and radii (n,) of discs on the cells (n, 2). Discs that share a cell form a circle within it."""
    together = (cells[:, None] == cells[None]).all(-1)
    count = together.sum(1)
    angle = 2 * np.pi * np.tril(together, -1).sum(1) / count
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return cells + np.where(count > 1, 0.24, 0.0)[:, None] * circle, np.where(count > 1, 0.24, 0.4)


def _scene(state: PursuitState, rules: Rules, views: bool = False) -> Scene:
    """Draws pursuers as discs and evaders as rings. `views` also draws the window that each pursuer sees."""
    low, high = (-0.5, -0.5), tuple(size - 0.5 for size in rules.building.shape)
    reach = (rules.observation_range - 1) // 2 + 0.5
    seen = [shape_at("square", at, reach, colour(i) + "30") for i, at in enumerate(state.pursuer_position)]
    walls = [shape_at("square", cell, 0.5, WALL) for cell in np.argwhere(rules.building)]
    evaders = [shape_at("ring", at, 0.3, INK) for at in state.evader_position[state.evader_alive]]
    discs = zip(*_side_by_side(np.asarray(state.pursuer_position)), strict=True)
    pursuers = [shape_at("disc", at, radius, colour(i), str(i)) for i, (at, radius) in enumerate(discs)]
    caption = f"step {state.step}    {state.evader_alive.sum()} evaders left"
    return Scene(low, high, [*walls, *(seen if views else []), *evaders, *pursuers], caption, frames_per_second=30.0)


def _spec(num_pursuers: int, num_evaders: int, observation_range: int, episode_limit: int) -> EnvSpec:
    return EnvSpec(
        name="pursuit",
        agent_names=tuple(f"pursuer_{i}" for i in range(num_pursuers)),
        observation_sizes=(3 * observation_range**2,) * num_pursuers,
        action_spaces=(Discrete(len(MOVES), idle=STAY),) * num_pursuers,
        episode_limit=episode_limit,
        observation_dtype="uint8" if max(num_pursuers, num_evaders) < 256 else "float32",
        last_metrics=("all_caught",),
    )


def pursuit(
    num_pursuers: int = 8,
    num_evaders: int = 30,
    x_size: int = 16,
    y_size: int = 16,
    episode_limit: int = 500,
    shared_reward: bool = True,
    observation_range: int = 7,
    num_catch: int = 2,
    freeze_evaders: bool = False,
    tag_reward: float = 0.01,
    catch_reward: float = 5.0,
    urgency_reward: float = -0.1,
    surround: bool = True,
    constraint_window: float = 1.0,
) -> Environment:
    """Pursuit: pursuers on a grid surround evaders, which move at random, as in PettingZoo's pursuit_v5.

    - observation: a window of `observation_range` x `observation_range` cells around the pursuer, flattened from
      [y, x, layer]. The layers are: building or outside the map, number of pursuers, number of evaders.
    - action: 0 to 4, int32: x - 1, x + 1, y + 1, y - 1, stay. A move off the map or into the building has no effect. Agents
      may share cells.
    - reward: `catch_reward` for taking part in a catch, `tag_reward` for each evader on one of the pursuer's four sides, and
      `urgency_reward` in every step. With `shared_reward` all pursuers receive the mean.
    - termination: no evader is left; truncated after `episode_limit` steps.
    - state: `PursuitState`. The noise is the evaders' actions, (num_evaders,) int32. `env._replace(sample_noise=...)` replaces
      their controller.

    Dynamics and rewards equal those of the original in every step.

    Metrics: `catches`, the number of evaders caught in a step; `evaders_left`, the share of evaders not caught yet;
    `all_caught`, 1 if no evader is left, else 0, of which an episode reports the last value.

    Args:
        num_pursuers: number of pursuers, which are the agents.
        num_evaders: number of evaders at the start.
        x_size: width of the map in cells.
        y_size: height of the map in cells.
        episode_limit: number of steps after which an episode is truncated.
        shared_reward: whether all pursuers receive the mean of the individual rewards.
        observation_range: width of a pursuer's window in cells. With an even width the last row and column hold no
            information.
        num_catch: number of pursuers on an evader's cell that catch it, if `surround` is False.
        freeze_evaders: whether evaders stay where they are.
        tag_reward: reward in each step for each evader on one of a pursuer's four sides.
        catch_reward: reward of each pursuer that takes part in a catch.
        urgency_reward: reward of each pursuer in every step.
        surround: whether pursuers must hold all free sides of an evader to catch it.
        constraint_window: share of the map's width and height that a random window covers. All agents and evaders start in it.

    Raises:
        ValueError: if an option has a value that is not allowed, or a window cannot hold the agents.
    """
    require_each(require_size, num_pursuers=num_pursuers, num_evaders=num_evaders, x_size=x_size, y_size=y_size)
    require_each(require_count, episode_limit=episode_limit, num_catch=num_catch)
    require_size("observation_range", observation_range)
    require_each(require_switch, shared_reward=shared_reward, freeze_evaders=freeze_evaders, surround=surround)
    require_each(require_number, tag_reward=tag_reward, catch_reward=catch_reward, urgency_reward=urgency_reward)
    require_share("constraint_window", constraint_window)
    building = block(x_size, y_size)
    require_room(building, constraint_window, max(num_pursuers, num_evaders))
    spec = _spec(num_pursuers, num_evaders, observation_range, episode_limit)
    rules = Rules(
        spec=spec,
        building=building,
        needed=sides_to_hold(building),
        num_evaders=num_evaders,
        shared_reward=shared_reward,
        observation_range=observation_range,
        num_catch=num_catch,
        freeze_evaders=freeze_evaders,
        tag_reward=tag_reward,
        catch_reward=catch_reward,
        urgency_reward=urgency_reward,
        surround=surround,
        constraint_window=constraint_window,
    )
    return Environment(
        spec=spec,
        reset=functools.partial(_reset, rules=rules),
        transition=functools.partial(_transition, rules=rules),
        sample_noise=_sample_noise,
        scripted=functools.partial(_scripted, rules=rules),
        scene=functools.partial(_scene, rules=rules),
    )
