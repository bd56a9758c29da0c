"""Checkpoints are whole, are the latest two, and are refused when they are not what they should be."""

import errno
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamt_jax.training import checkpoint
from mamt_jax.training.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_usable,
    read_record,
    save_checkpoint,
)


class State(NamedTuple):
    params: dict[str, jax.Array]
    key: jax.Array
    half: jax.Array
    empty: jax.Array


@pytest.fixture
def state() -> State:
    params = {"w": jnp.arange(6.0).reshape(2, 3), "done": jnp.array([True, False])}
    return State(params, jax.random.split(jax.random.key(3), 2), jnp.ones(2, jnp.bfloat16) / 3, jnp.zeros((2, 0)))


def shapes(state: State) -> State:
    return jax.eval_shape(lambda: state)


def assert_same(left: State, right: State) -> None:
    def plain(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    assert [leaf.dtype for leaf in jax.tree.leaves(left)] == [leaf.dtype for leaf in jax.tree.leaves(right)]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(plain(a), plain(b)), left, right)


def test_what_is_saved_is_loaded(tmp_path: Path, state: State):
    path = save_checkpoint(tmp_path / "new", 7, state, {"iterations": 7, "seconds": 0.1})
    loaded, record = load_checkpoint(path, shapes(state))
    assert_same(loaded, state)
    assert record == read_record(path) == {"iterations": 7, "seconds": 0.1}


def test_the_latest_two_are_kept(tmp_path: Path, state: State):
    for iterations in (9, 10, 100):
        save_checkpoint(tmp_path, iterations, state, {})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["iteration_000000010.npz", "iteration_000000100.npz"]
    assert latest_checkpoint(tmp_path).name == "iteration_000000100.npz"


def test_a_full_disk_harms_nothing(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch):
    path = save_checkpoint(tmp_path, 1, state, {})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for iterations in (1, 2):
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, iterations, state, {})
    assert list(tmp_path.iterdir()) == [path]
    assert_same(load_checkpoint(path, shapes(state))[0], state)


@pytest.mark.parametrize("keep", [0, 10, 600, -30])
def test_the_newest_that_can_be_used_is_found(tmp_path: Path, state: State, keep: int):
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:keep])

    paths = [save_checkpoint(tmp_path, iterations, state, {"iterations": iterations}) for iterations in (1, 2)]
    cut(paths[1])
    path, (loaded, record), refused = newest_usable(tmp_path, lambda path: load_checkpoint(path, shapes(state)))
    assert_same(loaded, state)
    assert (path, record, list(refused)) == (paths[0], {"iterations": 1}, [paths[1]])
    assert f"{paths[1]} is damaged" in str(refused[paths[1]])
    cut(paths[0])
    with pytest.raises(CheckpointError, match="002.npz is damaged .*001.npz is damaged .* start the run again in a new folder"):
        newest_usable(tmp_path, lambda path: load_checkpoint(path, shapes(state)))


def test_every_flipped_bit_is_seen_or_harmless(tmp_path: Path, state: State):
    path = save_checkpoint(tmp_path, 1, state, {"iterations": 1})
    content, seen = path.read_bytes(), 0
    random = np.random.default_rng(0)
    for position in random.choice(len(content), 400, replace=False):
        flipped = bytearray(content)
        flipped[position] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        try:
            loaded, record = load_checkpoint(path, shapes(state))
        except CheckpointError:
            seen += 1
        else:
            assert_same(loaded, state)
            assert record == {"iterations": 1}
    assert seen > 200


def test_another_format_is_named(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch):
    path = save_checkpoint(tmp_path, 1, state, {})
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="npz has format 1, but this version of mamt_jax reads format 2"):
        load_checkpoint(path, shapes(state))


def test_a_foreign_file_is_named_with_what_differs(tmp_path: Path, state: State):
    path = save_checkpoint(tmp_path, 1, state, {})
    wider = shapes(state)._replace(params={"w": jax.ShapeDtypeStruct((2, 4), jnp.float32)})
    with pytest.raises(
        CheckpointError, match=r"belongs to another experiment: its .*w.* is float32\[2, 3\], but float32\[2, 4\] is expected"
    ):
        load_checkpoint(path, wider)
    other = {"elsewhere": jax.ShapeDtypeStruct((), jnp.float32)}
    with pytest.raises(CheckpointError, match="belongs to another experiment: it has no .*elsewhere"):
        load_checkpoint(path, other)


def test_an_empty_folder_holds_none(tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        latest_checkpoint(tmp_path)
