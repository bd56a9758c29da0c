"""The ring against a list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mamt_jax.training.replay import uniform_replay

ROW = {"x": jax.ShapeDtypeStruct((2,), jnp.float32), "i": jax.ShapeDtypeStruct((), jnp.int32)}


def rows(write: int, count: int) -> dict[str, jax.Array]:
    number = jnp.arange(write * count, (write + 1) * count)
    return {"x": jnp.stack([number, -number], -1).astype(jnp.float32), "i": number}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 8))
def test_memory_holds_the_latest_rows_and_samples_only_them(rows_per_write: int, capacity_in_writes: int, writes: int):
    capacity = rows_per_write * capacity_in_writes
    replay = uniform_replay(capacity, rows_per_write, batch_size=200)
    storage = replay.init(ROW)
    for write in range(writes):
        storage = replay.add(storage, rows(write, rows_per_write), jnp.asarray(write))
    latest = set(range(writes * rows_per_write)[-capacity:])
    held = storage["i"][: min(writes, capacity_in_writes) * rows_per_write]
    assert set(held.tolist()) == latest
    batch = replay.sample(storage, jax.random.key(0), jnp.asarray(writes))
    assert set(batch["i"].tolist()) == latest
    np.testing.assert_array_equal(batch["x"][:, 0], batch["i"])
    np.testing.assert_array_equal(batch["x"][:, 1], -batch["i"])


def test_sampling_is_uniform():
    replay = uniform_replay(capacity=8, rows_per_write=4, batch_size=8000)
    storage = replay.add(replay.add(replay.init(ROW), rows(0, 4), jnp.asarray(0)), rows(1, 4), jnp.asarray(1))
    counts = np.bincount(replay.sample(storage, jax.random.key(1), jnp.asarray(2))["i"], minlength=8)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 24.3  # 0.1 % of fair draws exceed it with 7 degrees of freedom


def test_a_write_that_would_wrap_is_refused():
    with pytest.raises(ValueError, match="capacity=10 is not valid: give a multiple of rows_per_write=4"):
        uniform_replay(capacity=10, rows_per_write=4, batch_size=1)
