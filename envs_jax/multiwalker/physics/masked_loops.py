"""Computations on selected columns of a batch. Arrays have the batch as their last axis."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _pack(tree: Any) -> tuple[dict[str, jax.Array], Callable[[dict[str, jax.Array]], Any]]:
    """Concatenates the leaves (..., M) of each type, (rows, M); returns these arrays and the function that takes them apart."""
    leaves, structure = jax.tree.flatten(tree)
    types = [leaf.dtype.name for leaf in leaves]
    rows = {name: [i for i, each in enumerate(types) if each == name] for name in sorted(set(types))}

    def unpack(packed: dict[str, jax.Array]) -> Any:
        parts = list(leaves)
        for name, chosen in rows.items():
            ends = np.cumsum([math.prod(leaves[i].shape[:-1]) for i in chosen])
            for i, part in zip(chosen, jnp.split(packed[name], ends[:-1]), strict=True):
                parts[i] = part.reshape(*leaves[i].shape[:-1], part.shape[-1])
        return structure.unflatten(parts)

    return {name: jnp.concatenate([_flat(leaves[i]) for i in chosen]) for name, chosen in rows.items()}, unpack


def _flat(leaf: jax.Array) -> jax.Array:
    return leaf.reshape(math.prod(leaf.shape[:-1]), leaf.shape[-1])


def apply_where(needed: jax.Array, function: Callable[[Any, Any], Any], given: Any, changed: Any, fraction: float) -> Any:
    """Applies `function` to the columns in which it is `needed`, some at a time, and returns the new `changed`.

    The other columns cost nothing. All leaves of a type are packed into one array. Otherwise XLA compiles a gather and a
    scatter for each leaf.

    Args:
        needed: (M,) bool.
        function: (given, changed) -> new `changed`, on some columns. It computes each column independently.
        given: tree of arrays (..., M) that are only read.
        changed: tree of arrays (..., M).
        fraction: fraction of all columns that are computed at a time.
    """
    width = len(needed)
    size = max(1, int(fraction * width))
    (packed_given, unpack_given), (packed, unpack) = _pack(given), _pack(changed)

    def some(carry: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[jax.Array, dict[str, jax.Array]]:
        left, packed = carry
        chosen, column = jax.lax.top_k(left.astype(jnp.float32), size)
        column = jnp.where(chosen > 0, column, width)
        few_given, few = jax.tree.map(
            lambda rows: rows.at[:, column].get(mode="clip", wrap_negative_indices=False), (packed_given, packed)
        )
        new, _ = _pack(function(unpack_given(few_given), unpack(few)))
        packed = jax.tree.map(
            lambda rows, values: rows.at[:, column].set(values, mode="drop", wrap_negative_indices=False), packed, new
        )
        return left.at[column].set(False, mode="drop"), packed

    return unpack(jax.lax.while_loop(lambda carry: carry[0].any(), some, (needed, packed))[1])


def while_any(count: int, goes_on: Callable[[Any], jax.Array], function: Callable[[Any], Any], start: Any) -> Any:
    """Applies `function` repeatedly to `start` while `goes_on` is True in any column, at most `count` times.

    `function` must return every other column unchanged, bit for bit. Otherwise columns would depend on each other.
    """
    end = jax.lax.while_loop(
        lambda carry: (carry[0] < count) & goes_on(carry[1]).any(),
        lambda carry: (carry[0] + 1, function(carry[1])),
        (jnp.zeros((), jnp.int32), start),
    )
    return end[1]
