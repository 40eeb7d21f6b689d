"""The stages `ui`, which serves MLflow's pages, and `sync`, which sends missed records to its store."""

import os
from pathlib import Path

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import TrackingError
from pipeline.tracking import RunStillSent, TrackingOptions, sync, unsynced_runs
from pipeline.tracking.ui import serve_ui


def serve(config: Config) -> StageResult:
    """Serve MLflow's pages on this machine until Ctrl-C."""
    options = construct(config.tracking, TrackingOptions)
    serve_ui(
        options,
        project_folder=Path.cwd(),
        port=config.port,
        environ=os.environ,
        say=lambda text: report.say("MLflow", text, wrap=False),
    )
    return StageResult(stage="ui")


def send_missed(config: Config) -> StageResult:
    """Send the records of all runs that the store has not received.

    Raises:
        TrackingError: if the store did not accept all of them.
    """
    options = construct(config.tracking, TrackingOptions)
    folders = unsynced_runs(Path(config.runs_dir))
    reports = []
    for folder in folders:
        try:
            reports.append(sync(folder, uri=options.uri, environ=os.environ))
        except RunStillSent as error:  # the other runs need not wait for it
            report.say("Sync", f"{folder.name}: {error.problem}")
            continue
        report.say("Sync", reports[-1].line)
    if not folders:
        report.say("Sync", "nothing to send: MLflow has everything")
    if left := [done for done in reports if done.n_left]:
        remedy = left[0].remedy or "start the store"
        raise TrackingError(
            f"{sum(done.n_left for done in left)} records could not be sent",
            "a store that accepts them",
            f"{remedy}, then run `make sync` again",
        )
    return StageResult(stage="sync", metrics={"sent": float(sum(done.n_sent for done in reports))})
