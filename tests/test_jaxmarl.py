"""JaxMARL's environments as ours and ours as JaxMARL's: each shows what the other shows, step for step."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import jaxmarl
import numpy as np
import pytest
from jaxmarl.environments import MultiAgentEnv, State, spaces

from envs_jax import Box, check_environment, make
from envs_jax.adapters.from_jaxmarl import _native_space, from_jaxmarl
from envs_jax.adapters.space_codec import decoder
from envs_jax.adapters.to_jaxmarl import to_jaxmarl
from envs_jax.environment import Discrete, Environment, TimeStep
from envs_jax.reference_policies import sample_action
from mamt_jax.training.config import TrainingConfig
from mamt_jax.training.experiment import Experiment, build
from mamt_jax.training.vectorized import make_runs, run_keys, stack_configs

SPREAD, SPEAKER = "MPE_simple_spread_v3", "MPE_simple_speaker_listener_v4"


@flax.struct.dataclass
class WatchState(State):
    tired: jax.Array


class Watch(MultiAgentEnv):
    """A guard who is gone from step 2 on, and a thief whom an action above 0.5 makes rich; that, or step 4, ends it for all."""

    def __init__(self, **options: Any) -> None:
        super().__init__(2)
        self.agents = ["guard_0", "thief_0"]
        self.action_spaces = {"guard_0": spaces.Discrete(3), "thief_0": spaces.Discrete(2)} | options

    def get_obs(self, state: State) -> dict[str, jax.Array]:
        return {"guard_0": jnp.full((2, 2), state.step, jnp.int8), "thief_0": jnp.ones(3, jnp.int8), "world": jnp.ones(9)}

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        state = WatchState(jnp.array(False), jnp.array(0), jnp.array(False))
        return self.get_obs(state), state

    def step_env(self, key: jax.Array, state: WatchState, actions: Any) -> tuple[Any, ...]:
        step, rich = state.step + 1, jnp.ravel(actions["thief_0"])[0] > 0.5
        state = WatchState(rich | (step >= 4), step, step >= 2)
        dones = {"guard_0": state.tired, "thief_0": rich, "__all__": state.done}
        return self.get_obs(state), state, {"guard_0": 0, "thief_0": 1.0 * rich}, dones, {}

    def get_avail_actions(self, state: WatchState) -> dict[str, jax.Array]:
        return {"guard_0": jnp.array([1, 1, 0], jnp.uint8) * ~state.tired, "thief_0": jnp.ones(2, jnp.uint8)}


class Levers(Watch):
    """Watch that remembers what its last step was given, and in which everything is allowed."""

    def step_env(self, key: jax.Array, state: WatchState, actions: Any) -> tuple[Any, ...]:
        self.taken = actions
        return self.get_obs(state), state, dict.fromkeys(self.agents, 0.0), dict.fromkeys([*self.agents, "__all__"], False), {}

    def get_avail_actions(self, state: WatchState) -> Any:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def same_keys_twice() -> Iterator[None]:
    """Both sides get the same keys here."""
    with jax.debug_key_reuse(False):
        yield


@pytest.fixture
def jaxmarls_ranks() -> Iterator[None]:
    """JaxMARL's environments promote ranks, which tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


plays_theirs = pytest.mark.usefixtures("jaxmarls_ranks")


def play_ours(env: Environment, key: jax.Array, steps: int) -> tuple[TimeStep, jax.Array]:
    """What reset and random steps show, and the actions."""
    reset_key, key = jax.random.split(key)
    state, first = env.reset(reset_key)

    def step(state: Any, key: jax.Array) -> tuple[Any, tuple[TimeStep, jax.Array]]:
        action = sample_action(env.spec, key, jnp.asarray(env.spec.action_mask))
        state, timestep = env.step(key, state, action)
        return state, (timestep, action)

    _, (later, action) = jax.lax.scan(step, state, jax.random.split(key, steps))
    return jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, later), action


