"""One step in a process of its own, which says what it does as if it were called alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from pipeline.runs.code import ROOT
from pipeline.signals import Requests, listening


class StepProcess:
    """Runs a stage and passes on to it each request to end that comes meanwhile.

    It has a session of its own: Ctrl-C at a terminal would otherwise reach it twice, and stop it at once.
    """

    def __init__(self, stage: str, words: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "pipeline", stage, *words, "--json"]
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = Requests()

    @property
    def stopped_by(self) -> int | None:
        """The first signal that came."""
        return self._requests.first

    def run(self) -> int:
        """Wait for its end; gives its exit code, negative for a signal that killed it."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with listening(self._pass_on):
            self._process = subprocess.Popen(
                self._command,
                stdout=subprocess.DEVNULL,  # its result is in its run's folder
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
            if self.stopped_by is not None:  # it came before there was anybody to tell
                self._process.send_signal(_told(self.stopped_by))
            try:
                return self._process.wait()
            finally:
                self._end()

    def _end(self) -> None:
        """Leave no process behind, whatever happened here."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self._requests.is_new(number) and self._process is not None and self._process.poll() is None:
            self._process.send_signal(_told(number))


def _told(number: int) -> int:
    """What a step is told: it has no terminal that could be closed."""
    return signal.SIGTERM if number == signal.SIGHUP else number
