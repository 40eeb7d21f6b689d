"""One step in a process of its own, which says what it does as if it were called alone."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from pipeline.plan.code import ROOT

#: Signals that ask a process to end, and what a step is told then.
_TOLD = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}


class StepProcess:
    """Runs a stage and passes on to it, once each, the signals that come meanwhile.

    It has a session of its own: Ctrl-C at a terminal would otherwise reach it twice, and stop it at once.
    """

    def __init__(self, stage: str, words: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "pipeline", stage, *words, "--json"]
        self._process: subprocess.Popen[bytes] | None = None
        #: The first signal that came.
        self.stopped_by: int | None = None

    def run(self) -> int:
        """Wait for its end; gives its exit code, negative for a signal that killed it."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with self._listening():
            self._process = subprocess.Popen(
                self._command,
                stdout=subprocess.DEVNULL,  # its result is in its run's folder
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
            if self.stopped_by is not None:  # it came before there was anybody to tell
                self._process.send_signal(_TOLD[signal.Signals(self.stopped_by)])
            try:
                return self._process.wait()
            finally:
                self._end()

    def _end(self) -> None:
        """Leave no process behind, whatever happened here."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return
        heard = [number for number in _TOLD if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._pass_on) for number in heard}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(_TOLD[signal.Signals(number)])
