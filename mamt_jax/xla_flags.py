"""XLA settings that must be in place before jax starts its backend."""

import os
from collections.abc import MutableMapping

_SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


def set_cpu_scheduler(environ: MutableMapping[str, str] = os.environ) -> None:
    """Turns off XLA's concurrency-optimised CPU scheduler in `XLA_FLAGS`, unless the user set that flag.

    With it, training vmapped over runs can stop for good on machines of few cores (jax 0.10.2): independent parts of the
    program wait for each other's worker threads. Turning it off costs no speed that we could measure.
    """
    flags = environ.get("XLA_FLAGS", "")
    if _SCHEDULER not in flags:
        environ["XLA_FLAGS"] = f"{flags} {_SCHEDULER}=false".strip()
