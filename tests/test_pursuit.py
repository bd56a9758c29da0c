"""Pursuit against pettingzoo's original from injected states, and where its agents start."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pettingzoo.sisl.pursuit.pursuit import raw_env

from envs_jax import make
from envs_jax.adapters.originals import original_options
from envs_jax.environment import Environment, TimeStep
from envs_jax.pursuit import MOVES, STAY, PursuitState, block, in_window, place
from envs_jax.reference_policies import scripted_policy
from envs_jax.rollout import play

CYCLES = 2250
CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"shared_reward": False},
    {"surround": False},
    {"surround": False, "shared_reward": False, "num_catch": 3, "x_size": 5, "y_size": 6, "num_evaders": 4},
    {"x_size": 7, "y_size": 5, "num_pursuers": 6, "num_evaders": 4, "shared_reward": False},
    {"x_size": 5, "y_size": 4, "num_pursuers": 4, "num_evaders": 2, "observation_range": 9, "shared_reward": False},
    {"observation_range": 3, "num_pursuers": 3, "num_evaders": 5, "x_size": 9, "y_size": 12},
    {"observation_range": 6, "num_pursuers": 4, "freeze_evaders": True, "tag_reward": 0.3, "urgency_reward": 0.0},
    {"constraint_window": 0.95, "num_pursuers": 2, "num_evaders": 1, "x_size": 4, "y_size": 17, "catch_reward": 2.5},
]
QUICK = {"x_size": 7, "y_size": 5, "num_pursuers": 4, "num_evaders": 2, "observation_range": 5, "shared_reward": False}


class Recorded:
    """The original's evader controller: plays the moves that it is given, one for every evader that is still there."""

    def __init__(self) -> None:
        self.game: Any = None
        self.noise = np.zeros(0, np.int32)
        self.asked = 0

    def act(self, state: np.ndarray) -> int:
        del state
        self.asked += 1
        return int(self.noise[~self.game.evaders_gone][self.asked - 1])


def original(options: dict[str, Any], controller: Recorded) -> Any:
    """pettingzoo's Pursuit of the same options. A frozen evader keeps the original's own controller."""
    theirs = original_options("pursuit", **options)
    env = raw_env(**theirs, evader_controller=None if options.get("freeze_evaders") else controller)
    env.reset(seed=0)
    controller.game = env.env
    return env


def crowded_states(
    rng: np.random.Generator, env: Environment, building: np.ndarray, num_evaders: int, cycles: int
) -> PursuitState:
    """A state for every cycle; pursuers gather around the first evader, so that catches of every kind occur."""
    n, last = env.spec.num_agents, np.array(building.shape) - 1
    free = np.argwhere(~building)
    walls = free[((free == 0) | (free == last)).any(1)]
    evaders = free[rng.integers(len(free), size=(cycles, num_evaders))]
    evaders[::3, 0] = walls[rng.integers(len(walls), size=len(evaders[::3]))]
    evaders[::4, 0] = rng.choice([0, 1], (len(evaders[::4]), 2)) * last
    around = rng.permuted(np.resize(np.arange(5), (cycles, n)), axis=1)
    position = evaders[:, :1] + MOVES[np.where(rng.random((cycles, 1)) < 0.2, STAY, around)]
    inside = np.clip(position, 0, last)
    usable = (inside == position).all(-1) & ~building[inside[..., 0], inside[..., 1]]
    pursuers = np.where(usable[..., None], inside, free[rng.integers(len(free), size=(cycles, n))])
    alive = rng.random((cycles, num_evaders)) < rng.choice([0.0, 0.5, 1.0], (cycles, 1))
    alive[:, 0] = True
    step = rng.choice([0, env.spec.episode_limit - 2, env.spec.episode_limit - 1], cycles)
    pursuers, evaders, step = (jnp.asarray(x, jnp.int32) for x in (pursuers, evaders, step))
    return PursuitState(pursuers, evaders, jnp.asarray(alive), step)