def play_theirs(env: MultiAgentEnv, step: Callable[..., Any], key: jax.Array, steps: int) -> tuple[Any, Any]:
    """Observations of reset, and what JaxMARL's `step` or `step_env` returns, its state aside."""
    reset_key, key = jax.random.split(key)
    first, state = env.reset(reset_key)

    def advance(state: Any, key: jax.Array) -> tuple[Any, Any]:
        actions = {agent: env.action_space(agent).sample(jax.random.fold_in(key, i)) for i, agent in enumerate(env.agents)}
        observations, state, *rest = step(key, state, actions)
        return state, (actions, observations, *rest)

    return first, jax.lax.scan(advance, state, jax.random.split(key, steps))[1]


def batched(play: Callable[..., Any], *arguments: Any, steps: int) -> Any:
    """Four games at once, from the same keys whenever it is called."""
    keys = jax.random.split(jax.random.key(3), 4)
    return jax.device_get(jax.jit(jax.vmap(lambda key: play(*arguments, key, steps)))(keys))


@plays_theirs
@pytest.mark.parametrize(
    ("name", "sizes", "actions"),
    [(SPEAKER, (3, 11), (3, 5)), pytest.param(SPREAD, (18, 18, 18), (5, 5, 5), marks=pytest.mark.slow)],
)
def test_ours_shows_what_jaxmarl_shows(name: str, sizes: tuple[int, ...], actions: tuple[int, ...]):
    theirs, env = jaxmarl.make(name), make(f"jaxmarl/{name}")
    spec = env.spec
    assert (spec.name, spec.agent_names, spec.episode_limit) == (f"jaxmarl/{name}", tuple(theirs.agents), 26)
    assert (spec.observation_sizes, spec.action_sizes) == (sizes, actions)

    def both(key: jax.Array, steps: int) -> tuple[Any, ...]:
        first, (taken, *shown) = play_theirs(theirs, theirs.step_env, key, steps)
        reset_key, key = jax.random.split(key)
        state, opening = env.reset(reset_key)
        action = jnp.stack([taken[agent] for agent in theirs.agents], -1)
        _, timestep = jax.lax.scan(lambda s, xs: env.step(xs[0], s, xs[1]), state, (jax.random.split(key, steps), action))
        return first, shown, opening, timestep

    first, (observations, rewards, dones, _), opening, timestep = batched(both, steps=26)
    for i, agent in enumerate(theirs.agents):
        np.testing.assert_array_equal(opening.observation[:, i, : sizes[i]], first[agent])
        np.testing.assert_allclose(timestep.observation[:, :, i, : sizes[i]], observations[agent], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(timestep.reward[:, :, i], rewards[agent], rtol=1e-5, atol=1e-6)
    assert not timestep.observation[:, :, ~spec.observation_mask].any()
    assert dones["__all__"][:, 25].all() and not dones["__all__"][:, :25].any()
    np.testing.assert_array_equal(timestep.truncated, dones["__all__"])
    assert not timestep.terminated.any()


@plays_theirs
@pytest.mark.slow
def test_unlike_agents_keep_the_contract():
    env = make(f"jaxmarl/{SPEAKER}", options={"action_type": "Continuous"})
    assert (env.spec.observation_sizes, env.spec.action_spaces) == ((3, 11), (Box(3, 0.0, 1.0), Box(5, 0.0, 1.0)))
    assert check_environment(env) == []
    assert check_environment(from_jaxmarl(Watch(), episode_limit=4)) == []


def test_who_has_ended_is_told_from_whom_the_clock_stops():
    env = from_jaxmarl(Watch(), episode_limit=4)
    assert env.spec.observation_sizes == (4, 3) and env.spec.observation_dtype == "int8"

    def play(env: Environment, *thief: int) -> TimeStep:
        def step(state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
            return env.step(jax.random.key(0), state, jnp.stack([0 * action, action]))

        return jax.jit(lambda thief: jax.lax.scan(step, env.reset(jax.random.key(0))[0], thief)[1])(jnp.array(thief))

    quiet = play(env, 0, 0, 0, 0)
    np.testing.assert_array_equal(quiet.terminated, [[0, 0], [1, 0], [1, 0], [1, 0]])
    np.testing.assert_array_equal(quiet.truncated, [0, 0, 0, 1])
    np.testing.assert_array_equal(quiet.observation[1], [[2, 2, 2, 2], [1, 1, 1, 0]])
    np.testing.assert_array_equal(quiet.action_mask[0], [[1, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(quiet.action_mask[1], [[1, 1, 1], [1, 1, 0]])  # not even idling was left: anything goes
    rich = play(env, 1)
    assert rich.terminated.all() and not rich.truncated.any() and rich.reward.tolist() == [[0, 1]]
    cut = play(from_jaxmarl(Watch(), episode_limit=2), 0, 0)  # before JaxMARL would end it
    np.testing.assert_array_equal(cut.truncated, [0, 1])
    np.testing.assert_array_equal(cut.terminated, [[0, 0], [1, 0]])


@plays_theirs
@pytest.mark.parametrize(("name", "limit"), [("switch_riddle", 6), ("coin_game", 100)])
def test_the_limit_is_where_jaxmarl_ends(name: str, limit: int):
    theirs = jaxmarl.make(name)
    assert from_jaxmarl(theirs).spec.episode_limit == limit

    @jax.jit
    def ends() -> jax.Array:
        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            _, state, _, dones, _ = theirs.step_env(key, state, {agent: jnp.int32(0) for agent in theirs.agents})
            return state, dones["__all__"]

        return jax.lax.scan(step, theirs.reset(jax.random.key(0))[1], jax.random.split(jax.random.key(1), limit))[1]

    np.testing.assert_array_equal(np.flatnonzero(ends()), [limit - 1])


BOXES = {"guard_0": spaces.Box(-1.0, 1.0, (2,)), "thief_0": spaces.Box(0.0, 1.0, (1,))}


@pytest.mark.parametrize("own_spaces", [{}, pytest.param(BOXES, marks=pytest.mark.slow)])
def test_ours_through_jaxmarl_is_ours(own_spaces: dict[str, spaces.Space]):
    env = from_jaxmarl(Watch(**own_spaces), 4)
    there = to_jaxmarl(env)
    back = from_jaxmarl(there, 4)
    assert dataclasses.replace(back.spec, observation_dtype="int8") == env.spec
    (ours, action), (theirs, same_action) = (batched(play_ours, each, steps=4) for each in (env, back))
    np.testing.assert_array_equal(action, same_action)
    assert ours.truncated[:, -1].all() and ours.terminated[:, 1].any()
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@plays_theirs
@pytest.mark.slow
def test_jaxmarls_own_through_ours_resets_itself_alike():
    original = jaxmarl.make("switch_riddle")
    there = to_jaxmarl(from_jaxmarl(original))
    (first, original_steps), (same_first, steps) = (batched(play_theirs, e, e.step, steps=30) for e in (original, there))
    jax.tree.map(np.testing.assert_array_equal, (first, original_steps), (same_first, steps))
    assert (steps[3]["__all__"].sum(1) >= 5).all() and np.unique(steps[2]["agent_0"]).size > 1


def test_jaxmarl_users_find_what_they_ask_for():
    assert to_jaxmarl(make("rover_tower")).agent_classes == {
        word: [f"{word}_{i}" for i in range(4)] for word in ("rover", "tower")
    }
    env = to_jaxmarl(make("spread", episode_limit=3))
    observations, state = env.reset(jax.random.PRNGKey(0))
    for agent, mask in env.get_avail_actions(state).items():
        assert env.observation_space(agent).contains(observations[agent])
        assert mask.shape == (5,) and mask.all()
    _, (_, _, _, dones, infos) = jax.device_get(play_theirs(env, env.step, jax.random.PRNGKey(1), 4))
    np.testing.assert_array_equal([dones[agent] for agent in (*env.agents, "__all__")], [[0, 0, 1, 0]] * 3)
    assert infos and {values.shape for values in infos.values()} == {(4, 2)}


@plays_theirs
@pytest.mark.slow
def test_it_trains():
    training = TrainingConfig(
        episodes=40, num_envs=4, update_interval=12, num_updates=1, batch_size=32, buffer_size=96, evaluation_episodes=4
    )
    what = Experiment("jaxmarl/switch_riddle", "probe:make", {"options": {"num_agents": 4}}, {}, ({"seed": 0},), training)
    built = build(what)
    assert isinstance(built.env, Environment)
    runs = make_runs(built.env, built.algorithm, training, built.schedule, 1)
    configs = stack_configs(built.configs)
    states = runs.advance(configs, runs.init(configs, run_keys([0])), 0, 15)
    assert states.learner_state.updates[0] == built.schedule.num_updates(15) > 0 < states.sums.episodes.episodes[0]


@plays_theirs
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("MPE_simple_spred_v3", {}, ["'MPE_simple_spred_v3'", "did you mean 'MPE_simple_spread_v3'?", "SMAX"]),
        (SPREAD, {"episode_limit": 27}, ["episode_limit=27", "ends its episodes after 26 steps", "at most 26"]),
        (SPREAD, {"episode_limit": 0}, ["episode_limit=0", "positive integer"]),
        (SPREAD, {"options": 3}, ["options=3", "mapping"]),
        ("switch_riddle", {"options": {"agents": 3}}, ["options={'agents': 3}", "unexpected keyword argument 'agents'"]),
        ("ant_4x2", {}, ["'ant_4x2'", "requires brax"]),
        ("storm", {}, ["cannot be converted", "a dict with an array for each"]),
    ],
)
def test_bad_input_gets_one_sentence(name: str, options: dict, words: list[str]):
    with pytest.raises(ValueError) as failure:
        make(f"jaxmarl/{name}", **options)
    message = str(failure.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and message.endswith(".") and not message.endswith("..")


@pytest.mark.parametrize(
    ("space", "own"),
    [
        (spaces.MultiDiscrete([2, 3]), Discrete(6)),
        (spaces.Box(0.0, jnp.array([1.0, 2.0]), (2,)), Box(2, -1.0, 1.0)),
        (spaces.Box(-3.0, 5.0, (2, 2)), Box(4, -3.0, 5.0)),
        (spaces.Box(0, 4, (2,), jnp.int32), Box(2, 0.0, 4.0)),
    ],
)
def test_actions_are_those_that_the_codec_of_other_libraries_gives(space: spaces.Space, own: Any):
    inner = Levers(guard_0=space, thief_0=space)
    env = from_jaxmarl(inner, 4)
    assert env.spec.action_spaces == (own, own) and not env.spec.has_action_masks
    decode = decoder(_native_space(inner, "guard_0"))
    state, _ = env.reset(jax.random.key(0))
    rng = np.random.default_rng(0)  # of a box: its ends, then anything
    ends = [np.full((2, own.size), end) for end in (own.low, own.high)] if isinstance(own, Box) else []
    size = (6, 2, own.size) if isinstance(own, Box) else (0,)
    boxes = [*ends, *rng.uniform(getattr(own, "low", 0), getattr(own, "high", 1), size)]
    for action in boxes or np.stack([np.arange(6), 5 - np.arange(6)], 1):
        env.step(jax.random.key(1), state, jnp.asarray(action))
        for row, agent in zip(action, inner.agents, strict=True):
            np.testing.assert_allclose(inner.taken[agent], decode(row), rtol=1e-5, atol=1e-6)
            assert inner.taken[agent].shape == decode(row).shape


def test_masks_are_declared_where_they_are_known():
    assert from_jaxmarl(Watch(), 4).spec.has_action_masks


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.MultiDiscrete([100, 100]), "MultiDiscrete of guard_0 is not valid: it has 10000 combinations \\(100 x 100\\)"),
        (spaces.Box(-jnp.inf, 1.0, (2,)), "Box of guard_0 is not valid: it must be Discrete, MultiDiscrete, "),
        (spaces.Dict({}), "Dict of guard_0 is not valid"),
    ],
)
def test_what_cannot_be_adapted_is_named(space: spaces.Space, words: str):
    with pytest.raises(ValueError, match=f"Watch cannot be converted, because the action space {words}"):
        from_jaxmarl(Watch(guard_0=space), 4)
    with pytest.raises(ValueError, match="Watch cannot be converted: some agents have discrete actions and others a Box"):
        from_jaxmarl(Watch(guard_0=spaces.Box(-1.0, 1.0, (2,))), 4)
    with pytest.raises(ValueError, match="episode_limit=None is not valid: Watch does not declare a time limit"):
        from_jaxmarl(Watch())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "envs_jax.adapters.from_jaxmarl")
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    with pytest.raises(ValueError, match=r'needs a package that cannot be imported .*`pip install "mamt_jax\[jaxmarl\]"`\.$'):
        make(f"jaxmarl/{SPREAD}")
