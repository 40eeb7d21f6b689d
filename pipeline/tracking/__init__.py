"""MLflow tracking that never disturbs training: runs, spools, replay and links. Fast to import."""

from pipeline.tracking.options import TrackingOptions
from pipeline.tracking.run import DatasetContext, DatasetRecord, EndStatus, Run, RunCard
from pipeline.tracking.spooled_run import start_run
from pipeline.tracking.sync import RunStillSent, SyncReport, sync, tag_run, unsynced_runs

__all__ = [
    "DatasetContext",
    "DatasetRecord",
    "EndStatus",
    "Run",
    "RunCard",
    "RunStillSent",
    "SyncReport",
    "TrackingOptions",
    "start_run",
    "sync",
    "tag_run",
    "unsynced_runs",
]
