"""The process that sends the spool of a run to MLflow.

It is a process, not a thread: importing MLflow (2 s) and communicating with a store would hold Python's
global interpreter lock during training, and when training is killed, that must still be recorded.
"""

import argparse
import importlib
import os
import select
import signal
import sys
import time
from pathlib import Path

from filelock import FileLock

from pipeline.signals import SIGNALS
from pipeline.tracking.figures import TRAINED
from pipeline.tracking.options import Store
from pipeline.tracking.places import found_path, found_uri
from pipeline.tracking.problems import Problem, explain, first_line
from pipeline.tracking.replay import Replay
from pipeline.tracking.spool import (
    POINTS,
    SYSTEM,
    Spool,
    count_unsent,
    lane_file,
    now_ms,
    read_records,
    records_of,
)
from pipeline.tracking.system import SystemSampler

_SEND_EVERY_S = 3.0  # few, large requests take less time from training
_SAMPLE_EVERY_S = 10.0
_FIRST_SAMPLE_S = 3.0
_LONGEST_PAUSE_S = 30.0
#: How long the writer tries to send the rest after the run has ended or was killed.
_ORPHAN_S = 60.0


class Writer:
    """Sends records, samples system metrics, and notices the death of the training process."""

    def __init__(
        self, folder: Path, session: str, store: Store, *, parent: int, system_metrics: bool
    ) -> None:
        self._folder, self._session = folder, session
        self._store, self._replay = store, Replay(folder, store)
        self._lasting_problem = False
        self._parent = parent
        self._sampler = SystemSampler(self._parent) if system_metrics else None
        self._system = Spool(lane_file(folder, SYSTEM))
        self._next_sample = time.monotonic() + _FIRST_SAMPLE_S
        self._sampled = False
        self._pause_s = 0.0
        self._next_try = 0.0
        self._scanned, self._last_step, self._last_session = 0, 0, session
        self._ended = self._has_curves = False

    def run(self) -> None:
        """Run until everything has been sent, or the time limit after the end of the run has passed."""
        give_up = float("inf")
        while True:
            self._scan()
            if not self._ended and os.getppid() != self._parent:
                self._end_dead_run()
            if self._ended:
                give_up = min(give_up, time.monotonic() + _ORPHAN_S)
            self._send(give_up)
            self._scan()
            self._sample()
            if self._ended and not count_unsent(self._folder, self._replay.progress):
                return
            if time.monotonic() > give_up or (self._ended and self._lasting_problem):
                return
            self._wait()

    def _scan(self) -> None:
        """Read new points: update the latest step and session, and whether this session has ended."""
        for record, offset in read_records(lane_file(self._folder, POINTS), self._scanned):
            self._scanned = offset
            if record is None:
                continue
            if record["kind"] == "metrics":
                self._last_step = max(self._last_step, record["step"])
                self._has_curves = self._has_curves or TRAINED in record["values"]
            elif record["kind"] == "start":
                self._last_session = record["session"]
            elif record["kind"] == "end" and record["session"] == self._session:
                self._ended = True

    def _end_dead_run(self) -> None:
        """End the run of a training process that died, unless it was resumed and has another writer."""
        if self._last_session == self._session:
            end = {"kind": "end", "time_ms": now_ms(), "session": self._session, "status": "KILLED"}
            points = Spool(lane_file(self._folder, POINTS))
            points.append(end)
            points.close()
        self._ended = True

    def _sample(self) -> None:
        """Sample system metrics when due, and at the end of a run too short to have a sample."""
        due = not self._sampled if self._ended else time.monotonic() >= self._next_sample
        if self._sampler is None or not due:
            return
        self._sampled = True
        self._next_sample = time.monotonic() + _SAMPLE_EVERY_S
        values = self._sampler.sample()
        self._system.append(
            {"kind": "metrics", "time_ms": now_ms(), "step": self._last_step, "values": values}
        )

    def _send(self, give_up: float) -> None:
        if time.monotonic() < self._next_try:
            return
        try:
            self._replay.drain(deadline=min(give_up, time.monotonic() + _SAMPLE_EVERY_S))
            self._pause_s, self._lasting_problem = 0.0, False
            if self._has_curves:  # imported during training, so that the end of the run need not wait for it
                importlib.import_module("matplotlib.figure")
        except Exception as error:  # log it, keep the spool, and try again
            print(f"{time.strftime('%F %T')} {type(error).__name__}: {first_line(error)}", file=sys.stderr)
            self._note(explain(error, self._store))
            longest = 1.0 if self._ended else _LONGEST_PAUSE_S  # the user waits for the end
            self._pause_s = min(max(1.0, 2 * self._pause_s), longest)
            self._next_try = time.monotonic() + self._pause_s

    def _note(self, problem: Problem) -> None:
        """Save a problem for the report at the end of the run."""
        progress = self._replay.progress
        progress.problem, progress.remedy = problem.text, problem.remedy
        self._lasting_problem = problem.lasting
        try:
            progress.save(self._folder)
        except OSError as error:  # a full disk: the spool is kept, and sending is tried again
            print(f"{time.strftime('%F %T')} {first_line(error)}", file=sys.stderr)

    def _wait(self) -> None:
        if self._ended or sys.stdin.closed:
            time.sleep(0.2)
            return
        readable, _, _ = select.select([sys.stdin], [], [], _SEND_EVERY_S)
        if readable:  # the pipe was closed: the run or its process ended
            sys.stdin.close()
            self._next_try = 0.0


def main() -> None:
    """Run the writer; the environment contains the URI of the store, which may include credentials."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("session")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--system-metrics", action="store_true")
    arguments = parser.parse_args()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # its life is the training's, and a minute more
    os.nice(10)
    store = recorded_store(arguments.folder, os.environ["PRELUDE_TRACKING_STORE"])
    # If a killed run is resumed at once, its first writer may still be running.
    with FileLock(arguments.folder / "writer.lock", timeout=2 * _ORPHAN_S):
        writer = Writer(
            arguments.folder,
            arguments.session,
            store,
            parent=arguments.parent,
            system_metrics=arguments.system_metrics,
        )
        writer.run()


def recorded_store(folder: Path, uri: str | None) -> Store:
    """Return the store in the first record of a tracking folder, with `uri`, if given, as its URI."""
    for record in records_of(lane_file(folder, POINTS), "start"):
        root = record["artifact_root"]
        known = found_uri(record["uri"], folder.parent)
        return Store(uri or known, found_path(root, folder.parent) if root else None)
    raise LookupError(f"{lane_file(folder, POINTS)} does not begin with the start of a run")


if __name__ == "__main__":
    main()
