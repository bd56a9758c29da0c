"""Locks on the folder of a run: one process may write in it, or the processes of one group.

A process holds a POSIX record lock (`fcntl.lockf`) on a file in the folder. The kernel releases the lock when the process ends,
however it ends, and NFS passes the lock to its server. `flock` is not suitable: the children of a killed process keep its
locks.
Record locks belong to a process and not to a thread. They end when the process closes the file anywhere. This module therefore
records which folders this process holds, and no other code may open the file.
"""

import errno
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mamt_jax.training.interrupt import leaving
from mamt_jax.training.run_folder import LOCK, METRICS, OURS, PARTS, FolderError, check_unused, quoted, read_rows

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PLACE = 256
"""Size of a place in bytes. Each process of a group locks one place of the file and describes itself there."""
_REST = 0
"""Length of a lock that covers all bytes from its start."""
_TRIES = 100
_TAKEN = (errno.EACCES, errno.EAGAIN)

_guard = threading.Lock()
_held: set[str] = set()


class Hold(NamedTuple):
    """A place in the lock file of a folder that this process holds.

    Attributes:
        folder: the folder.
        index: index of this process in its group.
        count: number of processes in the group.
        file: descriptor of the lock file.
        works: whether the file system supports locks.
    """

    folder: Path
    index: int
    count: int
    file: int
    works: bool


@contextmanager
def hold_folder(folder: Path, index: int = 0, count: int = 1, make: bool = False) -> Iterator[Hold]:
    """Within the context, `folder` is held by this process, or by its group together.

    Args:
        folder: the folder.
        index: index of this process in its group.
        count: number of processes in the group.
        make: whether to create missing folders. Those that stay empty are removed again.

    Raises:
        FolderError: if another process, which the message names, holds the folder, or if it cannot be written.
    """
    made = missing_folders(folder) if make else []
    hold = _take(folder, index, count, make)
    try:
        with leaving(partial(_leave, hold, made)):
            yield hold
    finally:
        _release(hold, made)


@contextmanager
def hold_new_folder(folder: Path, index: int = 0, count: int = 1, made: Sequence[Path] | None = None) -> Iterator[Hold]:
    """`hold_folder` for a new run: creates the folder, and removes it at the end if nothing was trained.

    Args:
        folder: the folder, absent or empty.
        index: index of this process in its group.
        count: number of processes in the group.
        made: result of `missing_folders(folder)` before any process of the group created them.

    Raises:
        FolderError: if the folder is not empty, is held by another process, which the message names, or cannot be written.
    """
    check_free(folder)
    made = missing_folders(folder) if made is None else made
    hold, new = _take(folder, index, count, make=True), False
    try:
        check_unused(folder)
        new = True
        with leaving(partial(_leave, hold, made, new)):
            yield hold
    finally:
        _release(hold, made, new)


def check_free(folder: Path) -> None:
    """Raises FolderError if `folder` is not empty, unless a lock file shows that a process may be using it."""
    if not (folder / LOCK).exists():
        check_unused(folder)


