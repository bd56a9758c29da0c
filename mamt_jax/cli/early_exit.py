"""Handles Ctrl-C and SIGTERM while a command imports its modules, which takes seconds."""

import os
import signal


def exit_while_importing() -> None:
    """Makes Ctrl-C and SIGTERM end the process with one line and exit code 128 + signal.

    `interrupt.exit_at_once` replaces these handlers after the imports.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)


def _exit(number: int, frame: object) -> None:
    del frame
    os.write(2, f"Stopped by {signal.Signals(number).name}.\n".encode())
    os._exit(128 + number)
