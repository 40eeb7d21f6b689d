"""The spool: records of a run for MLflow, as JSON Lines in the run's folder.

Training only appends to it. A separate process (`writer`) reads the lines and sends them, so that problems of
the store cannot affect training. There are three files, called lanes, so that a slow upload does not delay
metrics.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datamodules.files import write_whole
from pipeline.tracking.places import found_path, found_uri, kept_path, kept_uri

POINTS = "points"  # start, metrics, parameters, tags, end
FILES = "files"  # artifacts, data sets, models
SYSTEM = "system"  # system metrics, appended by the writer itself
LANES = (POINTS, FILES, SYSTEM)

#: The most bytes kept in memory while the disk cannot be written; beyond that they are dropped, and counted.
_MAX_UNWRITTEN_BYTES = 8_000_000


def now_ms() -> int:
    """Return the time in milliseconds since 1970, as MLflow uses it."""
    return time.time_ns() // 1_000_000


class Spool:
    """One lane, opened for appending. A full disk delays records, but never raises or stops training."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        self._lock = threading.Lock()
        self._unwritten = b""
        self.lost_bytes = 0
        # An incomplete line left by a killed process must not merge with the next one.
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self._unwritten = b"\n"

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record, with one system call and without waiting for the disk."""
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        line = text.encode(errors="replace") + b"\n"  # paths may contain bytes that are not valid text
        with self._lock:
            self._unwritten += line
            self._write()

    def _write(self) -> None:
        try:
            written = os.write(self._file, self._unwritten)
        except OSError:
            written = 0
        self._unwritten = self._unwritten[written:]
        if len(self._unwritten) > _MAX_UNWRITTEN_BYTES:
            self.lost_bytes += len(self._unwritten)
            self._unwritten = b"\n"

    def close(self) -> None:
        """Write what is left, and force it to the disk."""
        with self._lock:
            if self._unwritten:
                self._write()
            try:
                os.fsync(self._file)
            except OSError:
                self.lost_bytes += len(self._unwritten)
            os.close(self._file)
            self._file = -1  # a later call must not write to another file with this descriptor


def read_records(path: Path, offset: int) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Yield the records from an offset on, each with the offset after it; None for a damaged line.

    An incomplete last line is left for the next call.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            if line.strip():
                yield _parse(line), offset


def records_of(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the records of one kind in a lane, in order; damaged lines are skipped."""
    for record, _ in read_records(path, 0):
        if record is not None and record["kind"] == kind:
            yield record


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


@dataclass
class Progress:
    """What the store has acknowledged of a run's spool, and the ids of the run in the store."""

    run_id: str | None = None
    experiment_id: str | None = None
    uri: str | None = None
    offsets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    models: dict[str, str] = field(default_factory=dict)  # bundle folder -> model id
    refused: list[str] = field(default_factory=list)
    problem: str | None = None  # why the store accepts no more, and what to do about it
    remedy: str = ""

    @classmethod
    def load(cls, folder: Path) -> "Progress":
        """Load the progress from a tracking folder, or return a new one if there is none."""
        try:
            progress = cls(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        run_folder = folder.parent
        progress.uri = progress.uri and found_uri(progress.uri, run_folder)
        progress.models = {str(found_path(path, run_folder)): one for path, one in progress.models.items()}
        return progress

    def save(self, folder: Path) -> None:
        """Save the progress atomically."""
        kept, run_folder = asdict(self), folder.parent
        kept["uri"] = self.uri and kept_uri(self.uri, run_folder)
        kept["models"] = {kept_path(Path(path), run_folder): one for path, one in self.models.items()}
        write_whole(folder / "progress.json", json.dumps(kept, ensure_ascii=False), durable=False)


def lane_file(folder: Path, lane: str) -> Path:
    """Return the file of one lane in a tracking folder."""
    return folder / f"{lane}.jsonl"


def logged_points(folder: Path) -> set[tuple[str, int]]:
    """Return (metric, step) for every point that a run has logged so far.

    A run that is resumed from a checkpoint repeats steps that were logged before it was killed. Resuming is
    exact, so these points are already right, and logging them again would only duplicate them in MLflow.
    """
    return {
        (key, record["step"])
        for record in records_of(lane_file(folder, POINTS), "metrics")
        for key in record["values"]
    }


def count_unsent(folder: Path, progress: Progress) -> int:
    """Count the records that the store has not acknowledged yet."""
    return sum(
        1 for lane in LANES for _ in read_records(lane_file(folder, lane), progress.offsets.get(lane, 0))
    )
