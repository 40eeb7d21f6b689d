"""Send records that could not be sent during a run (`make sync`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import TrackingError
from pipeline.tracking.options import Store, resolve_store
from pipeline.tracking.places import found_path, found_uri
from pipeline.tracking.problems import Problem, explain
from pipeline.tracking.replay import Replay
from pipeline.tracking.spool import POINTS, Progress, Spool, count_unsent, lane_file, read_records, records_of
from pipeline.tracking.store import quieten_mlflow

#: How long a writer may live after its run: it sends for a minute, and may first wait for another writer.
_LONGEST_WRITER_S = 150.0


class RunStillSent(TrackingError):  # noqa: N818 - a run in progress is not an error
    """The run's own writer is still sending its records."""


@dataclass(frozen=True)
class SyncReport:
    """The result of a synchronization: records sent and left, and why some were left or rejected."""

    run_folder: Path
    run_id: str | None
    n_sent: int
    n_left: int
    problem: str | None
    refused: list[str]
    remedy: str = ""

    @property
    def line(self) -> str:
        """The report in one line."""
        left = f", {self.n_left} left ({self.problem})" if self.n_left else ""
        refused = f", {len(self.refused)} rejected" if self.refused else ""
        return f"{self.run_folder.name}: {self.n_sent} records sent{left}{refused}"


def unsynced_runs(runs_folder: Path) -> list[Path]:
    """Return the run folders under `runs_folder` with records that the store has not acknowledged."""
    folders = sorted({file.parent.parent for file in runs_folder.glob(f"**/tracking/{POINTS}.jsonl")})
    return [folder for folder in folders if _unsent(folder / "tracking")]


def _unsent(folder: Path) -> bool:
    return bool(count_unsent(folder, Progress.load(folder))) or _open_session(folder) is not None


def sync(
    run_folder: Path, *, uri: str | None = None, environ: Mapping[str, str], waits: bool = False
) -> SyncReport:
    """Send what is left of a run's spool, with its steps and times; a run without an end becomes KILLED.

    Args:
        run_folder: The folder of the run.
        uri: The store to send to; None: the store of the run.
        environ: `MLFLOW_TRACKING_URI` provides the credentials of that store, which are never recorded.
        waits: Whether to wait for the run's own writer, which may need a minute after the end of the run.

    Raises:
        TrackingError: if the folder contains no tracked run, or the URI of its store is invalid.
        RunStillSent: if the run is still in progress.
    """
    folder = (run_folder / "tracking").absolute()
    store = _store(folder, uri, environ)
    try:
        limit_s = _LONGEST_WRITER_S if waits and _open_session(folder) is None else 0.5
        with FileLock(folder / "writer.lock", timeout=limit_s):
            return _send(run_folder, folder, store)
    except Timeout:
        raise RunStillSent(
            f"the run in {run_folder} is still being sent by its own writer",
            "a run that has ended",
            "wait until it ends, then run `make sync` again",
        ) from None


def _send(run_folder: Path, folder: Path, store: Store) -> SyncReport:
    quieten_mlflow()
    _end_dead_session(folder)
    replay = Replay(folder, store)
    before = count_unsent(folder, replay.progress)
    problem: Problem | None = None
    try:
        replay.drain()
    except Exception as error:  # reported; the spool stays
        problem = explain(error, store)
    left = count_unsent(folder, replay.progress)
    progress = replay.progress
    return SyncReport(
        run_folder,
        progress.run_id,
        before - left,
        left,
        problem.text if problem else None,
        progress.refused,
        remedy=problem.remedy if problem else "",
    )


def tag_run(run_folder: Path, tags: Mapping[str, str], *, environ: Mapping[str, str]) -> str | None:
    """Set tags of a tracked run that has ended.

    If the store does not accept them now, they stay in the run's spool for `make sync`.

    Returns:
        The reason why the store does not accept them, or None on success or if the run was not tracked.
    """
    file = lane_file(run_folder / "tracking", POINTS)
    if not file.exists():
        return None
    points = Spool(file)
    points.append({"kind": "tags", "tags": dict(tags)})
    points.close()
    try:
        return sync(run_folder, environ=environ).problem
    except TrackingError as error:
        return error.problem


def _store(folder: Path, uri: str | None, environ: Mapping[str, str]) -> Store:
    for record in records_of(lane_file(folder, POINTS), "start"):
        if uri is not None:
            return resolve_store(uri, project_folder=Path.cwd(), environ=environ)
        root = record["artifact_root"]
        known = found_uri(record["uri"], folder.parent)
        recorded = Store(known, found_path(root, folder.parent) if root else None)
        if named := environ.get("MLFLOW_TRACKING_URI"):
            with_credentials = resolve_store(named, project_folder=Path.cwd(), environ=environ)
            if with_credentials.public_uri == recorded.uri:
                return Store(with_credentials.uri, recorded.artifact_root)
        return recorded
    raise TrackingError(
        f"{folder.parent} is not the folder of a tracked run",
        "a run's folder that contains tracking/",
        "name another folder",
    )


def _open_session(folder: Path) -> str | None:
    """Return the session that was started but not ended, or None."""
    session = None
    for record, _ in read_records(lane_file(folder, POINTS), 0):
        if record is not None and record["kind"] == "start":
            session = record["session"]
        elif record is not None and record["kind"] == "end" and record["session"] == session:
            session = None
    return session


def _end_dead_session(folder: Path) -> None:
    """End a session without an end at the time of its last record; the lock is free, so its process died."""
    session = _open_session(folder)
    if session is None:
        return
    file = lane_file(folder, POINTS)
    died_ms = int(file.stat().st_mtime * 1000)
    points = Spool(file)
    points.append({"kind": "end", "time_ms": died_ms, "session": session, "status": "KILLED"})
    points.close()
