"""Ctrl-C and SIGTERM: before training they end a command at once; during training they set a flag for the host loop."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import NoReturn

import psutil

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CLEAR_LINE_SHOW_CURSOR = "\r\x1b[2K\x1b[?25h"
_deciding = threading.Lock()
_watchers: list[threading.Thread] = []
_deferring: list[Callable[[int], None]] = []
_leaving: list[Callable[[], str]] = []


def exit_at_once() -> None:
    """Makes Ctrl-C and SIGTERM end this process with one line and exit code 128 + signal, even while XLA compiles.

    Commands call it once in their main thread. The process does not unwind, and its children are killed.
    A thread reads the signals, because Python runs handlers only in the main thread and only after a compilation has returned.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in _SIGNALS:
        signal.signal(number, _left_to_watcher)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if hasattr(os, "register_at_fork"):
        block, unblock = (partial(signal.pthread_sigmask, how, _SIGNALS) for how in (signal.SIG_BLOCK, signal.SIG_UNBLOCK))
        os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=_forget)
    _watchers.append(threading.Thread(target=_watch, args=(reader,), daemon=True))
    _watchers[-1].start()


@contextmanager
def leaving(callback: Callable[[], str]) -> Iterator[None]:
    """Within the context, a process that ends at once first calls `callback`. The outermost callback's result is printed."""
    with _deciding:
        _leaving.append(callback)
    try:
        yield
    finally:
        with _deciding:
            _leaving.remove(callback)


@contextmanager
def deferred_signals(notify: Callable[[int], None]) -> Iterator[Callable[[], int | None]]:
    """Within the context, the first Ctrl-C or SIGTERM only calls `notify(signal)` and sets a flag; the second acts as usual.

    It has no effect outside the main thread, where Python allows no handlers.

    Yields:
        A function that returns the number of the signal that was received, or None.
    """
    received: list[int] = []

    def take(number: int) -> None:
        received.append(number)
        notify(number)

    with _first_signal_to(take):
        yield lambda: received[0] if received else None


def _first_signal_to(take: Callable[[int], None]) -> AbstractContextManager[None]:
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    return _by_watcher(take) if _watchers else _by_handler(take)


@contextmanager
def _by_watcher(take: Callable[[int], None]) -> Iterator[None]:
    with _deciding:  # blocks forever if the process is ending
        _deferring.append(take)
    try:
        yield
    finally:
        with _deciding:
            if take in _deferring:
                _deferring.remove(take)


@contextmanager
def _by_handler(take: Callable[[int], None]) -> Iterator[None]:
    usual = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        del frame
        restore()
        take(number)

    for number in _SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


def _left_to_watcher(number: int, frame: object) -> None:
    """An empty handler; with it Python writes the signal's number to the pipe that the watcher reads."""


def _forget() -> None:
    """Restores the usual signal handling in a forked child, which would otherwise write its signals to the parent's pipe."""
    signal.set_wakeup_fd(-1)
    for number, handler in zip(_SIGNALS, (signal.default_int_handler, signal.SIG_DFL), strict=True):
        if signal.getsignal(number) is _left_to_watcher:
            signal.signal(number, handler)
    for each in (_watchers, _deferring, _leaving):
        each.clear()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _watch(reader: int) -> None:
    while True:
        number = os.read(reader, 1)[0]
        if number not in _SIGNALS:
            continue
        with _deciding:
            take = _deferring.pop() if _deferring else _exit(number)
        with suppress(OSError, ValueError):  # the stream to which `take` prints may be closed
            take(number)


def _exit(number: int) -> NoReturn:
    try:
        _kill_children()
        said = [f"Stopped by {signal.Signals(number).name}.", *[leave() for leave in reversed(_leaving)][-1:]]
        os.write(2, f"{_CLEAR_LINE_SHOW_CURSOR if os.isatty(2) else ''}{' '.join(said).strip()}\n".encode())
    finally:
        os._exit(128 + number)


def _kill_children() -> None:
    """Kills all descendants except Python's resource tracker, which removes what they leave and then ends."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if not any("resource_tracker" in word for word in child.cmdline()):
                child.kill()
