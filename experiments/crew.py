"""Several processes, on one machine or many, that train one experiment: each its share of the runs."""

from collections.abc import Sequence

import jax

from experiments.options import OptionError
from experiments.train import Crew

_WEEK = 7 * 24 * 3600


def join(address: Sequence[str]) -> Crew:
    """This process's place among those that train together; returns once all are there.

    Runs do not depend on each other, so the processes exchange nothing but that they are there and alive.

    Args:
        address: nothing where jax knows the cluster (Slurm, Open MPI, Kubernetes, TPUs), else "host:port" of the first process,
            how many there are, and which this is.

    Raises:
        OptionError: if the address cannot be right, or the others do not come.
    """
    options = {}
    if address:
        if len(address) != 3 or not (address[1].isdigit() and address[2].isdigit() and ":" in address[0]):
            given = " ".join(address)
            raise OptionError(f"--distributed {given} is not valid: give HOST:PORT COUNT INDEX, or nothing on a known cluster.")
        count, index = int(address[1]), int(address[2])
        if not 0 <= index < count:
            raise OptionError(f"--distributed INDEX {index} is not valid: give a number from 0 to {count - 1}.")
        options = {"coordinator_address": address[0], "num_processes": count, "process_id": index}
    try:
        jax.distributed.initialize(**options, shutdown_timeout_seconds=_WEEK)
    except (RuntimeError, ValueError) as error:
        raise OptionError(f"--distributed cannot start ({error}): give HOST:PORT COUNT INDEX, the same port in all.") from error
    return Crew(jax.process_index(), jax.process_count(), jax.distributed.shutdown)
