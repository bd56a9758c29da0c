"""What is wrong in one element of a batch, and when its episode ends, leaves all other elements as they are, bit for bit."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pettingzoo import ParallelEnv

from envs_jax import Box, Environment, EnvSpec, auto_reset, episode_statistics, make
from envs_jax.adapters.from_pettingzoo import from_pettingzoo
from envs_jax.adapters.to_jaxmarl import to_jaxmarl
from envs_jax.batching import separately

RUNS, ENVS = 2, 3
BATCH, STEPS = RUNS * ENVS, 3
ENDING = 1  # the element whose episode ends in the first step
ELEMENTS = (0, BATCH // 2, BATCH - 1)
NUMBERS = (np.nan, np.inf, -np.inf, 1e30, -1e30)
INTEGERS = (-(2**31), -1, 2**31 - 1)


@pytest.fixture(autouse=True)
def same_keys_again() -> Iterator[None]:
    """All that is compared gets the same keys; JaxMARL promotes ranks."""
    with jax.debug_key_reuse(False), jax.numpy_rank_promotion("allow"):
        yield


def batch_step(step: Callable[..., Any], nested: bool) -> Callable[..., Any]:
    """`step` of trees with a leading axis BATCH, by one vmap, or over runs and their environments."""

    def fold(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(RUNS, ENVS, *leaf.shape[1:])

    def steps(*arguments: Any) -> Any:
        if not nested:
            return jax.vmap(step)(*arguments)
        result = jax.vmap(jax.vmap(step))(*jax.tree.map(fold, arguments))
        return jax.tree.map(lambda leaf: leaf.reshape(BATCH, *leaf.shape[2:]), result)

    return jax.jit(steps)


def draw_keys(number: int) -> jax.Array:
    return jax.random.split(jax.random.fold_in(jax.random.key(0), number), BATCH)


def put(leaf: Any, element: int, value: float) -> np.ndarray:
    leaf = np.array(leaf)
    leaf[element] = value
    return leaf


def break_numbers(tree: Any, element: int, value: float) -> Any:
    """`tree` with `value` for all floating-point numbers of one element."""
    return jax.tree.map(lambda leaf: put(leaf, element, value) if leaf.dtype == np.float32 else leaf, tree)


def end_soon(tree: Any, element: int, limit: int) -> Any:
    """`tree` with an episode that the clock ends in the next step in one element."""

    def late(path: Any, leaf: Any) -> Any:
        return put(leaf, element, limit - 1) if jax.tree_util.keystr(path).endswith(".step") else leaf

    return jax.tree_util.tree_map_with_path(late, tree)


def to_bytes(leaf: Any) -> np.ndarray:
    leaf = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.frombuffer(np.asarray(leaf).tobytes(), np.uint8).reshape(BATCH, -1)


def changed_elements(one: Any, other: Any) -> list[int]:
    """Elements of two trees that are not the same, bit for bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return np.flatnonzero(np.any([(to_bytes(a) != to_bytes(b)).any(1) for a, b in pairs], 0)).tolist()


Play = Callable[[Any, Callable[[np.ndarray], np.ndarray]], list[Any]]
"""(state, what is done to actions) -> all that STEPS steps show."""


def require_independence(play: Play, state: Any, limit: int, discrete: bool) -> list[Any]:
    """Whatever is done to one element leaves the others as they are; returns what a healthy batch shows."""

    def same(action: np.ndarray) -> np.ndarray:
        return action

    def require(what: str, element: int, state: Any, change: Callable[[np.ndarray], np.ndarray] = same) -> None:
        others = set(changed_elements(play(state, change), healthy)) - {element}
        assert not others, f"{what} in element {element} changes elements {sorted(others)}"

    state = end_soon(state, ENDING, limit)
    healthy = play(state, same)
    for element in ELEMENTS:
        require("the end of the episode", element, end_soon(state, element, limit))
        for value in NUMBERS:
            require(f"{value} as state", element, break_numbers(state, element, value))
        for value in INTEGERS if discrete else NUMBERS:
            require(f"{value} as action", element, state, functools.partial(put, element=element, value=value))
    return healthy


def draw_actions(spec: EnvSpec, number: int) -> np.ndarray:
    rng, shape = np.random.default_rng(number), (BATCH, spec.num_agents)
    if spec.discrete:
        return rng.integers(0, spec.action_sizes, shape, np.int32)
    space = spec.action_spaces[0]
    assert isinstance(space, Box)
    return rng.uniform(space.low, space.high, (*shape, spec.action_size)).astype(np.float32)


def make_play(spec: EnvSpec, step: Callable[..., Any], first: int, count: int) -> Play:
    """`count` steps from the `first` on."""

    def play(state: Any, change: Callable[[np.ndarray], np.ndarray]) -> list[Any]:
        shown = []
        for number in range(first, first + count):
            state, *seen = step(draw_keys(number), state, change(draw_actions(spec, number)))
            shown.append((state, seen))
        return shown

    return play


def whole(env: Environment) -> Environment:
    return episode_statistics(auto_reset(env))


def bare(env: Environment) -> Environment:
    return env


ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "spread": {"num_agents": 3},
    "spread3_sep": {},
    "spread3_mix": {"position_first": False},
    "spread3_ful": {"continuous_actions": True},
    "rover_tower": {},
    "pursuit": {"num_pursuers": 3, "num_evaders": 4},
    "matrix_game": {},
    "repeat_first": {"num_agents": 3},
    "jaxmarl/MPE_simple_tag_v3": {},
    "jaxmarl/MPE_simple_spread_v3": {"options": {"action_type": "Continuous"}},
}
CASES = [(name, whole, True) for name in ENVIRONMENTS] + [
    ("spread", bare, False),
    ("spread", bare, True),
    ("spread", auto_reset, False),
    ("spread", episode_statistics, False),
    ("rover_tower", whole, False),
    ("pursuit", bare, False),
]
QUICK = [("spread", whole, True), ("pursuit", bare, False)]


