"""Functions of a whole batch called like those of a single element, and formulas that XLA is to compile apart."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def batchwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """From a function whose arguments and results all have a leading batch axis to one without, for use under `vmap`.

    Every `vmap` around the result is folded into that one axis, so that `function` can see the batch as a whole: branch once
    for all of it, or lay it out in memory as it likes.
    """

    def of_batches(axis_size: int, is_batched: Any, *arguments: Any) -> tuple[Any, Any]:
        def fold(leaf: jax.Array, batched: bool) -> jax.Array:
            leaf = leaf if batched else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
            return leaf.reshape(axis_size * leaf.shape[1], *leaf.shape[2:])  # no -1, which arrays without entries lack

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
    """`batchwise` of a function whose arrays have the batch as their last axis, where elementwise work runs in step.

    In it arrays of different ranks meet at their ends, which is where they agree: rank promotion is allowed.
    """

    def of_batch(*arguments: Any) -> Any:
        last = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), arguments)
        with jax.numpy_rank_promotion("allow"):
            result = function(*last)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), result)

    return batchwise(of_batch)


def separately(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, compiled apart from what is around it.

    XLA computes sums and products anew for each of their uses, and again for each use of those: what follows a long formula
    may cost, and take to compile, many times what it should. A branch, here one that is always taken, ends that. Its
    condition is a constant behind an optimization barrier, so XLA keeps the branch and no data can change it.
    """
    shapes = jax.eval_shape(function, *arguments)

    def never(*_: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return jax.lax.cond(jax.lax.optimization_barrier(True), function, never, *arguments)


def fold(function: Callable[[jax.Array, jax.Array], jax.Array], values: Iterable[jax.Array]) -> jax.Array:
    """The sum, least or greatest of a few `values`, or of the rows of an array, one after the other.

    XLA's own reductions over an axis of few entries cost many times as much.
    """
    return functools.reduce(function, values)
