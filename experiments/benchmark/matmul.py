"""How many floating-point operations a program spends in matrix products, and how many this machine does a second."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params

REPEATS = 30


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and extremes of repeated measurements."""
    ordered = sorted(seconds)
    return {"median": statistics.median(ordered), "min": ordered[0], "max": ordered[-1], "repeats": len(ordered)}


def timed(call: Callable[[], Any], repeats: int, parts: int = 1) -> dict[str, float]:
    """Wall seconds of `call`, warm, or of one of its equal `parts`."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append((time.perf_counter() - start) / parts)
    return spread(seconds)


def matmul_gflops(shape: tuple[int, int, int]) -> float:
    """This machine's own float32 matrix product, GFLOP a second at its best."""
    m, k, n = shape
    multiply = jax.jit(jnp.matmul)
    left, right = jnp.ones((m, k)), jnp.ones((k, n))
    return 2 * m * k * n / timed(lambda: multiply(left, right), REPEATS)["min"] / 1e9


def matmul_gflop(function: Callable[..., Any], *arguments: Any) -> float:
    """GFLOP that one call spends in matrix products, those inside loops as often as they run."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr) / 1e9


def _count(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            factor: Any = equation.invars[0].aval
            product: Any = equation.outvars[0].aval
            total += 2.0 * product.size * math.prod(factor.shape[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(map(_count, jaxprs_in_params(equation.params)))
    return total
