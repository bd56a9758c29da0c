"""Ctrl-C and SIGTERM as a flag that the host loop reads between slices of work."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_signals(notify: Callable[[int], None]) -> Iterator[Callable[[], int | None]]:
    """Within it, the first Ctrl-C or SIGTERM only calls `notify(signal)` and sets the flag; the second one acts as usual.

    Yields:
        A function that returns the number of the signal that came, or None.
    """
    received: list[int] = []
    usual = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        del frame
        received.append(number)
        restore()
        notify(number)

    for number in _SIGNALS:
        signal.signal(number, handle)
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
