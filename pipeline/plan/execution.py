"""Run one step in a process of its own, with the same output as if it were run alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from pipeline.runs.code import ROOT
from pipeline.signals import Requests, listening


class StepProcess:
    """Run a stage, and forward signals to it.

    The process has its own session: Ctrl-C at a terminal would otherwise reach it twice, and kill it at once.
    """

    def __init__(self, stage: str, words: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "pipeline", stage, *words, "--json"]
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = Requests()

    @property
    def stopped_by(self) -> int | None:
        """The first signal that was received."""
        return self._requests.first

    def run(self) -> int:
        """Run to completion, and return the exit code, which is negative if a signal killed the process."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with listening(self._forward):
            self._process = subprocess.Popen(
                self._command,
                stdout=subprocess.DEVNULL,  # its result is in its run's folder
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
            if self.stopped_by is not None:  # it arrived before the process was started
                self._process.send_signal(_forwarded(self.stopped_by))
            try:
                return self._process.wait()
            finally:
                self._end()

    def _end(self) -> None:
        """Terminate the process if it is still running."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if self._requests.is_new(number) and self._process is not None and self._process.poll() is None:
            self._process.send_signal(_forwarded(number))


def _forwarded(number: int) -> int:
    """Return the signal to forward: SIGHUP becomes SIGTERM, since a step has no terminal."""
    return signal.SIGTERM if number == signal.SIGHUP else number
