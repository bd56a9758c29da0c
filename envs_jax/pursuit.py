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

# What actions 0 to 4 do to (x, y). The first four also are the sides from which an evader is caught.
MOVES = np.array([[-1, 0], [1, 0], [0, 1], [0, -1], [0, 0]], np.int32)
SIDES, STAY = MOVES[:4], 4


@flax.struct.dataclass
class PursuitState:
    """Everything that Pursuit remembers. Positions are cells (x, y).

    Attributes:
        pursuer_position: (n, 2) int32.
        evader_position: (m, 2) int32; a caught evader's means nothing.
        evader_alive: (m,) bool.
        step: () int32.
    """

    pursuer_position: jax.Array
    evader_position: jax.Array
    evader_alive: jax.Array
    step: jax.Array


class Rules(NamedTuple):
    """The options of `pursuit`, and what follows from them.

    Attributes:
        spec: the environment's spec.
        building: (X, Y) bool, the block in the middle that nobody enters.
        needed: (X, Y) int32, how many sides of an evader must be held to catch it there.
        num_evaders, observation_range, ...: as `pursuit` says.
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
    """(X, Y) bool: the building."""
    x, y = np.arange(x_size) / x_size, np.arange(y_size) / y_size
    return np.outer((x > 0.3) & (x < 1.0 - 0.3), (y > 0.2) & (y < 1.0 - 0.2))


def sides_to_hold(building: np.ndarray) -> np.ndarray:
    """(X, Y) int32: of a cell's four sides, those that are neither the map's edge nor building."""
    inner = building.copy()
    inner[0] = inner[:, 0] = False  # the original forgets buildings in the first row and column
    on_edge = [np.isin(np.arange(size), (0, size - 1)).astype(np.int32) for size in building.shape]
    return 4 - np.add.outer(*on_edge) - np.asarray(sum_of_sides(np.pad(inner.astype(np.int32), 1)))


def sum_of_sides(padded: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """(X + 2, Y + 2) -> (X, Y): the sum over each cell's four sides, padding included."""
    return padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2]


def count(position: jax.Array, weight: jax.Array, size: tuple[int, int]) -> jax.Array:
    """(X, Y) int32: the summed weights (k,) of those whose position (k, 2) is a cell."""
    x, y = position.T
    return jnp.zeros(size, jnp.int32).at[x, y].add(weight.astype(jnp.int32), mode="promise_in_bounds")


def look_up(layer: jax.Array | np.ndarray, position: jax.Array) -> jax.Array:
    """(..., 2) cells -> what `layer` (X, Y) holds there."""
    return jnp.asarray(layer)[position[..., 0], position[..., 1]]


def move(building: np.ndarray, position: jax.Array, action: jax.Array) -> jax.Array:
    """One step of each, (k, 2); whoever would leave the map or enter the building stays. Any number may share a cell."""
    moved = position + jnp.asarray(MOVES)[action]
    inside = jnp.clip(moved, 0, np.array(building.shape, np.int32)[None] - 1)
    free = (inside == moved).all(-1) & ~look_up(building, inside)
    return jnp.where(free[:, None], inside, position)


