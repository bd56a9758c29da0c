"""Multi-Walker against the original: ground, observations, rewards and ends exactly, its physics as near as can be."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("Box2D")

from pettingzoo.sisl.multiwalker.multiwalker import parallel_env  # noqa: E402

from envs_jax import auto_reset, make, random_policy, rollout  # noqa: E402
from envs_jax.multiwalker import model, terrain
from envs_jax.multiwalker.env import Rules, contact_flags, follow_flags, judge  # noqa: E402
from envs_jax.multiwalker.observation import observe  # noqa: E402
from envs_jax.multiwalker.physics import simulation  # noqa: E402
from envs_jax.multiwalker.physics.contact_detection import NO_CONTACT, NUM_TOUCHABLE  # noqa: E402
from envs_jax.multiwalker.physics.world import Solver, initial_world  # noqa: E402
from multiwalker_states import Compared, column, control, feet_flags, read_bodies, read_world  # noqa: E402

QUICK = {"xla_backend_optimization_level": 0}
N = 3


@pytest.fixture(autouse=True)
def ranks_meet_at_their_ends() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"):
        yield


class Recorder:
    """A generator that remembers what it drew."""

    def __init__(self, seed: int) -> None:
        self.rng, self.uniforms, self.integers_drawn = np.random.default_rng(seed), [], []

    def uniform(self, low: float, high: float) -> float:
        self.uniforms.append(self.rng.uniform(low, high))
        return self.uniforms[-1]

    def integers(self, low: float, high: float) -> int:
        self.integers_drawn.append(int(self.rng.integers(int(low), int(high))))
        return self.integers_drawn[-1]


def original(seed: int, **options: Any) -> tuple[Any, Any]:
    """The original in its parallel form, and its inside."""
    env: Any = parallel_env(n_walkers=N, position_noise=0.0, angle_noise=0.0, **options)
    env.reset(seed=seed)
    return env, env.unwrapped.env


def play(seed: int, steps: int, **options: Any) -> Any:
    """Yields the original's inside with the world before and after every step under random actions."""
    env, inside = original(seed, **options)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        if len(env.agents) < N:
            return
        before = read_world(inside, simulation.ORIGINAL)
        action = rng.uniform(-1, 1, (N, 4)).astype(np.float32)
        env.step(dict(zip(env.possible_agents, action, strict=True)))
        yield inside, before, action


def test_the_ground_is_the_originals() -> None:
    _, inside = original(0)
    inside.np_random = recorder = Recorder(3)
    inside._generate_terrain(False)
    bump, stretch = np.zeros(200), np.zeros(200, int)
    uniforms, integers = iter(recorder.uniforms), iter(recorder.integers_drawn)
    counter, flat = terrain.START, False
    for i in range(200):
        if not flat and i > terrain.START:
            bump[i] = next(uniforms)
        counter, flat = counter - 1, counter == 1
        if flat:
            counter = stretch[i] = next(integers)
    ours = terrain.heights(column(bump), jnp.asarray(stretch)[:, None])
    np.testing.assert_allclose(ours[:, 0], inside.terrain_y, atol=2e-5)
    assert np.ptp(inside.terrain_y) > 0.2 and next(uniforms, None) is next(integers, None) is None


def test_bits_make_bumps_and_stretches() -> None:
    bump, stretch = terrain.draws(jax.random.bits(jax.random.key(0), (5000,), jnp.uint32))
    assert abs(float(bump.mean())) < 0.03 and -1 <= float(bump.min()) < -0.99 and 0.99 < float(bump.max()) <= 1
    assert np.bincount(stretch, minlength=10)[5:].min() > 850 and set(np.unique(stretch)) == {5, 6, 7, 8, 9}


def test_bodies_weigh_what_the_originals_do() -> None:
    _, inside = original(0)
    walker, package = inside.walkers[0], model.make_package(N)
    bodies = [walker.hull, *walker.legs]
    np.testing.assert_allclose(model.MASS, [each.mass for each in bodies], rtol=1e-5)
    about_centre = [each.inertia - each.mass * np.dot(each.localCenter, each.localCenter) for each in bodies]
    np.testing.assert_allclose(model.INERTIA, about_centre, rtol=1e-4)
    np.testing.assert_allclose((package.mass, package.inertia), (inside.package.mass, inside.package.inertia), rtol=1e-4)
    start = initial_world(N, simulation.ORIGINAL, 1)
    pose, _, package_pose, _ = read_bodies(inside)
    np.testing.assert_allclose(start.pose[..., 0], pose, atol=1e-5)
    np.testing.assert_allclose(start.package_pose[:, 0], package_pose, atol=1e-5)


