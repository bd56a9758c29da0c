"""Computations on selected columns of a batch. Arrays have the batch as their last axis."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def apply_where(needed: jax.Array, function: Callable[[Any, Any], Any], given: Any, changed: Any, share: float) -> Any:
    """Applies `function` to the columns in which it is `needed`, some at a time, and returns the new `changed`.

    The other columns cost nothing.

    Args:
        needed: (M,) bool.
        function: (given, changed) -> new `changed`, on some columns. It computes each column independently.
        given: tree of arrays (..., M) that are only read.
        changed: tree of arrays (..., M).
        share: fraction of all columns that are computed at a time.
    """
    width = len(needed)
    size = max(1, int(share * width))

    def some(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        left, changed = carry
        (column,) = jnp.nonzero(left, size=size, fill_value=width)
        few_given, few = jax.tree.map(
            lambda leaf: leaf.at[..., column].get(mode="clip", wrap_negative_indices=False), (given, changed)
        )
        new = function(few_given, few)
        changed = jax.tree.map(
            lambda leaf, values: leaf.at[..., column].set(values, mode="drop", wrap_negative_indices=False), changed, new
        )
        return left.at[column].set(False, mode="drop"), changed

    return jax.lax.while_loop(lambda carry: carry[0].any(), some, (needed, changed))[1]


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
