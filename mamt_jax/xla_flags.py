"""XLA settings that must be set before JAX starts its backend."""

import os
from collections.abc import MutableMapping

_SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


def set_cpu_scheduler(environ: MutableMapping[str, str] = os.environ) -> None:
    """Turns off XLA's concurrency-optimised CPU scheduler in `XLA_FLAGS`, unless the user set that flag.

    With this scheduler, training that is vmapped over runs can deadlock on machines with few cores (jax 0.10.2), because
    independent parts of the program wait for each other's worker threads. We measured no loss of speed without it.
    """
    flags = environ.get("XLA_FLAGS", "")
    if _SCHEDULER not in flags:
        environ["XLA_FLAGS"] = f"{flags} {_SCHEDULER}=false".strip()
