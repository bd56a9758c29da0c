"""How much memory training will take, known before any is taken."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import psutil

_UNITS = ("B", "KB", "MB", "GB", "TB")
_USABLE = 0.9


class MemoryPlan(NamedTuple):
    """Bytes that stay in memory throughout training.

    Attributes:
        replay: one run's replay memory.
        learner: one run's networks and optimisers.
        environments: one run's environments.
        num_runs: how many runs there are.
    """

    replay: int
    learner: int
    environments: int
    num_runs: int

    @property
    def total(self) -> int:
        """Bytes of all runs."""
        return (self.replay + self.learner + self.environments) * self.num_runs

    def __str__(self) -> str:
        """The plan in one line."""
        parts = f"replay {in_words(self.replay)}, learner {in_words(self.learner)}, environments {in_words(self.environments)}"
        return f"{in_words(self.total)}: {parts} for each of {self.num_runs} run{'s' * (self.num_runs > 1)}"


def in_words(size: float) -> str:
    """A number of bytes as people read it."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"


def num_bytes(tree: Any) -> int:
    """Bytes of all leaves, arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def available_bytes(devices: Collection[Any]) -> int | None:
    """Bytes that a program may take on `devices` together, None where nobody says."""
    if {device.platform for device in devices} != {"cpu"}:
        stats = [device.memory_stats() or {} for device in devices]
        return sum(each["bytes_limit"] for each in stats) if all("bytes_limit" in each for each in stats) else None
    limits = [limit for limit in (psutil.virtual_memory().available, _cgroup_limit()) if limit is not None]
    return min(limits, default=None)


def runs_that_fit(plan: MemoryPlan, capacity: int, available: int | None) -> int:
    """How many of the planned runs the machine can hold at once, at least one.

    Args:
        plan: what is wanted.
        capacity: rows of the replay memory.
        available: bytes, None if unknown.

    Raises:
        ValueError: with a proposal, if not even one does.
    """
    if available is None or plan.total <= _USABLE * available:
        return plan.num_runs
    one = plan.total / plan.num_runs
    fitting = int(_USABLE * available / one)
    if fitting:
        return fitting
    row = plan.replay / capacity
    rows = int((_USABLE * available - (one - plan.replay)) / row)
    proposal = f"buffer_size={rows // 1000 * 1000 or rows}" if rows > 0 else "a smaller network or fewer environments"
    raise ValueError(
        f"A run needs {in_words(one)} of memory ({plan._replace(num_runs=1)}) and this machine has {in_words(available)}: "
        f"try {proposal}."
    )


def _cgroup_limit() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
