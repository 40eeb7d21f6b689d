"""Read the validations and the outcome of a trial from its run folder."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.files import mapping_in
from pipeline.runs.bundle import is_finished
from pipeline.signals import SIGNALS
from pipeline.tracking.spool import POINTS, lane_file, read_records


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a trial.

    Args:
        state: done, failed, or stopped by a signal.
        metrics: the metrics of its best bundle, if it is done.
        reason: why it is not done, on one line.
    """

    state: Literal["done", "failed", "stopped"]
    metrics: dict[str, float]
    reason: str | None = None


class Validations:
    """The validations of a run, read incrementally from its spool; an untracked run has none."""

    def __init__(self, folder: Path) -> None:
        self._file = lane_file(folder / "tracking", POINTS)
        self._offset = 0

    def new(self) -> list[tuple[int, dict[str, float]]]:
        """Return the step and the metrics of each validation since the last call."""
        found = []
        for record, offset in read_records(self._file, self._offset):
            self._offset = offset
            if record is not None and record["kind"] == "metrics":
                values = {name: value for name, value in record["values"].items() if name.startswith("val/")}
                if values:
                    found.append((int(record["step"]), values))
        return found


def can_resume(folder: Path) -> bool:
    """Return whether the run has a checkpoint to resume from."""
    return (folder / "checkpoints" / "last.ckpt").exists()


def outcome(folder: Path, log: Path, exit_code: int | None) -> Outcome:
    """Return how the run in `folder` ended; `exit_code` is None if no one waited for its process."""
    best = folder / "bundles" / "best"
    status = mapping_in(folder / "run.json").get("status")  # None: the run was not created
    if status == "FINISHED" and is_finished(best):
        metrics = json.loads((best / "metrics.json").read_text(encoding="utf-8"))
        return Outcome(state="done", metrics=metrics)
    if status == "KILLED" or exit_code in [128 + number for number in SIGNALS]:
        return Outcome(state="stopped", metrics={}, reason="stopped by an external signal")
    return Outcome(state="failed", metrics={}, reason=_reason(log, exit_code))


def _reason(log: Path, exit_code: int | None) -> str:
    """Return the error line that the process printed, or else how the process ended."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if told:
        return told[-1]
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = " (the system may have run out of memory)" if -exit_code == signal.SIGKILL else ""
        return f"killed by {name}{memory}"
    return lines[-1] if lines else "exited without output"
