"""A CPU's cores as devices, so that runs are trained side by side on them as on several GPUs."""

import os

import jax

from mamt_jax.training.run_folder import usable_cores


def use_every_core() -> None:
    """Makes every core that this process may use a device; before JAX computes anything, and unless XLA_FLAGS say how many."""
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    jax.config.update("jax_num_cpu_devices", usable_cores())
