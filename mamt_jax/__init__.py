"""Multi-agent reinforcement learning that stays stationary while every agent learns, in pure JAX."""

from mamt_jax.xla_flags import set_cpu_scheduler

set_cpu_scheduler()

from mamt_jax.training.export_policy import export_policy  # noqa: E402  after the flags, which jax reads once
from mamt_jax.training.policies import load_policy, load_spec  # noqa: E402

__all__ = ["export_policy", "load_policy", "load_spec"]
