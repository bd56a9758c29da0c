"""The devices of a training program: an axis of runs, and an axis of devices that share one run."""

from typing import Any

import jax
from jax.sharding import PartitionSpec

RUNS, ENVS = "runs", "envs"
"""Axes of the mesh. Runs are independent. The devices along `ENVS` share the environments and the batches of a run."""


def rows_are_split() -> bool:
    """Whether several devices share a run in the program that is being traced."""
    return ENVS in jax.sharding.get_abstract_mesh().axis_names


def split_rows(tree: Any, axis: int = 0) -> Any:
    """Divides the rows of arrays over the devices that share a run; the identity where each run has one device.

    Args:
        tree: arrays with a common axis of rows, such as the transitions of a batch.
        axis: the axis of rows.

    Returns:
        The same values. Each device computes what follows for its rows, and XLA sums gradients over the devices.
    """
    if not rows_are_split():
        return tree
    spec = PartitionSpec(*[None] * axis, ENVS)
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, spec), tree)
