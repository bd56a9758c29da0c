"""What XLA has compiled, kept for the next start."""

import os
from pathlib import Path

import jax
import platformdirs

from mamt_jax.options import OptionError

OFF = "none"


def use_compilation_cache(folder: str | None) -> None:
    """Keeps compiled programs in `folder`, or among the user's caches, or nowhere; raises OptionError if it cannot be written.

    Where nobody named a folder JAX's own variable comes first, and none that can be written costs no more than compiling again.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
    elif folder or "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        path = Path(folder) if folder else platformdirs.user_cache_path("mamt_jax") / "xla"
        if writable(path):
            jax.config.update("jax_compilation_cache_dir", str(path))
        elif folder:
            raise OptionError(f"--compilation-cache {folder} cannot be written: give a folder that can, or {OFF}.")


def writable(folder: Path) -> bool:
    """Whether `folder` is there, made if need be, and takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
