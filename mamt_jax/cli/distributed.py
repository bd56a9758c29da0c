"""Several processes, on one machine or many, that train one experiment: each its share of the runs."""

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
"""Seconds that a process which was stopped waits for the checkpoints of the others."""
_PAUSE = 0.2


@contextmanager
def joined(address: Sequence[str], folder: Path, new: bool, console: Console) -> Iterator[Processes]:
    """Within it, this process is one of those that train together in `folder`; all leave it at the same time.

    Runs do not depend on each other, and jax ends all processes when it loses one. The processes therefore use jax to find each
    other and then leave its service. Each holds its place in the folder's lock until its work is done or it dies.

    Args:
        address: nothing where jax knows the cluster (Slurm, Open MPI, Kubernetes, TPUs), else "host:port" of the first process,
            how many there are, and which this is.
        folder: the same for all.
        new: whether the folder is that of a new run.
        console: where progress goes.

    Raises:
        OptionError: if the address cannot be right, or the others do not come.
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
    """Which of the processes this is, and how many there are; returns once all are there."""
    options = {}
    if address:
        if len(address) != 3 or not (address[1].isdigit() and address[2].isdigit() and ":" in address[0]):
            given = " ".join(address)
            raise OptionError(f"--distributed {given} is not valid: give HOST:PORT COUNT INDEX, or nothing on a known cluster.")
        count, index = int(address[1]), int(address[2])
        if not 0 <= index < count:
            raise OptionError(f"--distributed INDEX {index} is not valid: give a number from 0 to {count - 1}.")
        options = {"coordinator_address": address[0], "num_processes": count, "process_id": index}
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        raise OptionError(f"--distributed cannot start ({error}): give HOST:PORT COUNT INDEX, the same port in all.") from error
    from jax._src.distributed import global_state  # what is public would start the devices, before they are chosen

    return global_state.process_id, global_state.num_processes


def part_from_service() -> None:
    """Leaves the service by which jax brought the processes together, once all do."""
    try:
        jax.distributed.shutdown()
    except RuntimeError as error:
        raise OptionError(f"--distributed cannot start, a process ended early ({error}): start all of them again.") from error


def wait(held: Hold, console: Console, seconds: float | None = None) -> int | None:
    """Returns once all other processes have written their checkpoints or died, or after `seconds`.

    Without a limit, a signal sets one.

    Returns:
        The number of that signal, or None.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    if held.index:  # the first puts the parts together
        let_go(held)

    def announce(number: int) -> None:
        say(console, f"Signal {number}: waiting up to {PATIENCE:.0f} s for the others' checkpoints. Once more stops at once.")

    with deferred_signals(announce) as stopped:
        while others_hold(held) and (deadline is None or time.monotonic() < deadline):
            time.sleep(_PAUSE)
            if stopped() and deadline is None:
                deadline = time.monotonic() + PATIENCE
        return stopped()


def use_own_devices(index: int, hosts: Sequence[str]) -> None:
    """Leaves GPUs to the other processes on this host, unless the cluster or CUDA_VISIBLE_DEVICES has shared them out."""
    free = "CUDA_VISIBLE_DEVICES" not in os.environ and jax.config.read("jax_cuda_visible_devices") == "all"
    devices = own_devices(index, hosts, num_gpus())
    if free and devices is not None:
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, devices)))


def own_devices(index: int, hosts: Sequence[str], num_devices: int) -> list[int] | None:
    """Which of its host's devices process `index` uses: an even share where there are enough, else one, in turn.

    None, for all, where no other process is on its host.
    """
    host = hosts[index]
    place, sharing = hosts[:index].count(host), hosts.count(host)
    if not host or sharing == 1 or not num_devices:
        return None
    return list(range(place, num_devices, sharing)) or [place % num_devices]


def num_gpus() -> int:
    """NVIDIA's GPUs on this machine, counted without starting them."""
    devices = Path("/dev")
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in devices.iterdir()) if devices.is_dir() else 0
