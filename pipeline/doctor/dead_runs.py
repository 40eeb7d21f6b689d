"""Find runs with status RUNNING whose process has exited, here and in MLflow."""

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.doctor.findings import Finding, held, is_held
from pipeline.errors import TrackingError
from pipeline.runs.folders import RunFolder, list_runs
from pipeline.tracking import TrackingOptions, sync, unsynced_runs
from pipeline.tracking.connection import connect, store_of
from pipeline.tracking.options import Store
from pipeline.tracking.spool import Progress, count_unsent

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Seconds without a metric after which a run without a folder is considered dead.
SILENT_S = 3600.0


def dead_runs(runs_dir: Path) -> Iterator[Finding]:
    """Find run folders with status RUNNING that no process is using."""
    for run in list_runs(runs_dir):
        if _is_dead(run):
            yield Finding(
                what=f"{run.path} has the status RUNNING, but no process is using it",
                remedy="set its status to KILLED; RESUME=1 can still resume it",
                fix=partial(_close, run),
            )


def _is_dead(run: RunFolder) -> bool:
    return run.record.status == "RUNNING" and not is_held(run.path / ".lock")


def _close(run: RunFolder) -> str:
    with held(run.path / ".lock") as mine:
        if not mine:
            return f"{run.path} is in use again, so it was left alone"
        run.write(status="KILLED")
        return f"the status of {run.path} is now KILLED{_sent(run.path)}"


def _sent(folder: Path) -> str:
    """Also end a tracked run in MLflow, and describe the result; unsent records stay in the spool."""
    if not (folder / "tracking").is_dir():
        return ""
    try:
        done = sync(folder, environ=os.environ)
    except TrackingError as error:
        return f", but not in MLflow ({error.problem})"
    return f", but not in MLflow ({done.problem}): run `make sync`" if done.problem else ", also in MLflow"


def unsynced(runs_dir: Path) -> Iterator[Finding]:
    """Find ended runs whose records were not completely sent to MLflow."""
    alive = {run.path for run in list_runs(runs_dir) if is_held(run.path / ".lock") or _is_dead(run)}
    waiting = [folder for folder in unsynced_runs(runs_dir) if folder not in alive]
    if waiting:
        n_records = sum(map(_n_unsent, waiting))
        names = ", ".join(folder.name for folder in waiting[:5])
        some = "1 run has" if len(waiting) == 1 else f"{len(waiting)} runs have"
        yield Finding(
            what=f"{some} {n_records:,} records that were not sent to MLflow ({names})",
            remedy="send them with `make sync`",
        )


def _n_unsent(folder: Path) -> int:
    return count_unsent(folder / "tracking", Progress.load(folder / "tracking"))


def open_in_mlflow(options: TrackingOptions, runs_dir: Path) -> Iterator[Finding]:
    """Find runs that MLflow shows as running but no process is using; report if MLflow cannot be queried."""
    if not options.enabled:
        return
    store = store_of(options)
    if store.sqlite_file is not None and not store.sqlite_file.exists():
        return
    try:
        with connect(store) as client:
            experiments = (options.experiment, options.reports)
            found = [run for name in experiments for run in _running(client, name)]
    except TrackingError as error:
        yield Finding(what=f"MLflow: {error.problem}", remedy=error.remedy)
        return
    folders = {_local_id(folder): folder for folder in _tracked_folders(runs_dir)}
    for run in found:
        folder = folders.get(run.data.tags.get("local_id", ""))
        if folder is None:
            yield from _without_folder(store, run)
        elif not (_is_in_use(folder) or _has_dead_run(folder) or _n_unsent(folder)):
            # a dead run is ended with its folder, and unsent records tell MLflow how a run has ended
            yield _finding(store, run, f"{folder} has ended")


def _running(client: "MlflowClient", experiment: str) -> Iterator[Any]:
    known = client.get_experiment_by_name(experiment)
    if known is None:
        return
    token = None
    while True:
        page = client.search_runs([known.experiment_id], "attributes.status = 'RUNNING'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _without_folder(store: Store, run: Any) -> Iterator[Finding]:
    """Report a run without a folder; on a server, it may belong to another machine."""
    last_ms = max([run.info.start_time, *(metric.timestamp for metric in run.data._metric_objs)])
    if store.sqlite_file is None:
        what = f"MLflow shows {run.info.run_name} as running, but there is no such run here"
        yield Finding(what=what, remedy="it may be running on another machine; otherwise, end it in MLflow")
    elif time.time() - last_ms / 1000 > SILENT_S:
        yield _finding(store, run, "its folder no longer exists, and it has not logged anything for an hour")


def _finding(store: Store, run: Any, why: str) -> Finding:
    return Finding(
        what=f"MLflow shows {run.info.run_name} as running, but {why}",
        remedy="set its status to KILLED in MLflow",
        fix=partial(_terminate, store, run.info.run_id, run.info.run_name),
    )


def _terminate(store: Store, run_id: str, name: str) -> str:
    with connect(store) as client:
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "KILLED")
    return f"the status of {name} in MLflow is now KILLED"


def _tracked_folders(runs_dir: Path) -> list[Path]:
    return [file.parent.parent for file in runs_dir.glob("*/tracking/local_id")]


def _local_id(folder: Path) -> str:
    return (folder / "tracking" / "local_id").read_text(encoding="utf-8")


def _is_in_use(folder: Path) -> bool:
    return is_held(folder / ".lock") or is_held(folder / "tracking" / "writer.lock")


def _has_dead_run(folder: Path) -> bool:
    return any(_is_dead(run) for run in list_runs(folder.parent) if run.path == folder)
