"""How much memory training will take, known before any is taken."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import psutil
from jax.extend.core import Jaxpr, Var, jaxprs_in_params

_UNITS = ("B", "KB", "MB", "GB", "TB")
_USABLE = 0.9


class MemoryPlan(NamedTuple):
    """Bytes of memory that training takes.

    Attributes:
        replay: one run's replay memory.
        learner: one run's networks and optimisers.
        environments: one run's environments, in training and in evaluation.
        rollout: what one run's environments show in an iteration, before it is learnt from.
        update: what an update of one run takes while it lasts.
        num_runs: how many runs there are.
    """

    replay: int
    learner: int
    environments: int
    rollout: int
    update: int
    num_runs: int

    @property
    def total(self) -> int:
        """Bytes of all runs."""
        return (self.replay + self.learner + self.environments + self.rollout + self.update) * self.num_runs

    def __str__(self) -> str:
        """The plan in one line."""
        sizes = {name: size for name, size in self._asdict().items() if name != "num_runs"}
        parts = ", ".join(f"{name} {in_words(size)}" for name, size in sizes.items())
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


def temporary_bytes(jaxpr: Jaxpr) -> int:
    """The most that a program's intermediate and final values take at once, its arguments not counted.

    Every value lives from the equation that makes it to the last one that reads it. Compilers keep less, since they fuse:
    XLA takes 0.88 of it for MAAC's update and 0.36 for MA-PPO's.
    """
    last_use: dict[Var, int] = {}
    for index, variables in enumerate([*(equation.invars for equation in jaxpr.eqns), jaxpr.outvars]):
        last_use |= {variable: index for variable in variables if isinstance(variable, Var)}
    dying: Counter[int] = Counter()
    alive = most = 0
    for index, equation in enumerate(jaxpr.eqns):
        for variable in equation.outvars:
            if variable in last_use:
                alive += num_bytes(variable.aval)
                dying[last_use[variable]] += num_bytes(variable.aval)
        most = max(most, alive + max(map(temporary_bytes, jaxprs_in_params(equation.params)), default=0))
        alive -= dying[index]
    return most


def available_bytes(devices: Collection[Any]) -> int | None:
    """Bytes that a program may still take on `devices` together, the same on each; None where nobody says.

    What XLA has reserved for itself in advance is free until arrays lie in it.
    """
    if {device.platform for device in devices} != {"cpu"}:
        stats = [device.memory_stats() or {} for device in devices]
        if not all("bytes_limit" in each for each in stats):
            return None
        return len(stats) * max(0, min(each["bytes_limit"] - each.get("bytes_in_use", 0) for each in stats))
    limits = [limit for limit in (psutil.virtual_memory().available, cgroup_available()) if limit is not None]
    return min(limits, default=None)


def runs_that_fit(plan: MemoryPlan, capacity: int, available: int | None) -> int:
    """How many of the planned runs the machine can hold at once, at least one.

    Args:
        plan: what is wanted.
        capacity: rows of the replay memory; 0 for an algorithm that learns from rollouts.
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
    rows = int((_USABLE * available - (one - plan.replay)) * capacity / max(1, plan.replay))
    smaller = "a smaller network, fewer environments" + ("" if capacity else ", a smaller update_interval")
    proposal = f"buffer_size={rows // 1000 * 1000 or rows}" if rows > 0 else f"{smaller} or fewer evaluation_episodes"
    raise ValueError(
        f"A run needs {in_words(one)} of memory ({plan._replace(num_runs=1)}) and this machine has {in_words(available)}: "
        f"try {proposal}."
    )


def cgroup_available(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this container may still take, None without a limit; files that are only cached make room."""
    try:
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines()).get("inactive_file", 0)
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - int(used) + int(cached)) if limit.isdigit() else None


class OutOfMemoryError(Exception):
    """Memory ran out; says what was planned and what to do."""


@contextmanager
def explaining_exhaustion(plan: Callable[[], MemoryPlan], folder: Path) -> Iterator[None]:
    """Within it, memory that runs out on a device or on the host raises OutOfMemoryError.

    Args:
        plan: () -> what training was to take.
        folder: of the run.
    """
    try:
        yield
    except Exception as error:
        if not is_exhaustion(error):
            raise
        raise OutOfMemoryError(
            f"Memory has run out, though the plan was {plan()}: train fewer runs at once, or with a smaller buffer_size, "
            f"batch_size, network or num_envs; the checkpoints in {folder} are as they were."
        ) from error


def is_exhaustion(error: Exception) -> bool:
    """Whether memory has run out, at compile time or at run time."""
    signs = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "Out of memory")
    from_device = isinstance(error, RuntimeError | ValueError) and any(sign in str(error) for sign in signs)
    return from_device or isinstance(error, MemoryError)
