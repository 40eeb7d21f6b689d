"""The signals that ask a process to end: from the terminal, from a service manager, from Slurm."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

#: SIGUSR1 announces the end of a job of Slurm (`--signal=USR1@120`), to all its processes.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

#: A closed terminal, `timeout` and other wrappers send the same signal twice within this time.
SAME_REQUEST_S = 0.5


def listen(handler: Handler) -> dict[int, Any]:
    """Install `handler` for each signal, and return the previous handlers for `give_back`.

    Under `nohup`, SIGHUP stays ignored, so that closing the terminal does not end the process.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python delivers signals to the main thread only
    is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = [number for number in SIGNALS if not (is_nohup and number == signal.SIGHUP)]
    return {number: signal.signal(number, handler) for number in heard}


def give_back(previous: dict[int, Any]) -> None:
    """Restore the handlers that were installed before `listen`."""
    for number, handler in previous.items():
        signal.signal(number, handler)


@contextmanager
def listening(handler: Handler) -> Iterator[None]:
    """Install `handler` for each signal until the end of the block."""
    previous = listen(handler)
    try:
        yield
    finally:
        give_back(previous)


class Requests:
    """The requests to end that this process received; tells a second one from an echo of the first."""

    def __init__(self) -> None:
        #: The first signal received.
        self.first: int | None = None
        self._came_at = 0.0

    def is_new(self, number: int) -> bool:
        """Return whether this signal is a new request.

        A repeated SIGHUP never is: it comes from a closed terminal, not from an impatient user.
        """
        if self.first is None:
            self.first, self._came_at = number, time.monotonic()
            return True
        return number != signal.SIGHUP and time.monotonic() - self._came_at > SAME_REQUEST_S


def name_of(number: int) -> str:
    """Return the name of a signal that users know."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
