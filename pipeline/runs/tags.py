"""Tag the runs that are steps of a pipeline, including finished runs that it reuses."""

import os
from collections.abc import Iterable

from pipeline import report
from pipeline.config.plain import Config
from pipeline.runs.record import RunFolder
from pipeline.tracking import tag_run

PIPELINE_ID = "pipeline_id"


def pipeline_tag(config: Config) -> dict[str, str]:
    """Return the tag of a run that is a step of a pipeline; empty for other runs."""
    pipeline_id = config.get(PIPELINE_ID)
    return {} if pipeline_id is None else {PIPELINE_ID: str(pipeline_id)}


def tag_steps(runs: Iterable[RunFolder], pipeline_id: str) -> None:
    """Tag finished runs as steps of a pipeline; the newest pipeline that reuses a run replaces the tag."""
    for run in runs:
        if run.record.pipeline_id == pipeline_id:
            continue
        run.write(pipeline_id=pipeline_id)
        if problem := tag_run(run.path, {PIPELINE_ID: pipeline_id}, environ=os.environ):
            report.say(
                "Note",
                f"run `make sync` later to tag {run.name} as a step of the pipeline in MLflow: {problem}",
            )