def catch(rules: Rules, pursuers: jax.Array, evader_position: jax.Array, alive: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Who is caught, all evaders tested against the same pursuers.

    Args:
        rules: the rules.
        pursuers: (X, Y), how many stand in each cell.
        evader_position: (m, 2).
        alive: (m,).

    Returns:
        (m,) bool, the evaders caught; (X, Y) bool, the cells from which pursuers took part.
    """
    if not rules.surround:
        caught = alive & (look_up(pursuers, evader_position) >= rules.num_catch)
        return caught, count(evader_position, caught, rules.building.shape) > 0
    held = sum_of_sides(jnp.pad((pursuers > 0).astype(jnp.int32), 1))
    caught = alive & look_up(jnp.asarray(held) == rules.needed, evader_position)
    return caught, jnp.asarray(sum_of_sides(jnp.pad(count(evader_position, caught, rules.building.shape), 1))) > 0


def tags(rules: Rules, evaders: jax.Array, position: jax.Array) -> jax.Array:
    """(n,): for each pursuer the evaders on its four sides; beyond the map's edge its own cell counts instead."""
    return look_up(jnp.asarray(sum_of_sides(jnp.pad(evaders, 1, mode="edge"))), position)


def reward(rules: Rules, tags_before: jax.Array, tags_after: jax.Array, involved: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The sum of the rewards of a cycle, (n,).

    The original moves pursuers one after another and pays a share of the tags after every move: pursuer j has been paid j
    times for where it stood and n - j times for where it stands.
    """
    n = rules.spec.num_agents
    moves_before = jnp.arange(n)
    tagged = (moves_before * tags_before.astype(dtype) + (n - moves_before) * tags_after.astype(dtype)) / n
    own = rules.tag_reward * tagged + rules.catch_reward * involved.astype(dtype) + rules.urgency_reward
    return jnp.broadcast_to(own.mean(), own.shape) if rules.shared_reward else own


def observe(rules: Rules, pursuer_position: jax.Array, pursuers: jax.Array, evaders: jax.Array) -> jax.Array:
    """What each pursuer sees around itself, (n, w * w * 3): [y, x, (building or outside, pursuers, evaders)], flattened."""
    width = rules.observation_range
    offset = (width - 1) // 2
    seen, unseen = 2 * offset + 1, width - (2 * offset + 1)
    # The three layers share an integer, so that a window is cut once: two thirds of the time of three cuts.
    layers = jnp.pad(rules.building.astype(np.int32), offset, constant_values=1)
    layers += jnp.pad(pursuers << 1, offset) + jnp.pad(evaders << 16, offset)
    cut = jax.vmap(lambda position: jax.lax.dynamic_slice(layers.T, (position[1], position[0]), (seen, seen)))
    view = jnp.pad(cut(pursuer_position), ((0, 0), (0, unseen), (0, unseen)), constant_values=1)
    view = jnp.stack([view & 1, view >> 1 & 0x7FFF, view >> 16], -1)
    return view.reshape(rules.spec.num_agents, -1).astype(jnp.float32)


def windows(size: int, share: float) -> set[tuple[int, int]]:
    """All [low, high) of a window of `share` of an axis of `size` cells that starts anywhere."""
    cells = np.arange(size + 1) / size
    ends = np.unique(np.clip(np.concatenate([cells, cells - share]), 0.0, 1.0 - share))
    starts = (ends[:-1] + ends[1:]) / 2 if share < 1.0 else np.zeros(1)
    return {(int(size * start), int(size * (start + share))) for start in starts}


def require_room(building: np.ndarray, share: float, crowd: int) -> None:
    """Raises ValueError if some window cannot hold `crowd` agents of which no two share a side."""
    parity = np.add.outer(*map(np.arange, building.shape)) % 2
    rooms = [
        max((~building[x0:x1, y0:y1] & (parity[x0:x1, y0:y1] == side)).sum() for side in (0, 1))
        for x0, x1 in windows(building.shape[0], share)
        for y0, y1 in windows(building.shape[1], share)
    ]
    if min(rooms) < crowd:
        raise ValueError(
            f"constraint_window={share} is not valid: such a window of this {building.shape[0]} x {building.shape[1]} map can "
            f"be so placed that it holds {min(rooms)} agents apart from each other, and there are {crowd} to place; "
            f"give a wider window, a larger map or fewer agents."
        )


def place(key: jax.Array, allowed: jax.Array, num: int) -> jax.Array:
    """(num, 2): cells drawn one after another, each uniform over those `allowed` (X, Y) that touch no earlier one.

    Each cell draws its rank once: the best of what is left is uniform over it. Where nothing is left, and the original would
    search for ever, cells beside earlier ones are taken.
    """
    x, y = (jnp.arange(size) for size in allowed.shape)
    # Rank and cell share an int32, so that finding the best is one maximum: a reset stands in every step.
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
    """(size,) bool: the cells along one axis of a window of `share` of it that starts anywhere."""
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
    """Four by four, pursuers take the sides of the evader that is nearest to their group."""
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
    """Where discs stand that share the cells (n, 2), in a circle within their cell, (n, 2), and their radii (n,)."""
    together = (cells[:, None] == cells[None]).all(-1)
    count = together.sum(1)
    angle = 2 * np.pi * np.tril(together, -1).sum(1) / count
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    return cells + np.where(count > 1, 0.24, 0.0)[:, None] * circle, np.where(count > 1, 0.24, 0.4)


def _scene(state: PursuitState, rules: Rules, views: bool = False) -> Scene:
    """Pursuers are discs, evaders rings; `views` lays over the map what each pursuer sees."""
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
    """Pursuit: pursuers catch evaders, which move at random, by surrounding them; the original (pursuit_v5) move for move.

    - observation: the cells around oneself, [y, x, layer] flattened: building or beyond the map, pursuers, evaders there.
    - action: five, int32: to x - 1, x + 1, y + 1, y - 1, or stay. Walls and the building stop a move; agents share cells.
    - reward: `catch_reward` for having a part in a catch, `tag_reward` for each evader beside oneself, `urgency_reward` each
      step; the mean over pursuers where `shared_reward`.
    - termination: no evader is left; truncated after `episode_limit` steps.
    - state: `PursuitState`. Noise: the evaders' actions (num_evaders,) int32, so that `env._replace(sample_noise=...)` gives
      them another controller.

    Metrics: `catches`, the evaders caught in a step; `evaders_left`, the share of evaders not caught yet; `all_caught`, whether
    none is left, of an episode its last value.

    Args:
        num_pursuers: pursuers, the agents.
        num_evaders: evaders at the start.
        x_size: width of the map in cells.
        y_size: height of the map in cells.
        episode_limit: steps before truncation.
        shared_reward: whether all pursuers receive the mean of their rewards; else each receives its own.
        observation_range: width of what a pursuer sees, in cells; of an even one the last row and column stay empty.
        num_catch: pursuers on an evader's cell that catch it, where `surround` is False.
        freeze_evaders: whether evaders stay where they are.
        tag_reward: reward per step for each evader beside a pursuer.
        catch_reward: reward of each pursuer that takes part in a catch.
        urgency_reward: reward of every step.
        surround: whether pursuers must hold all free sides of an evader to catch it.
        constraint_window: share of the map's width and height in which a random window holds everybody at the start.

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
