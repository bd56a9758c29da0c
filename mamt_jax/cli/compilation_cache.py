"""Keeps compiled XLA programs on disk for the next start."""

import os
from pathlib import Path

import jax
import platformdirs

from mamt_jax.options import OptionError

OFF = "none"


def use_compilation_cache(folder: str | None) -> None:
    """Sets the folder in which JAX keeps compiled programs.

    Args:
        folder: the folder, or `OFF` for no cache. None means JAX_COMPILATION_CACHE_DIR if set, else the user's cache. If the
            latter cannot be written, programs are compiled at every start.

    Raises:
        OptionError: if `folder` is given and cannot be written.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
    elif folder or "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        path = Path(folder) if folder else platformdirs.user_cache_path("mamt_jax") / "xla"
        if writable(path):
            jax.config.update("jax_compilation_cache_dir", str(path))
        elif folder:
            raise OptionError(f"--compilation-cache {folder} cannot be written: give a writable folder, or {OFF}.")


def writable(folder: Path) -> bool:
    """Makes `folder` if it does not exist; returns whether files can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
