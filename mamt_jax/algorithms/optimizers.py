"""Optimisers that treat each agent separately, conjugate gradients, and copies of parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mamt_jax.types import Params

TINY = 1e-30
"""Smallest denominator in conjugate gradients. A residual whose square is below it counts as zero."""


def adam(learning_rate: Any, b1: Any, epsilon: Any) -> optax.GradientTransformation:
    """Create Adam with hyperparameters that may be traced. Its step is differentiable even if the gradient is always zero."""
    # Padding has zero gradients, and sqrt has an infinite slope at 0. eps_root keeps forward-mode derivatives finite.
    return optax.adam(learning_rate, b1=b1, eps=epsilon, eps_root=1e-30)


def per_agent(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Apply `optimizer` separately to each entry of the leading axis. Gradient norms are then clipped per agent."""
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))


def clipped_adam_per_agent(learning_rate: Any, clip: Any, b1: Any, epsilon: Any) -> optax.GradientTransformation:
    """Create Adam per agent, with the gradient of each agent clipped to the norm `clip`."""
    return per_agent(optax.chain(optax.clip_by_global_norm(clip), adam(learning_rate, b1, epsilon)))


def descend(
    optimizer: optax.GradientTransformation, gradient: Params, state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    """Take one optimiser step along `gradient`; returns the new parameters and the new optimiser state."""
    step, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, step), state


def conjugate_gradients(product: Callable[[Params], Params], target: Params, iterations: int) -> Params:
    """Solve `product(x) = target` approximately for a positive definite product, from x = 0 (Hestenes and Stiefel 1952).

    `jax.scipy.sparse.linalg.cg` multiplies its initial zeros. Under `vmap` XLA's CPU compiler returned nan for that product.
    """

    def step(_: jax.Array, carry: tuple[Params, Params, Params]) -> tuple[Params, Params, Params]:
        x, residual, direction = carry
        image = product(direction)
        squared = optax.tree.vdot(residual, residual)
        length = squared / jnp.maximum(optax.tree.vdot(direction, image), TINY)
        left = optax.tree.add_scale(residual, -length, image)
        ratio = optax.tree.vdot(left, left) / jnp.maximum(squared, TINY)
        return optax.tree.add_scale(x, length, direction), left, optax.tree.add_scale(left, ratio, direction)

    return jax.lax.fori_loop(0, iterations, step, (optax.tree.zeros_like(target), target, target))[0]


def copy(params: Params) -> Params:
    """Copy parameters to new buffers. A state can be donated only if its leaves do not share buffers."""
    return jax.tree.map(jnp.copy, params)
