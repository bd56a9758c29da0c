"""The folder of a run: its files, and reading and writing config.json and metrics.jsonl."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import jax

from envs_jax.environment import Box, Discrete, EnvSpec
from envs_jax.native_spaces import space_from_json, space_to_json
from mamt_jax.renamed import with_new_names

CONFIG, METRICS, CHECKPOINTS, CURVE = "config.json", "metrics.jsonl", "checkpoints", "learning_curve.png"
BEST, PARTS, LOCK, INITIAL = "best.npz", "parts", ".lock", "initial.npz"
FILMS = tuple(f"film_{run}.gif" for run in range(4))
"""Films of the best policies of the first runs, which are made for loggers."""
_UNFINISHED = "unfinished.tmp"
_NATIVE = ("native_action_spaces", "native_observation_spaces")
OURS = (CONFIG, METRICS, CHECKPOINTS, CURVE, BEST, PARTS, INITIAL, _UNFINISHED, *FILMS, "tensorboard", "wandb", "wandb.json")
"""All files and folders that a run writes in its folder, except the lock file."""
_SCHEDULE_UNTIL_0_1 = {
    "vector_steps": "rollout_length",
    "rows": "transitions",
    **{f"{when}_rounds": f"{when}_iterations" for when in ("replay", "warmup", "evaluation", "total")},
}
_PACKAGES = ("mamt_jax", "jax", "jaxlib", "flax", "optax", "numpy")


class FolderError(Exception):
    """Raised if the folder of a run cannot be used; the message names the folder, the reason and what to do."""


def folder_name(text: str) -> Path:
    """The folder that a user has named; raises FolderError for an empty name or one with control characters or line breaks."""
    odd = [character for character in text if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")]
    if not text or odd:
        found = f"it contains {odd[0]!a}" if odd else "it is empty"
        raise FolderError(f"The folder {text!a} is not valid: {found}. Give a name without control characters or line breaks.")
    return Path(text)


def quoted(folder: Path) -> str:
    """The folder, quoted for a shell and for an option parser."""
    text = str(folder)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def check_unused(folder: Path) -> None:
    """Raises FolderError if `folder` is not empty; the lock file does not count."""
    try:
        used = folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())
    except OSError as error:
        raise FolderError(f"--out {folder} cannot be read ({error.strerror}): give another folder.") from error
    if used:
        hint = f"continue its run with --resume {quoted(folder)}, or " if (folder / CONFIG).exists() else ""
        raise FolderError(f"--out {folder} exists and is not empty: {hint}give another folder.")


def make_folder(folder: Path) -> None:
    """Creates a folder of runs if it does not exist; raises FolderError if it cannot be written."""
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"--out {folder} cannot be written ({error.strerror}): give a writable folder.") from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within the context, a failure to write is raised as FolderError."""
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"{folder} cannot be written ({error.strerror}): make it writable, then repeat the command."
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file that replaces `path` once it is completely on the disk; until then `path` is unchanged.

    Raises:
        OSError: if it cannot be written.
    """
    unfinished = path.parent / _UNFINISHED
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
        raise


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, completely or not at all."""
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json from the folder of a run; raises FolderError if it is missing or cannot be read."""
    try:
        return read_config_file(folder / CONFIG)
    except FolderError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise FolderError(
                f"{folder} is not the folder of a run, because it has no {CONFIG}: give a folder that `mamt train` made."
            ) from error
        raise


def read_config_file(path: Path) -> dict[str, Any]:
    """Reads a config.json at any path and renames fields of older versions; raises FolderError if it cannot be read."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        schedule = content.get("schedule", {})
        content["schedule"] = {_SCHEDULE_UNTIL_0_1.get(name, name): value for name, value in schedule.items()}
        content["algorithm_configs"] = [with_new_names(each) for each in content.get("algorithm_configs", [])]
        return content
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read ({error}): restore it, or start the run again.") from error


def usable_cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Package versions, device and CPU cores, as config.json records them."""
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "cpu_cores": usable_cores(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def spec_to_json(spec: EnvSpec) -> dict[str, Any]:
    """An EnvSpec as JSON values."""
    spaces = [{"kind": type(space).__name__} | dataclasses.asdict(space) for space in spec.action_spaces]
    native = {name: [space_to_json(space) for space in getattr(spec, name)] for name in _NATIVE}
    return dataclasses.asdict(spec) | {"action_spaces": spaces} | native


def spec_from_json(content: dict[str, Any]) -> EnvSpec:
    """Reads an EnvSpec that `spec_to_json` wrote."""
    kinds = {"Discrete": Discrete, "Box": Box}
    spaces = [dict(space) for space in content["action_spaces"]]
    return EnvSpec(
        name=content["name"],
        agent_names=tuple(content["agent_names"]),
        observation_sizes=tuple(content["observation_sizes"]),
        action_spaces=tuple(kinds[space.pop("kind")](**space) for space in spaces),
        episode_limit=content["episode_limit"],
        observation_dtype=content.get("observation_dtype", "float32"),
        has_action_masks=content.get("has_action_masks", False),
        ends_together=content.get("ends_together", False),
        last_metrics=tuple(content.get("last_metrics", [])),
        **{name: tuple(map(space_from_json, content.get(name, []))) for name in _NATIVE},
    )


def append_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Appends one JSON object per line, all of them or none; numbers that are not finite become null."""
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(_lines(rows))
    except OSError:
        with suppress(OSError):
            os.truncate(path, before)
        raise


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads all rows; lines that are incomplete or damaged are left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def replace_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes these rows into a file, completely or not at all."""
    with whole_file(path) as file:
        file.write(_lines(rows))


def cut_rows(path: Path, env_steps: int) -> None:
    """Removes the rows of evaluations after `env_steps`; a resumed run will write them again."""
    replace_rows(path, [row for row in read_rows(path) if row["env_steps"] <= env_steps])


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(_finite(row)) + "\n" for row in rows).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
