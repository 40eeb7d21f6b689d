"""Control the writer from the training process: start it, end it in time, report unsent records."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from datamodules.files import open_to_append
from pipeline.tracking.options import Store
from pipeline.tracking.spool import Progress, count_unsent

logger = logging.getLogger(__name__)

#: Writers that go on after their run: Python warns of a running process that nothing refers to.
_GOING_ON: list[subprocess.Popen[bytes]] = []


class WriterProcess:
    """The process that sends a run's spool; it outlives a killed training process to record the end."""

    def __init__(
        self, folder: Path, session: str, store_uri: str, *, system_metrics: bool, environ: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._database = Store(store_uri, None).sqlite_file
        root = str(Path(__file__).parent.parent.parent)
        environment = {
            **environ,
            "PRELUDE_TRACKING_STORE": store_uri,
            "PYTHONPATH": os.pathsep.join(filter(None, [root, environ.get("PYTHONPATH")])),
        }
        command = [sys.executable, "-m", "pipeline.tracking.writer", str(folder), session]
        command += ["--parent", str(os.getpid())]
        command += ["--system-metrics"] if system_metrics else []
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with open_to_append(folder / "writer.log") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # Ctrl-C must not end the writer
                )
        except OSError as error:
            logger.warning("tracking: the writer cannot start (%s); `make sync` sends the run later", error)

    def kill(self) -> None:
        """Kill the writer; unsent records stay in the spool."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def finish(self, wait_s: float) -> None:
        """Tell the writer that the run has ended, wait up to `wait_s` seconds, and report what is unsent.

        A writer that is making progress then goes on in the background, unless `wait_s` is 0.
        """
        if self._process is not None and self._process.stdin is not None:
            closed_at = time.time()
            try:
                self._process.stdin.close()  # wakes the writer
                self._process.wait(wait_s)
            except subprocess.TimeoutExpired:
                if wait_s > 0 and self._is_progressing(closed_at):
                    _GOING_ON.append(self._process)
                    self._warn_slow()
                    return
                self.kill()
            except KeyboardInterrupt:
                self._process.kill()
                raise
        self._warn_unsent()

    def _is_progressing(self, since: float) -> bool:
        """Return whether the store has accepted something since then, so that it is slow but reachable.

        A local database that is still being created is progress too: the next run would have to start over.
        """
        if Progress.load(self._folder).problem is not None:
            return False
        if self._is_creating:
            return True
        try:
            return (self._folder / "progress.json").stat().st_mtime > since
        except FileNotFoundError:
            return False

    @property
    def _is_creating(self) -> bool:
        return self._database is not None and not self._database.exists()

    def _warn_slow(self) -> None:
        if unsent := count_unsent(self._folder, Progress.load(self._folder)):
            logger.warning(
                "tracking: %s; %d records are being sent in the background, for up to a minute; "
                "send the rest later with `make sync`",
                "MLflow is creating its database" if self._is_creating else "MLflow is slow",
                unsent,
            )

    def _warn_unsent(self) -> None:
        progress = Progress.load(self._folder)
        if unsent := count_unsent(self._folder, progress):
            logger.warning(
                "tracking: %d records were not sent to MLflow: %s; they are kept in %s; %s`make sync`",
                unsent,
                progress.problem or f"no response in time, see {self._folder / 'writer.log'}",
                self._folder,
                f"{progress.remedy}, then " if progress.remedy else "run ",
            )
        if progress.refused:
            logger.warning(
                "tracking: MLflow rejected %d records, the first because of: %s (all of them in %s)",
                len(progress.refused),
                progress.refused[0],
                self._folder / "progress.json",
            )
