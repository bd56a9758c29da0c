"""Multi-agent reinforcement learning that stays stationary while every agent learns, in pure JAX."""

from mamt_jax.xla_flags import set_cpu_scheduler

set_cpu_scheduler()
