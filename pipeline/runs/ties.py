"""Runs that a pipeline keeps become its steps: they get its tag, beside those that it made."""

import os
from collections.abc import Iterable

from pipeline import report
from pipeline.config.plain import Config
from pipeline.errors import TrackingError
from pipeline.runs.record import RunFolder
from pipeline.tracking import sync
from pipeline.tracking.spool import POINTS, Spool, lane_file

PIPELINE_ID = "pipeline_id"


def pipeline_tag(config: Config) -> dict[str, str]:
    """The tag of a run that is a step of a pipeline; none for a run of its own."""
    pipeline_id = config.get(PIPELINE_ID)
    return {} if pipeline_id is None else {PIPELINE_ID: str(pipeline_id)}


def tie(runs: Iterable[RunFolder], pipeline_id: str) -> None:
    """Record that these finished runs are steps of a pipeline; a run is one of the newest that keeps it.

    What the store does not take now stays in the run's spool, for `make sync`.
    """
    for run in runs:
        if run.record.pipeline_id == pipeline_id:
            continue
        run.write(pipeline_id=pipeline_id)
        file = lane_file(run.path / "tracking", POINTS)
        if file.exists():
            points = Spool(file)
            points.append({"kind": "tags", "tags": {PIPELINE_ID: pipeline_id}})
            points.close()
            _send(run)


def _send(run: RunFolder) -> None:
    try:
        sync(run.path, environ=os.environ)
    except TrackingError as error:
        report.say("Note", f"`make sync` ties {run.name} to the pipeline in MLflow later: {error.problem}")
