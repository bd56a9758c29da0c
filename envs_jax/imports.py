"""Objects that a user names as "package.module:name", imported from wherever Python looks, then from the working directory."""

import importlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from envs_jax.validation import nearest, one_line


class _WorkingDirectory:
    """A finder, as `sys.meta_path` wants it, of modules in the working directory that are found nowhere else."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module's spec, None if there is none."""
        del target
        if path is not None:  # within a package, which knows where its modules are
            return None
        with suppress(OSError):  # of a working directory that was removed
            spec = PathFinder.find_spec(name, [os.getcwd()])
            # A folder without an __init__.py is a package only if it holds modules: one called wandb may have another purpose.
            folders = map(Path, (spec and spec.submodule_search_locations) or ())
            return spec if spec and (spec.loader or any(any(folder.glob("*.py")) for folder in folders)) else None
        return None


def search_working_directory() -> None:
    """Lets imports find modules in the working directory, after all other places."""
    if _WorkingDirectory not in sys.meta_path:
        sys.meta_path.append(_WorkingDirectory)


if multiprocessing.current_process().name != "MainProcess":  # what a child is sent may be of such a module
    search_working_directory()


def import_object(name: str, what: str) -> Any:
    """The object that "package.module:name" names; a callable.

    Args:
        name: as typed.
        what: what it is said to be, with which error messages begin, as "Environment".

    Raises:
        ValueError: if the module cannot be imported, or has no function of that name.
    """
    module_name, _, attribute = name.partition(":")
    search_working_directory()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"{what} {name!r} cannot be imported: {one_line(error)}.") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == module.__name__]
        raise ValueError(
            f"Module {module_name!r} has no function {attribute!r}{nearest(attribute, own)}; it has {', '.join(own) or 'none'}."
        )
    return found