@pytest.mark.parametrize(
    ("name", "wrap", "nested"), [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_elements_are_independent(name: str, wrap: Callable[[Environment], Environment], nested: bool) -> None:
    env = wrap(make(name, **ENVIRONMENTS[name]))
    state, _ = batch_step(env.reset, nested)(draw_keys(0))
    play = make_play(env.spec, batch_step(env.step, nested), 1, STEPS)
    require_independence(play, state, env.spec.episode_limit, env.spec.discrete)


@pytest.mark.slow
def test_elements_are_independent_as_jaxmarls() -> None:
    spec, env = make("spread").spec, to_jaxmarl(make("spread"))

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Any]:
        observations, state, *others = env.step(key, state, dict(zip(env.agents, action, strict=True)))
        return state, (observations, others)

    _, state = batch_step(env.reset, False)(draw_keys(0))
    require_independence(make_play(spec, batch_step(step, False), 1, STEPS), state, spec.episode_limit, True)


LONG = pytest.mark.long


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "wrap", "nested"),
    [
        ({}, whole, True),
        pytest.param({}, bare, False, marks=LONG),
        pytest.param({"original_rules": True, "terminate_on_fall": False}, auto_reset, False, marks=LONG),
        pytest.param({"terminate_on_fall": False, "remove_on_fall": False, "shared_reward": False}, whole, True, marks=LONG),
        ({"solver": "original", "original_rules": True}, whole, True),
        pytest.param({"solver": "original", "terminate_on_fall": False}, bare, False, marks=LONG),
        pytest.param({"num_walkers": 1}, whole, False, marks=LONG),
    ],
)
def test_walkers_of_a_batch_are_independent(
    options: dict[str, Any], wrap: Callable[[Environment], Environment], nested: bool
) -> None:
    env = wrap(make("multiwalker", **{"num_walkers": 2, "terrain_length": 60} | options))
    state, _ = batch_step(env.reset, nested)(draw_keys(0))
    step = batch_step(env.step, nested)
    settling = [state for state, _ in make_play(env.spec, step, 1, 40)(state, lambda action: action)]
    landing = np.arange(BATCH) % 2 < 1  # these come down to the ground, the others have walked on it for a while

    def either(soon: jax.Array, late: jax.Array) -> jax.Array:
        return jnp.where(landing.reshape(-1, *[1] * (soon.ndim - 1)), soon, late)

    first = int(np.argmax([on_ground(state)[landing].any() for state in settling]))
    state = jax.tree.map(either, settling[first - 1], settling[-1])
    healthy = require_independence(make_play(env.spec, step, 50, STEPS), state, env.spec.episode_limit, False)
    stands = np.stack([on_ground(state) for state in (state, *(state for state, _ in healthy))])
    assert (stands[1:] & ~stands[:-1])[:, landing].any() and stands[:, ~landing].any()


def on_ground(state: Any) -> np.ndarray:
    """(BATCH, 2, n) bool: whether lower legs touch anything."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    (feet,) = (leaf for path, leaf in leaves if leaf.dtype == jnp.int32 and jax.tree_util.keystr(path).endswith(".feet"))
    return np.asarray(jnp.any(feet >= 0, 1))


def test_a_formula_compiled_apart_is_computed_whatever_its_numbers() -> None:
    numbers = jnp.array([np.nan, 1.0, 2.0])
    doubled = jax.jit(lambda numbers: separately(lambda numbers: 2 * numbers, numbers))(numbers)
    np.testing.assert_array_equal(doubled, 2 * numbers)
    counts = jax.jit(lambda counts: separately(lambda counts, none: (counts + 1, none), counts, counts[:0]))(jnp.arange(3))[0]
    np.testing.assert_array_equal(counts, [1, 2, 3])


class Drift(ParallelEnv):
    """Two boats that go where they are steered."""

    metadata = {"name": "drift", "render_modes": []}
    possible_agents = ["boat_0", "boat_1"]

    def observation_space(self, agent: str) -> gymnasium.Space:
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def action_space(self, agent: str) -> gymnasium.Space:
        return gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.agents, self.steps = self.possible_agents[:], 0
        self.place = {agent: np.zeros(2, np.float32) for agent in self.agents}
        return dict(self.place), {agent: {} for agent in self.agents}

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        self.steps += 1
        self.place = {agent: self.place[agent] + actions[agent] for agent in self.agents}
        reward = {agent: -float(np.abs(place).sum()) for agent, place in self.place.items()}
        never, over = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, self.steps == 4)
        agents, self.agents = self.agents, [] if self.steps == 4 else self.agents
        return dict(self.place), reward, never, over, {agent: {} for agent in agents}


@pytest.mark.slow
def test_environments_of_a_host_batch_are_independent() -> None:
    env = from_pettingzoo(Drift, 4, processes=2)
    batch, rng = env.open(BATCH), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (6, BATCH, 2, 2)).astype(np.float32)

    def play(element: int, value: float | None) -> list[Any]:
        shown = [batch.reset(np.arange(BATCH))]
        for action in actions:
            shown.append(batch.step(action if value is None else put(action, element, value)))
        return shown

    try:
        healthy = play(0, None)
        for element in ELEMENTS:
            for value in NUMBERS:
                changed = changed_elements(play(element, value), healthy)
                assert set(changed) <= {element}, f"{value} in environment {element} changes {changed}"
    finally:
        batch.close()