def missing_folders(folder: Path) -> list[Path]:
    """The folders among `folder` and its parents that do not exist, innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def clear_folder(folder: Path) -> None:
    """Removes the contents of `folder` if it exists; raises FolderError if another process holds it."""
    if folder.exists():
        with hold_folder(folder):
            _remove(path for path in folder.iterdir() if path.name != LOCK)


def let_go(hold: Hold) -> None:
    """Releases the place for the other processes of the group. The folder stays marked as held within this process."""
    if hold.works:
        _lock(hold.file, *_place(hold), free=True)


def others_hold(hold: Hold) -> bool:
    """Whether another process of the group still holds its place."""
    places = [hold._replace(index=index) for index in range(hold.count) if index != hold.index]
    return hold.works and any(not _is_free(hold.file, *_place(each)) for each in places)


def group_hosts(hold: Hold) -> list[str]:
    """The host name of each process of the group, once all of them hold their places."""
    others_hold(hold)  # after an attempt to lock a file, NFS reads it again
    return [_read(hold.file, index).get("host", "") for index in range(hold.count)]


def _take(folder: Path, index: int, count: int, make: bool) -> Hold:
    key = os.path.realpath(folder)
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with _guard:
        if key in _held:
            raise FolderError(_in_use(folder, me | {"since": ""}))
        _held.add(key)
    try:
        hold = _open(folder, index, count, make)
        with suppress(OSError, AttributeError):  # no description on a full disk or on Windows
            if count == 1:
                os.ftruncate(hold.file, 0)
            os.pwrite(hold.file, json.dumps(me).encode().ljust(_PLACE)[:_PLACE], index * _PLACE)
            os.fsync(hold.file)
        return hold
    except BaseException:
        _held.discard(key)
        raise


def _open(folder: Path, index: int, count: int, make: bool) -> Hold:
    for _ in range(_TRIES):
        try:
            if make:
                folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # another process has just removed the folder
        except OSError as error:
            raise FolderError(f"{folder} cannot be written ({error.strerror}): give a writable folder.") from error
        hold = Hold(folder, index, count, file, works=True)
        try:
            _lock(file, *_place(hold))
        except OSError as error:
            if error.errno not in _TAKEN:
                return hold._replace(works=False)
            time.sleep(0.1)  # a process that has just locked it will describe itself next
            who = _read(file, _taken_place(hold))
            os.close(file)
            raise FolderError(_in_use(folder, who)) from None
        if _is_same(file, folder / LOCK):
            return hold
        os.close(file)  # the process that held it has just removed it
    raise FolderError(f"{folder} cannot be written (there is no such folder): give a writable folder.")


def _release(hold: Hold, made: Sequence[Path] = (), new: bool = False) -> None:
    """Ends a hold; the last process of a group also cleans up.

    It removes the lock file and those of the `made` folders that are empty. If the folder is `new` and nothing was trained, it
    also removes the files of the run.
    """
    try:
        if hold.count > 1:
            let_go(hold)
        if not hold.works or _is_free(hold.file, 0, _REST, keep=True):
            if new and not _is_trained(hold.folder):
                _remove(hold.folder / name for name in OURS)
            for remove in ((hold.folder / LOCK).unlink, *(folder.rmdir for folder in made)):
                with suppress(OSError):
                    remove()
    finally:
        os.close(hold.file)
        _held.discard(os.path.realpath(hold.folder))


def _leave(hold: Hold, made: Sequence[Path] = (), new: bool = False) -> str:
    _release(hold, made, new)
    if _is_trained(hold.folder):
        return f"Continue with: mamt train --resume {quoted(hold.folder)}"
    return "Nothing was trained and no files remain. Repeat the command to start again." if new else ""


def _is_trained(folder: Path) -> bool:
    """Whether a folder holds results of training: a checkpoint, rows after environment step 0, or parts."""
    checkpoint = any(folder.glob("checkpoints/*.npz")) or any(folder.glob(f"{PARTS}/*"))
    return checkpoint or any(row.get("env_steps") for row in read_rows(folder / METRICS))


def _remove(paths: Iterable[Path]) -> None:
    """Removes files and folders, even if another thread is still writing a file there."""
    for path in paths:
        for _ in range(_TRIES):
            with suppress(OSError):
                path.unlink()
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break


def _in_use(folder: Path, who: dict[str, Any]) -> str:
    name = f"process {who['pid']} on {who['host']}" if "pid" in who else "another process"
    since = f" since {who['since']}" if who.get("since") else ""
    return f"{folder} is in use by {name}{since}: wait until it ends, stop it, or give another folder."


def _place(hold: Hold) -> tuple[int, int]:
    """Start and length of the bytes that a process locks. The last process of a group locks the rest of the file."""
    return hold.index * _PLACE, _REST if hold.index == hold.count - 1 else _PLACE


def _taken_place(hold: Hold) -> int:
    """The first place that `hold` requires and another process holds."""
    size = os.fstat(hold.file).st_size
    places = range(hold.index, max(hold.index + 1, size // _PLACE))
    return next((place for place in places if not _is_free(hold.file, place * _PLACE, _PLACE)), hold.index)


def _read(file: int, place: int) -> dict[str, Any]:
    try:
        who = json.loads(os.pread(file, _PLACE, place * _PLACE))
        return who if isinstance(who, dict) else {}
    except (OSError, ValueError):
        return {}


def _is_free(file: int, start: int, length: int, keep: bool = False) -> bool:
    """Whether no other process locks these bytes. With `keep`, this process then keeps them locked."""
    try:
        _lock(file, start, length)
    except OSError:
        return False
    if not keep:
        _lock(file, start, length, free=True)
    return True


def _lock(file: int, start: int, length: int, free: bool = False) -> None:
    """Locks or unlocks bytes of a file; raises OSError, with an errno in `_TAKEN` if another process has locked some."""
    if fcntl is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.lockf(file, fcntl.LOCK_UN if free else fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
