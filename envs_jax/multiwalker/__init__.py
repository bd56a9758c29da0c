"""Multi-Walker in JAX: its bodies, a solver for them, and the task."""

from envs_jax.multiwalker.task import MultiWalkerState, multiwalker

__all__ = ["MultiWalkerState", "multiwalker"]
