"""Multi-Walker in JAX: rigid bodies, two physics solvers and the task."""

from envs_jax.multiwalker.env import MultiWalkerState, multiwalker

__all__ = ["MultiWalkerState", "multiwalker"]