def inject(game: Any, evaders: list[Any], state: PursuitState) -> None:
    """Put the original into `state`; `evaders` are its evader objects, one a slot."""
    for agent, cell in zip((*game.pursuers, *evaders), (*state.pursuer_position, *state.evader_position), strict=True):
        agent.set_position(*cell)
    game.evader_layer.allies = [evader for evader, alive in zip(evaders, state.evader_alive, strict=True) if alive]
    game.evader_layer.nagents = len(game.evader_layer.allies)
    game.evaders_gone = ~state.evader_alive
    game.frames = int(state.step)
    game.model_state[1:3] = [layer.get_state_matrix() for layer in (game.pursuer_layer, game.evader_layer)]


def play_original(theirs: Any, evaders: list[Any], state: PursuitState, action: np.ndarray) -> dict[str, Any]:
    """What one cycle of the original leads to from `state`."""
    game, agents = theirs.env, theirs.possible_agents
    inject(game, evaders, state)
    theirs.terminations, theirs.truncations = dict.fromkeys(agents, False), dict.fromkeys(agents, False)
    total = np.zeros(len(agents))
    for each in action:
        theirs.step(int(each))
        total += [theirs.rewards[agent] for agent in agents]
    return {
        "pursuer_position": np.array([pursuer.current_position() for pursuer in game.pursuers]),
        "evader_position": np.array([evader.current_position() for evader in evaders]),
        "evader_alive": ~game.evaders_gone,
        "reward": total,
        "observation": np.stack([theirs.observe(agent).ravel() for agent in agents]),
        "terminated": np.array([theirs.terminations[agent] for agent in agents]),
        "truncated": theirs.truncations[agents[0]],
    }


@pytest.mark.parametrize(
    ("options", "cycles"),
    [(QUICK, 600), *(pytest.param(options, CYCLES, marks=pytest.mark.slow) for options in CONFIGURATIONS)],
    ids=str,
)
def test_every_cycle_equals_the_original(options: dict[str, Any], cycles: int) -> None:
    env, controller = make("pursuit", **options), Recorded()
    theirs = original(options, controller)
    building = block(options.get("x_size", 16), options.get("y_size", 16))
    assert np.array_equal(building, theirs.env.map_matrix == -1)
    rng = np.random.default_rng(7)
    state = jax.device_get(crowded_states(rng, env, building, options.get("num_evaders", 30), cycles))
    action = rng.choice(5, (cycles, env.spec.num_agents), p=[0.05, 0.05, 0.05, 0.05, 0.8]).astype(np.int32)
    noise = rng.integers(5, size=state.evader_alive.shape).astype(np.int32)

    evaders, expected = [*theirs.env.evaders], []
    for i in range(cycles):
        controller.noise, controller.asked = noise[i], 0
        expected.append(play_original(theirs, evaders, jax.tree.map(lambda x, i=i: x[i], state), action[i]))
    expected = {name: np.stack([each[name] for each in expected]) for name in expected[0]}
    with jax.enable_x64(True):
        ours: tuple[PursuitState, TimeStep] = jax.jit(jax.vmap(env.transition))(jax.tree.map(jnp.asarray, state), action, noise)
    after, timestep = ours

    alive = expected["evader_alive"]
    np.testing.assert_array_equal(after.evader_alive, alive)
    np.testing.assert_array_equal(after.pursuer_position, expected["pursuer_position"])
    np.testing.assert_array_equal(np.asarray(after.evader_position)[alive], expected["evader_position"][alive])
    np.testing.assert_array_equal(timestep.observation, expected["observation"])
    np.testing.assert_array_equal(timestep.terminated, expected["terminated"])
    np.testing.assert_array_equal(timestep.truncated, expected["truncated"])
    np.testing.assert_allclose(timestep.reward, expected["reward"], rtol=0, atol=1e-12)
    caught = np.asarray(state.evader_alive) & ~alive
    walls = (state.evader_position == 0) | (state.evader_position == np.array(building.shape) - 1)
    assert caught.sum() > 50 and (caught & walls.any(-1)).sum() > 10
    assert timestep.terminated.any() and timestep.truncated.any()


