"""Helpers for `vmap` and XLA: functions that see the whole batch, and computations that are compiled separately."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def batchwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turns a function of batches into a function of single elements, for use under `vmap`.

    All arguments and results of `function` have a leading batch axis. Every `vmap` around the new function is folded into that
    axis. `function` therefore sees the whole batch: it can branch once for the batch, or choose its layout in memory.
    """

    def of_batches(axis_size: int, is_batched: Any, *arguments: Any) -> tuple[Any, Any]:
        def fold(leaf: jax.Array, batched: bool) -> jax.Array:
            leaf = leaf if batched else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
            return leaf.reshape(axis_size * leaf.shape[1], *leaf.shape[2:])  # -1 is ambiguous for empty arrays

        result = of_batch(*jax.tree.map(fold, arguments, tuple(is_batched)))
        result = jax.tree.map(lambda leaf: leaf.reshape(axis_size, leaf.shape[0] // axis_size, *leaf.shape[1:]), result)
        return result, jax.tree.map(lambda _: True, result)

    of_batch = jax.custom_batching.custom_vmap(function)
    of_batch.def_vmap(of_batches)

    def of_one(*arguments: Any) -> Any:
        arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], arguments)
        return jax.tree.map(lambda leaf: leaf[0], of_batch(*arguments))

    return of_one


def batch_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `batchwise`, for a function whose arrays have the batch as their last axis, where elementwise work vectorises.

    Rank promotion is allowed inside `function`: arrays of different ranks align at their last axes, which agree.
    """
    function = jax.jit(function)  # traced once for each size of the batch

    def of_batch(*arguments: Any) -> Any:
        last = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), arguments)
        with jax.numpy_rank_promotion("allow"):
            result = function(*last)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), result)

    return batchwise(of_batch)


def separately(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns `function(*arguments)`, compiled separately from the surrounding program.

    XLA recomputes a sum or product for each use, and again for each use of that result. After a long formula this can multiply
    the run time and the compile time. A conditional prevents it. This one is always taken: its predicate is a constant behind
    an optimization barrier, which XLA does not remove and data cannot change.
    """
    function = jax.jit(function)  # traced once, for its shapes and for the conditional
    shapes = jax.eval_shape(function, *arguments)

    def never(*arguments: Any) -> Any:
        def stand_in(leaf: Any) -> jax.Array:
            """An argument of this shape, which spares XLA a kernel, or zeros."""
            alike = (each for each in jax.tree.leaves(arguments) if (each.shape, each.dtype) == (leaf.shape, leaf.dtype))
            return next(alike, jnp.zeros(leaf.shape, leaf.dtype))

        return jax.tree.map(stand_in, shapes)

    return jax.lax.cond(jax.lax.optimization_barrier(True), function, never, *arguments)


def fold(function: Callable[[jax.Array, jax.Array], jax.Array], values: Iterable[jax.Array]) -> jax.Array:
    """Reduces a few `values`, or the rows of an array, one after another with a sum, minimum or maximum.

    XLA's own reductions over a short axis are many times slower.
    """
    return functools.reduce(function, values)
