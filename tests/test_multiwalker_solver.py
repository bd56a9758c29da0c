"""Pieces of Multi-Walker's solver against brute force."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.multiwalker.physics.contact_constraint import make_block, solve_block
from envs_jax.multiwalker.physics.time_of_impact import TARGET, TOLERANCE, Sweep, time_of_impact

HALF, HEIGHT, EDGE = 0.11, 0.57, 0.47
COUNT = 160
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(autouse=True)
def ranks_meet_at_their_ends() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"):
        yield


def test_pressing_leaves_no_point_going_in_and_pulls_none() -> None:
    rng = np.random.default_rng(0)
    arms = rng.uniform(-1, 1, (COUNT, 2, 2))
    gain = np.einsum("mik,mjk->mij", arms, arms) + 0.3 * np.ones((2, 2))
    old, speed = np.abs(rng.normal(size=(2, COUNT))), rng.normal(size=(2, COUNT))
    pair = make_block(jnp.ones((2, COUNT), bool), jnp.asarray(gain[:, [0, 1], [0, 1]].T), jnp.asarray(gain[:, 0, 1]))
    new = np.asarray(
        jax.jit(solve_block)(pair, (jnp.asarray(old[0]), jnp.asarray(old[1])), (jnp.asarray(speed[0]), jnp.asarray(speed[1])))
    )
    after = speed + np.einsum("mij,jm->im", gain, new - old)
    both = np.asarray(pair.together)
    assert both.mean() > 0.9 and (new >= 0).all() and (after[:, both] > -1e-4).all()
    assert np.abs(new * after)[:, both].max() < 1e-3
    assert {tuple(case) for case in (new[:, both] > 0).T} == {(False, False), (False, True), (True, False), (True, True)}


def test_points_that_are_all_but_the_same_press_once() -> None:
    one = jnp.ones((2, 1))
    pair = make_block(jnp.ones((2, 1), bool), one, jnp.ones(1))
    first, second = jax.jit(solve_block)(pair, (jnp.zeros(1), jnp.zeros(1)), (-jnp.ones(1), -jnp.ones(1)))
    assert first.item() == 1 and second.item() == 0


def distances(sweep: Sweep, shares: np.ndarray) -> np.ndarray:
    """From a leg to an edge, at all `shares` (S,) of the way, (S, M): points of the edge against the leg's box, 0 inside."""
    along = np.linspace(0, 1, 200)[:, None, None]
    pose = np.asarray(sweep.start) + shares[:, None, None] * (np.asarray(sweep.end) - np.asarray(sweep.start))
    x, y = (np.asarray(a) + along * (np.asarray(b) - np.asarray(a)) for a, b in zip(sweep.left, sweep.right, strict=True))
    x, y = x - pose[:, 0], y - pose[:, 1]
    cos, sin = np.cos(pose[:, 2]), np.sin(pose[:, 2])
    out = [np.maximum(np.abs(v) - h, 0) for v, h in ((cos * x + sin * y, HALF), (cos * y - sin * x, HEIGHT))]
    return np.hypot(*out).min(0)


def test_legs_meet_the_ground_when_they_first_come_near_it() -> None:
    rng = np.random.default_rng(1)
    start = np.stack([rng.uniform(-0.3, 0.8, COUNT), rng.uniform(0.6, 1.0, COUNT), rng.uniform(-1.5, 1.5, COUNT)])
    end = start + np.stack([rng.uniform(-0.2, 0.2, COUNT), rng.uniform(-0.4, 0.1, COUNT), rng.uniform(-0.4, 0.4, COUNT)])
    height = rng.uniform(-0.1, 0.1, (2, COUNT))
    left, right = (
        jnp.stack([jnp.full(COUNT, x), jnp.asarray(y, jnp.float32)]) for x, y in zip((0.0, EDGE), height, strict=True)
    )
    half = jnp.stack([jnp.full(COUNT, HALF), jnp.full(COUNT, HEIGHT)])
    sweep = Sweep(jnp.asarray(start, jnp.float32), jnp.asarray(end, jnp.float32), half, left, right)
    when, touches = (np.asarray(each) for each in jax.jit(time_of_impact, compiler_options=QUICK)(sweep, jnp.ones(COUNT, bool)))
    shares = np.linspace(0, 1, 201)
    gap = distances(sweep, shares)
    apart = gap[0] > TARGET + 2 * TOLERANCE
    nearest = gap.min(0)
    assert (touches[apart & (nearest < TARGET - 2 * TOLERANCE)]).all() and touches.sum() >= 20
    assert not touches[apart & (nearest > TARGET + 2 * TOLERANCE)].any() and not touches[gap[0] == 0].any()
    for m in np.flatnonzero(touches & apart):
        there = distances(sweep, when[m : m + 1])[0, m]
        before = gap[shares < when[m] - 0.01, m]
        assert abs(there - TARGET) < 2 * TOLERANCE and (before > TARGET - 2 * TOLERANCE).all()
