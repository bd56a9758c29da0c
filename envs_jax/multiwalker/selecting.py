"""Work that only some columns need. Arrays have the batch as their last axis."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def only_where(needed: jax.Array, function: Callable[[Any, Any], Any], given: Any, changed: Any, share: float) -> Any:
    """`changed` after `function` in the columns where it is `needed`, some at a time; the others cost nothing.

    Args:
        needed: (M,) bool.
        function: of `given` and `changed` with some columns to a new `changed`, column by column.
        given: tree of arrays (..., M) that are read.
        changed: tree of arrays (..., M).
        share: of all columns, how many at a time.
    """
    width = len(needed)
    size = max(1, int(share * width))

    def some(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        left, changed = carry
        (column,) = jnp.nonzero(left, size=size, fill_value=width)
        few_given, few = jax.tree.map(lambda leaf: leaf.at[..., column].get(mode="clip"), (given, changed))
        new = function(few_given, few)
        changed = jax.tree.map(lambda leaf, values: leaf.at[..., column].set(values, mode="drop"), changed, new)
        return left.at[column].set(False, mode="drop"), changed

    return jax.lax.while_loop(lambda carry: carry[0].any(), some, (needed, changed))[1]


def while_any(count: int, goes_on: Callable[[Any], jax.Array], function: Callable[[Any], Any], start: Any) -> Any:
    """`function` of `start`, of what that gives and so on, while it `goes_on` in any column, `count` times at most.

    `function` must leave a column in which it does not go on as it is, bit for bit: else the others would change it.
    """
    end = jax.lax.while_loop(
        lambda carry: (carry[0] < count) & goes_on(carry[1]).any(),
        lambda carry: (carry[0] + 1, function(carry[1])),
        (jnp.zeros((), jnp.int32), start),
    )
    return end[1]
