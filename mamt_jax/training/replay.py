"""Uniform replay on the device.

Our own ring rather than flashbax's item buffer: on 2 CPU cores, adding 300 rows and sampling 12 batches of 1024 (8 agents of
13 observations) takes 1.7 to 2.5 ms a run against 3.2 to 4.2 ms, for 1, 2 and 10 runs and up to a million rows. It writes a
whole round at once, at a place that all runs share: under `vmap` that stays a slice updated in place, where a place per run
would become a scatter.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Record = Any


class Replay(NamedTuple):
    """A replay memory as pure functions over its storage, a pytree of records with a leading axis of rows.

    Attributes:
        init: record (arrays or their shapes, no row axis) -> empty storage.
        add: (storage, rows with `rows_per_write` leading, writes () int32 made before) -> storage; the oldest rows go first.
        sample: (storage, key, writes () int32 made so far) -> a batch of rows drawn uniformly with replacement.
    """

    init: Callable[[Record], Record]
    add: Callable[[Record, Record, jax.Array], Record]
    sample: Callable[[Record, jax.Array, jax.Array], Record]


def uniform_replay(capacity: int, rows_per_write: int, batch_size: int) -> Replay:
    """A ring of `capacity` rows, which must be a multiple of `rows_per_write` so that no write wraps.

    Raises:
        ValueError: if it is not.
    """
    if capacity % rows_per_write:
        raise ValueError(f"capacity={capacity} is not valid: give a multiple of rows_per_write={rows_per_write}.")
    capacity_in_writes = capacity // rows_per_write

    def init(record: Record) -> Record:
        return jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), record)

    def add(storage: Record, rows: Record, writes: jax.Array) -> Record:
        start = writes % capacity_in_writes * rows_per_write
        return jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=0), storage, rows)

    def sample(storage: Record, key: jax.Array, writes: jax.Array) -> Record:
        size = jnp.minimum(writes, capacity_in_writes) * rows_per_write
        index = jax.random.randint(key, (batch_size,), 0, size)
        return jax.tree.map(lambda memory: memory[index], storage)

    return Replay(init, add, sample)
