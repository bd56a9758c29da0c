"""Multi-agent reinforcement learning in pure JAX, with trust regions for many agents."""

import importlib
from typing import TYPE_CHECKING, Any

from mamt_jax.xla_flags import set_cpu_scheduler

if TYPE_CHECKING:
    from mamt_jax.api import Run, Trainer, evaluate, load_pretrained, make_trainer, open_run, resume, train
    from mamt_jax.training.policies import export_policy, load_policy, load_spec

__version__ = "0.2.0"

_MODULES: dict[str, str] = dict.fromkeys(("export_policy", "load_policy", "load_spec"), "mamt_jax.training.policies")
__all__ = [
    "Run",
    "Trainer",
    "evaluate",
    "export_policy",
    "load_policy",
    "load_pretrained",
    "load_spec",
    "make_trainer",
    "open_run",
    "resume",
    "train",
]

set_cpu_scheduler()  # JAX reads XLA_FLAGS once, when it starts


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use. A command can therefore react to Ctrl-C before JAX is imported."""
    if name not in __all__:
        raise AttributeError(f"module 'mamt_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "mamt_jax.api")), name)


def __dir__() -> list[str]:
    """Lists the public names."""
    return [*__all__, "__version__"]
