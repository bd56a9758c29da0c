"""Turns CPU cores into JAX devices, which train runs side by side as several GPUs do."""

import os

import jax

from mamt_jax.training.run_folder import usable_cores


def use_every_core() -> None:
    """Makes every core that this process may use a JAX device.

    Call it before JAX computes anything. A number of devices in XLA_FLAGS takes precedence.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    jax.config.update("jax_num_cpu_devices", usable_cores())
