"""Imports objects that are named as "package.module:name", from Python's search path or else from the working directory."""

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
    """Finder for `sys.meta_path` that finds modules in the working directory."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a module, or None if the working directory does not contain it."""
        del target
        if path is not None:  # a submodule, which its package finds
            return None
        with suppress(OSError):  # the working directory may have been removed
            spec = PathFinder.find_spec(name, [os.getcwd()])
            # A folder without __init__.py counts as a package only if it contains modules: it may be data.
            folders = map(Path, (spec and spec.submodule_search_locations) or ())
            return spec if spec and (spec.loader or any(any(folder.glob("*.py")) for folder in folders)) else None
        return None


def search_working_directory() -> None:
    """Makes modules in the working directory importable, after all other places."""
    if _WorkingDirectory not in sys.meta_path:
        sys.meta_path.append(_WorkingDirectory)


if multiprocessing.current_process().name != "MainProcess":  # pickled objects may come from such a module
    search_working_directory()


def import_object(name: str, what: str) -> Any:
    """Imports the callable that "package.module:name" names.

    Args:
        name: the name, as the user gave it.
        what: kind of object, with which error messages begin, such as "Environment".

    Raises:
        ValueError: if the module cannot be imported, or has no callable of that name.
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
            f"Module {module_name!r} has no function {attribute!r}{nearest(attribute, own)}. "
            f"It has {', '.join(own) or 'no functions'}."
        )
    return found
