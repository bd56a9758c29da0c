"""Distributed training: several processes, on one or more machines, each train a share of an experiment's runs."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import jax
from rich.console import Console

from mamt_jax.options import OptionError
from mamt_jax.training.console import say
from mamt_jax.training.folder_lock import (
    Hold,
    check_free,
    group_hosts,
    hold_folder,
    hold_new_folder,
    let_go,
    missing_folders,
    others_hold,
)
from mamt_jax.training.interrupt import deferred_signals
from mamt_jax.training.launch import Processes
from mamt_jax.training.run_folder import read_config

PATIENCE = 60.0
"""Seconds that a stopped process waits for the checkpoints of the other processes."""
_PAUSE = 0.2


@contextmanager
def joined(address: Sequence[str], folder: Path, new: bool, console: Console) -> Iterator[Processes]:
    """Context in which this process trains in `folder` together with others. On exit it waits up to `PATIENCE` s for them.

    Runs do not depend on each other, and JAX ends all processes when it loses one. The processes therefore use JAX only to find
    each other, and then leave its service. Each holds its place in the folder's lock until its work is done or it dies.

    Args:
        address: empty where JAX knows the cluster (Slurm, Open MPI, Kubernetes, TPUs), else "host:port" of the first process,
            the number of processes, and the index of this one.
        folder: folder of the results, the same for all processes.
        new: whether a new run begins in the folder. Otherwise the run in it is resumed.
        console: console for progress messages.

    Yields:
        The group of processes.

    Raises:
        OptionError: if the address is not valid, or the other processes do not join.
        FolderError: if the folder cannot be used.
    """
    check_free(folder) if new else read_config(folder)
    made = missing_folders(folder)
    index, count = join(address)
    with ExitStack() as stack:
        try:
            hold = hold_new_folder(folder, index, count, made) if new else hold_folder(folder, index, count)
            held = stack.enter_context(hold)
        finally:
            part_from_service()
        use_own_devices(index, group_hosts(held))
        stack.callback(wait, held, console, PATIENCE)
        yield Processes(index, count, holds=True, wait=partial(wait, held, console))


def join(address: Sequence[str]) -> tuple[int, int]:
    """Joins the group of processes; returns once all have joined.

    Args:
        address: as in `joined`.

    Returns:
        The index of this process, and the number of processes.

    Raises:
        OptionError: if the address is not valid, or the processes cannot connect.
    """
    options = {}
    if address:
        if len(address) != 3 or not (address[1].isdigit() and address[2].isdigit() and ":" in address[0]):
            given = " ".join(address)
            raise OptionError(
                f"--distributed {given} is not valid: give HOST:PORT COUNT INDEX, or no value on a known cluster."
            )
        count, index = int(address[1]), int(address[2])
        if not 0 <= index < count:
            raise OptionError(f"--distributed INDEX {index} is not valid: give a number from 0 to {count - 1}.")
        options = {"coordinator_address": address[0], "num_processes": count, "process_id": index}
    jax.config.update("jax_enable_preemption_service", False)  # it would handle SIGTERM itself
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        raise OptionError(f"--distributed cannot start ({error}): give all processes the same HOST:PORT and COUNT.") from error
    from jax._src.distributed import global_state  # public functions would start the devices before they are chosen

    return global_state.process_id, global_state.num_processes


def part_from_service() -> None:
    """Leaves JAX's coordination service once all processes do; raises OptionError if one has ended early."""
    try:
        jax.distributed.shutdown()
    except RuntimeError as error:
        raise OptionError(f"--distributed cannot start, because a process ended early ({error}): restart all.") from error


def wait(held: Hold, console: Console, seconds: float | None = None) -> int | None:
    """Waits until all other processes have written their checkpoints or died, or `seconds` have passed.

    Without a limit, a signal sets one of `PATIENCE` seconds.

    Returns:
        The number of the signal that arrived meanwhile, or None.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    if held.index:  # process 0 merges the parts later, and keeps its lock
        let_go(held)

    def announce(number: int) -> None:
        say(
            console,
            f"Signal {number}: this process waits up to {PATIENCE:.0f} s for the checkpoints of the other processes. "
            "Repeat the signal to stop at once.",
        )

    with deferred_signals(announce) as stopped:
        while others_hold(held) and (deadline is None or time.monotonic() < deadline):
            time.sleep(_PAUSE)
            if stopped() and deadline is None:
                deadline = time.monotonic() + PATIENCE
        return stopped()


def use_own_devices(index: int, hosts: Sequence[str]) -> None:
    """Restricts this process to its share of the host's GPUs, unless the cluster or CUDA_VISIBLE_DEVICES already does."""
    free = "CUDA_VISIBLE_DEVICES" not in os.environ and jax.config.read("jax_cuda_visible_devices") == "all"
    devices = own_devices(index, hosts, num_gpus())
    if free and devices is not None:
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, devices)))


def own_devices(index: int, hosts: Sequence[str], num_devices: int) -> list[int] | None:
    """The GPUs that process `index` uses: an even share of its host's, or a single one if the host has too few.

    Args:
        index: index of the process.
        hosts: host name of every process, empty where unknown.
        num_devices: number of GPUs on the host.

    Returns:
        Numbers of the GPUs. None means all: no other process is on the host, the host is unknown, or it has no GPU.
    """
    host = hosts[index]
    place, sharing = hosts[:index].count(host), hosts.count(host)
    if not host or sharing == 1 or not num_devices:
        return None
    return list(range(place, num_devices, sharing)) or [place % num_devices]


def num_gpus() -> int:
    """Counts the NVIDIA GPUs of this machine without initialising them."""
    devices = Path("/dev")
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in devices.iterdir()) if devices.is_dir() else 0
