"""The signals that ask a process to end: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Answer = Callable[[int, FrameType | None], Any]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: A closed terminal, `timeout` and other wrappers send the same request twice, one right after the other.
SAME_REQUEST_S = 0.5


def listen(answer: Answer) -> dict[int, Any]:
    """Let `answer` be called by each signal; gives what `give_back` puts back.

    Under `nohup` a terminal that is closed ends nothing: SIGHUP stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python delivers signals to the main thread only
    is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = [number for number in SIGNALS if not (is_nohup and number == signal.SIGHUP)]
    return {number: signal.signal(number, answer) for number in heard}


def give_back(previous: dict[int, Any]) -> None:
    """Put back the answers that were there before `listen`."""
    for number, answer in previous.items():
        signal.signal(number, answer)


@contextmanager
def listening(answer: Answer) -> Iterator[None]:
    """Let `answer` be called by each signal until the end of the block."""
    previous = listen(answer)
    try:
        yield
    finally:
        give_back(previous)


class Requests:
    """Tells a second request to end from an echo of the first."""

    def __init__(self) -> None:
        #: The first signal that came.
        self.first: int | None = None
        self._came_at = 0.0

    def is_new(self, number: int) -> bool:
        """Whether this signal asks for more than those before it.

        A closed terminal sends SIGHUP as often as it likes: nobody is there to be impatient.
        """
        if self.first is None:
            self.first, self._came_at = number, time.monotonic()
            return True
        return number != signal.SIGHUP and time.monotonic() - self._came_at > SAME_REQUEST_S


def name_of(number: int) -> str:
    """What a person calls a signal."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