def test_walkers_see_what_the_originals_do() -> None:
    program = jax.jit(observe, static_argnums=5, compiler_options=QUICK)
    present, noise = jnp.ones((N, 1), bool), jnp.zeros((7, N, 1))
    length = model.make_package(N).length
    for seed in range(2):
        for inside, _, _ in play(seed, 30):
            world = read_world(inside, simulation.ORIGINAL)
            feet = feet_flags(inside)[..., None]
            heights = column(inside.terrain_y)
            seen = program(world, feet, present, heights, noise, length)
            # The one ray that grazes a corner may hit or miss.
            wrong = np.abs(np.asarray(seen[..., 0]).T - np.array(inside.last_obs)) > 5e-4
            assert wrong.sum() <= 1, np.argwhere(wrong)


@pytest.mark.parametrize(
    ("shared", "terminate_on_fall"),
    [(False, True), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((True, True), (True, False), (False, False)))],
)
def test_rewards_and_ends_are_the_originals(shared: bool, terminate_on_fall: bool) -> None:
    env = make("multiwalker", shared_reward=shared, terminate_on_fall=terminate_on_fall, remove_on_fall=False)
    rules: Rules = env.reset.keywords["rules"]._replace(original_rules=True)  # pyright: ignore[reportFunctionMemberAccess]
    decide = jax.jit(functools.partial(judge, rules), compiler_options=QUICK)
    ends, options = [], {"shared_reward": shared, "terminate_on_fall": terminate_on_fall, "remove_on_fall": False}
    for seed in range(4):
        fallen = np.zeros(N, bool)
        for inside, before, _ in play(seed, 200, **options):
            after, now = read_world(inside, simulation.ORIGINAL), np.array(inside.fallen_walkers)
            fell, fallen = now & ~fallen, now
            flags = (jnp.asarray(each)[..., None] for each in (fell, fallen, inside.game_over))
            outcome = decide(before, after, *flags)
            reward = np.broadcast_to(inside.last_rewards, N)
            np.testing.assert_allclose(outcome.reward[:, 0], reward, atol=2e-3)
            np.testing.assert_array_equal(outcome.terminated[:, 0], inside.last_dones)
            ends.append(any(inside.last_dones))
    assert any(ends)


def test_a_fall_is_paid_once_unless_asked_for() -> None:
    env = make("multiwalker", terminate_on_fall=False, shared_reward=False)
    rules: Rules = env.reset.keywords["rules"]  # pyright: ignore[reportFunctionMemberAccess]
    world, fallen, nobody = (
        initial_world(N, simulation.ORIGINAL, 1),
        jnp.array([[True], [False], [False]]),
        jnp.zeros((N, 1), bool),
    )
    for again, late in ((False, 0.0), (True, -110.0)):
        options = rules._replace(original_rules=again)
        first, later = (judge(options, world, world, fell, fallen, jnp.zeros(1, bool)) for fell in (fallen, nobody))
        assert first.reward[:, 0].tolist() == [-110.0, 0.0, 0.0] and later.reward[:, 0].tolist() == [late, 0.0, 0.0]


def test_flags_of_events_tell_what_happened_last() -> None:
    def touched(*numbers: int) -> jax.Array:
        return jnp.array([*numbers, *[-9] * (3 - len(numbers))])[:, None, None]

    on, off = jnp.ones((1, 1), bool), jnp.zeros((1, 1), bool)
    assert contact_flags(off, touched(), touched(4)).item() and not contact_flags(on, touched(4, 5), touched(5)).item()
    assert not contact_flags(on, touched(4), touched(5)).item() and not contact_flags(off, touched(4), touched(4)).item()
    assert contact_flags(off, touched(5), touched(4)).item() and contact_flags(off, touched(-3), touched(4)).item()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [simulation.ORIGINAL, simulation.FAST._replace(velocity_iterations=60, position_iterations=60, ground_points=8)]
)
def test_walkers_go_where_the_originals_do(solver: Solver) -> None:
    package = model.make_package(N)
    step = jax.jit(
        lambda world, control, heights: simulation.step(world, control, heights, package, solver), compiler_options=QUICK
    )
    wrong = flight_errors(step, solver)
    # Now and then one more or one less sweep puts a walker's joints right, and then it is a little off.
    assert np.median(wrong) < 1e-4 and wrong.max() < 2e-3, wrong
    followed = follow(step, solver, 0) + follow(step, solver, 1)
    near = np.array([each.pose for each in followed]) < 1e-3
    # experiments/multiwalker_parity.py counts more of them
    if solver.solve is simulation.ORIGINAL.solve:
        assert near.all((1, 2)).mean() > 0.95, near.all((1, 2)).mean()
        assert np.array([each.flags for each in followed]).mean() > 0.99
    else:
        assert near.mean() > 0.8, near.mean()


