"""The tag of a pipeline's steps: of the runs that it made, and of those that it kept."""

import os
from collections.abc import Iterable

from pipeline import report
from pipeline.config.plain import Config
from pipeline.runs.record import RunFolder
from pipeline.tracking import tag_run

PIPELINE_ID = "pipeline_id"


def pipeline_tag(config: Config) -> dict[str, str]:
    """The tag of a run that is a step of a pipeline; none for a run of its own."""
    pipeline_id = config.get(PIPELINE_ID)
    return {} if pipeline_id is None else {PIPELINE_ID: str(pipeline_id)}


def tag_steps(runs: Iterable[RunFolder], pipeline_id: str) -> None:
    """Record that these finished runs are steps of a pipeline; a run is one of the newest that keeps it."""
    for run in runs:
        if run.record.pipeline_id == pipeline_id:
            continue
        run.write(pipeline_id=pipeline_id)
        if problem := tag_run(run.path, {PIPELINE_ID: pipeline_id}, environ=os.environ):
            report.say(
                "Note", f"`make sync` tags {run.name} as a step of the pipeline in MLflow later: {problem}"
            )
