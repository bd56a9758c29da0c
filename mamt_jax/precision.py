"""Matrix products in bfloat16 for a whole program, including its gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

Result = TypeVar("Result")


def with_bfloat16_products(function: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap `function` to round the float32 factors of all its matrix products to bfloat16. Sums remain float32.

    The wrapper traces `function` and rewrites the traced program, including loops, branches and products in gradients. All
    differentiation must happen inside `function`. `jax.vmap` and `jax.jit` may be applied to the result.

    On a CPU the results are the same, without a speed-up: rounded factors remain float32, because XLA lacks some bfloat16
    products.
    """

    def rounded(*arguments: Any) -> Result:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(program, *jax.tree.leaves(arguments)))

    return rounded


def _evaluate(program: ClosedJaxpr, *arguments: Any) -> list[Any]:
    """Evaluates or retraces a program with bfloat16 products."""
    jaxpr = program.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *arguments], strict=True))

    def read(variable: Literal | Var) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(variable) for variable in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _apply(equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    primitive = equation.primitive
    params = {name: _rewrite(value) for name, value in equation.params.items()}
    if primitive.name == "dot_general" and all(each.dtype == jnp.float32 for each in inputs):
        inputs = [round_to_bfloat16(each) for each in inputs]
        params |= {"preferred_element_type": jnp.dtype(jnp.float32)}
    results = primitive.bind(*inputs, **primitive.get_bind_params(params))
    return list(results) if primitive.multiple_results else [results]


def _rewrite(value: Any) -> Any:
    """Rewrites the programs in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        return jax.make_jaxpr(partial(_evaluate, value))(*value.in_avals)
    if isinstance(value, Jaxpr):
        return _rewrite(ClosedJaxpr(value, ())).jaxpr
    return tuple(map(_rewrite, value)) if type(value) is tuple else value


def round_to_bfloat16(x: jax.Array) -> jax.Array:
    """Round `x` to bfloat16. On a CPU the rounded values remain float32."""
    if jax.default_backend() == "cpu":
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return x.astype(jnp.bfloat16)