def flight_errors(step: Any, solver: Solver) -> np.ndarray:
    """How far walkers are off after 40 steps high above the ground."""
    env, inside = original(3)
    for walker in inside.walkers:
        for each in (walker.hull, *walker.legs):
            each.position = (each.position.x, each.position.y + 60)
    inside.package.position = (inside.package.position.x, inside.package.position.y + 90)
    world, rng = read_world(inside, solver), np.random.default_rng(3)
    heights, push = column(inside.terrain_y), float(np.random.Generator(np.random.PCG64(3)).uniform(-5, 5))
    for number in range(40):
        action = rng.uniform(-1, 1, (N, 4)).astype(np.float32)
        world, _ = step(world, control(action, push if number == 0 else 0.0), heights)
        env.step(dict(zip(env.possible_agents, action, strict=True)))
    return np.abs(np.asarray(world.pose[..., 0]) - read_bodies(inside)[0]).max((0, 1))


def follow(step: Any, solver: Solver, seed: int) -> list[Compared]:
    """All steps of an episode but the first, in which the push is."""
    found, impulses = [], None
    flags, feet = jnp.zeros((2, N, 1), bool), jnp.full((NUM_TOUCHABLE, 2, N, 1), NO_CONTACT)
    for inside, before, action in play(seed, 200):
        world = before.replace(impulses=impulses or read_world(inside, solver).impulses)
        world, met = step(world, control(action), column(inside.terrain_y))
        ended = any(inside.last_dones)
        assert solver.solve is simulation.FAST.solve or ended == bool(met.fallen.any() | met.dropped.any())
        if ended:
            break
        flags = follow_flags(flags, feet, met)
        impulses, feet = world.impulses, met.feet_after
        difference = np.abs(np.asarray(world.pose[..., 0]) - read_bodies(inside)[0]).max(0)
        found.append(Compared(difference, feet_flags(inside) == np.asarray(flags[..., 0])))
    assert len(found) < 199
    return found[1:]


@pytest.mark.slow
def test_one_walker_walks_alone() -> None:
    for solver in ("fast", "original"):
        env = make("multiwalker", num_walkers=1, solver=solver)
        state, _ = jax.eval_shape(env.reset, jax.random.key(0))
        _, timestep = jax.eval_shape(env.step, jax.random.key(1), state, jnp.zeros((1, 4)))
        assert timestep.observation.shape == (1, 31)


@pytest.mark.slow
def test_a_walker_that_is_pushed_falls_once_and_ends_its_episode() -> None:
    """The one program of Multi-Walker in the default tests: a walker alone, without a batch."""
    env = make("multiwalker", num_walkers=1, terrain_length=40)
    state, timestep = jax.jit(env.reset, compiler_options=QUICK)(jax.random.key(0))
    state = state.replace(push=jnp.full(1, 3000.0))
    step = jax.jit(env.step, compiler_options=QUICK)
    start, speed = float(state.world.package_pose[0]), []
    for number in range(60):
        assert not timestep.done
        state, timestep = step(jax.random.key(number), state, jnp.zeros((1, 4)))
        speed.append(np.abs(state.world.velocity).max((1, 2)))
        if timestep.done:
            break
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, timestep)))
    assert 10 < state.step < 60 and timestep.terminated.all() and not timestep.truncated
    assert -115 < timestep.reward[0] < -105 and state.fallen.all()
    assert np.max(speed) > 0.1 and np.max(speed) < 40
    assert env.spec.last_metrics == ("displacement",)
    np.testing.assert_allclose(timestep.metrics["displacement"], state.world.package_pose[0] - start, atol=1e-5)


@pytest.mark.long
@pytest.mark.slow
def test_walkers_fall_and_nothing_blows_up() -> None:
    env = make("multiwalker")
    play = jax.jit(jax.vmap(lambda key: rollout(auto_reset(env), random_policy(env), key, 150)), compiler_options=QUICK)
    states, shown = jax.device_get(play(jax.random.split(jax.random.key(0), 32)))
    done = shown.truncated | shown.terminated.all(-1)
    assert np.isfinite(shown.reward).all() and done.sum() > 20 and (done == shown.terminated.all(-1)).all()
    speed = np.abs(states.world.velocity).max((-1, -2))
    assert speed[..., :2].max() < 40 and speed[..., 2].max() < 80, speed.max((0, 1))
