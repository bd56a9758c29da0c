"""Optimisers per agent, and copies of parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mamt_jax.types import Params


def adam(learning_rate: Any, b1: Any, epsilon: Any) -> optax.GradientTransformation:
    """Adam whose hyperparameters may be traced, and whose step is differentiable where the gradient is always zero."""
    # Such a gradient (padding) would otherwise meet the infinite slope of sqrt at 0 in forward mode.
    return optax.adam(learning_rate, b1=b1, eps=epsilon, eps_root=1e-30)


def per_agent(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` for each entry of a leading axis separately, so that gradient norms are clipped per agent."""
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))


def clipped_adam_per_agent(learning_rate: Any, clip: Any, b1: Any, epsilon: Any) -> optax.GradientTransformation:
    """Adam for each agent separately, after its gradient is clipped to the norm `clip`."""
    return per_agent(optax.chain(optax.clip_by_global_norm(clip), adam(learning_rate, b1, epsilon)))


def descend(
    optimizer: optax.GradientTransformation, gradient: Params, state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState]:
    """One step down `gradient`: new parameters, new state."""
    step, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, step), state


def copy(params: Params) -> Params:
    """The same values in buffers of their own, so that a state can be donated."""
    return jax.tree.map(jnp.copy, params)