def test_starts_are_drawn_as_in_the_original() -> None:
    """Two pursuers on a small map: every ordered pair of cells as often as drawing until it fits makes it."""
    building = block(4, 4)
    free = [tuple(cell) for cell in np.argwhere(~building)]
    apart = {a: [b for b in free if abs(a[0] - b[0]) + abs(a[1] - b[1]) > 1] for a in free}
    pairs = {(a, b): 1 / len(free) / len(apart[a]) for a in free for b in apart[a]}
    env, count = make("pursuit", x_size=4, y_size=4, num_pursuers=2, num_evaders=2), 10_000
    state = jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(jax.random.split(jax.random.key(0), count))
    for position in (state.pursuer_position, state.evader_position):
        cells = [(tuple(a), tuple(b)) for a, b in np.asarray(position).tolist()]
        observed = np.array([cells.count(pair) for pair in pairs])
        expected = count * np.array(list(pairs.values()))
        assert observed.sum() == count
        assert (np.square(observed - expected) / expected).sum() < len(pairs) + 4 * np.sqrt(2 * len(pairs))


def test_windows_start_as_in_the_original() -> None:
    draws = 20_000
    cells = np.asarray(jax.vmap(lambda key: in_window(key, 16, 0.3))(jax.random.split(jax.random.key(1), draws)))
    start = np.random.default_rng(0).uniform(0, 0.7, draws)
    theirs = np.stack([(16 * start).astype(int), (16 * (start + 0.3)).astype(int)], 1)
    ours = np.stack([cells.argmax(1), cells.argmax(1) + cells.sum(1)], 1)
    for pair in itertools.product(range(16), range(17)):
        shares = [(both == pair).all(1).mean() for both in (ours, theirs)]
        assert abs(shares[0] - shares[1]) < 6 * np.sqrt(max(shares) / draws) + 1e-9


def test_agents_start_apart_and_where_they_may() -> None:
    env = make("pursuit", constraint_window=0.95)
    state = jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(jax.random.split(jax.random.key(2), 200))
    for position in np.asarray(state.evader_position), np.asarray(state.pursuer_position):
        distance = np.abs(position[:, :, None] - position[:, None]).sum(-1)
        assert (distance[:, ~np.eye(distance.shape[1], dtype=bool)] > 1).all()
        assert not block(16, 16)[position[..., 0], position[..., 1]].any()


def test_a_full_map_takes_the_rest_without_a_hang() -> None:
    cells = place(jax.random.key(0), jnp.ones((3, 3), bool), 7)
    assert len({tuple(cell) for cell in cells.tolist()}) >= 2


@pytest.mark.parametrize("share", [0.06, 0.5])
def test_a_window_without_room_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"constraint_window={share} is not valid: .* only [04] agents .* but 30 must"):
        make("pursuit", constraint_window=share)


def test_frozen_evaders_and_idle_pursuers_stay() -> None:
    env = make("pursuit", freeze_evaders=True)

    @jax.jit
    def play(key: jax.Array) -> tuple[PursuitState, PursuitState]:
        reset_key, step_key = jax.random.split(key)
        state, _ = env.reset(reset_key)
        return state, env.step(step_key, state, jnp.full(8, STAY, jnp.int32))[0]

    state, after = play(jax.random.key(0))
    np.testing.assert_array_equal(after.evader_position, state.evader_position)
    np.testing.assert_array_equal(after.pursuer_position, state.pursuer_position)


def test_an_episode_tells_whether_all_are_caught() -> None:
    env = make("pursuit", num_pursuers=4, num_evaders=1, x_size=8, y_size=8, episode_limit=60)
    played = play(env, scripted_policy(env), jax.random.key(0), 4)
    assert (played.episode_length < 60).any() and (played.metrics["all_caught"] == (played.episode_length < 60)).all()
