"""Who may write in a run's folder: one process at a time, or the processes of one group.

They hold POSIX record locks (`fcntl.lockf`) on a file in the folder. The kernel releases such a lock when its process ends,
however it ends, and NFS passes it on to its server. `flock` would not do: the children of a killed process keep its locks.
Record locks belong to a process and not to a thread, and end when the process closes the file anywhere. This module therefore
counts what this process holds, and nothing else may open the file.
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
"""Bytes of the file that one process of a group locks and describes itself in."""
_REST = 0
"""As a length, all from there on."""
_TRIES = 100
_TAKEN = (errno.EACCES, errno.EAGAIN)

_guard = threading.Lock()
_held: set[str] = set()


class Hold(NamedTuple):
    """A place in a folder that this process holds.

    Attributes:
        folder: the folder.
        index: which process of its group holds it.
        count: how many the group has.
        file: descriptor of the lock's file.
        works: whether the file system has locks.
    """

    folder: Path
    index: int
    count: int
    file: int
    works: bool


@contextmanager
def hold_folder(folder: Path, index: int = 0, count: int = 1, make: bool = False) -> Iterator[Hold]:
    """Within it, `folder` belongs to this process, or to it and the others of its group.

    Args:
        folder: the folder.
        index: which process of its group this is.
        count: how many the group has.
        make: make the folder where there is none; it is removed again if it stays empty.

    Raises:
        FolderError: if it belongs to somebody else, who is named, or cannot be written.
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
    """`hold_folder` for a new run: makes the folder, and removes it again if it ends before anything was trained.

    Args:
        folder: absent or empty.
        index: which process of its group this is.
        count: how many the group has.
        made: `missing_folders(folder)` before any process of the group made them.

    Raises:
        FolderError: if the folder holds something, belongs to somebody else, who is named, or cannot be written.
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
    """Raises FolderError if `folder` holds something, unless somebody may be at work there."""
    if not (folder / LOCK).exists():
        check_unused(folder)


def missing_folders(folder: Path) -> list[Path]:
    """Those of `folder` and its parents that do not exist, from the inside out."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def clear_folder(folder: Path) -> None:
    """Removes all that is in `folder`, if it is there; raises FolderError if it belongs to somebody else."""
    if folder.exists():
        with hold_folder(folder):
            _remove(path for path in folder.iterdir() if path.name != LOCK)


def let_go(hold: Hold) -> None:
    """Gives the place free for the others of its group to see, and still counts as holding the folder in this process."""
    if hold.works:
        _lock(hold.file, *_place(hold), free=True)


def others_hold(hold: Hold) -> bool:
    """Whether another process of the group still holds its place."""
    places = [hold._replace(index=index) for index in range(hold.count) if index != hold.index]
    return hold.works and any(not _is_free(hold.file, *_place(each)) for each in places)


def group_hosts(hold: Hold) -> list[str]:
    """The host of each process of the group, once all hold their places."""
    others_hold(hold)  # NFS reads a file anew after a try to lock it
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
        with suppress(OSError, AttributeError):  # on a full disk the lock alone must do, and Windows has neither
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
            continue  # somebody has just removed the folder
        except OSError as error:
            raise FolderError(f"{folder} cannot be written ({error.strerror}): give a folder that can.") from error
        hold = Hold(folder, index, count, file, works=True)
        try:
            _lock(file, *_place(hold))
        except OSError as error:
            if error.errno not in _TAKEN:
                return hold._replace(works=False)
            time.sleep(0.1)  # who has just locked it is about to say who it is
            who = _read(file, _taken_place(hold))
            os.close(file)
            raise FolderError(_in_use(folder, who)) from None
        if _is_same(file, folder / LOCK):
            return hold
        os.close(file)  # its holder has just removed it
    raise FolderError(f"{folder} cannot be written (there is no such folder): give a folder that can.")


def _release(hold: Hold, made: Sequence[Path] = (), new: bool = False) -> None:
    """Ends a hold; the last of a group removes the file, a new folder's contents if nothing was trained, and what is empty."""
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
    return "Nothing was trained, and nothing is left: the same command starts again." if new else ""


def _is_trained(folder: Path) -> bool:
    """Whether there is something in a run's folder that took training: a checkpoint, rows or parts."""
    checkpoint = any(folder.glob("checkpoints/*.npz")) or any(folder.glob(f"{PARTS}/*"))
    return checkpoint or any(row.get("env_steps") for row in read_rows(folder / METRICS))


def _remove(paths: Iterable[Path]) -> None:
    """Removes files and folders, also while another thread is writing its last file there."""
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
    """Start and length of what a process locks: the last of a group all that is left, and one alone everything."""
    return hold.index * _PLACE, _REST if hold.index == hold.count - 1 else _PLACE


def _taken_place(hold: Hold) -> int:
    """The first place, of those that `hold` wants, which somebody else holds."""
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
    """Whether no other process locks these bytes; with `keep` they are this one's from now on."""
    try:
        _lock(file, start, length)
    except OSError:
        return False
    if not keep:
        _lock(file, start, length, free=True)
    return True


def _lock(file: int, start: int, length: int, free: bool = False) -> None:
    """Locks bytes of a file, or frees them; raises OSError, its number in _TAKEN if another process has locked some."""
    if fcntl is None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.lockf(file, fcntl.LOCK_UN if free else fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False
