"""Find the runs that evaluated a bundle."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.files import mapping_in
from pipeline.runs.folders import RunFolder, list_runs
from pipeline.tracking.places import found_path
from pipeline.tracking.spool import FILES, lane_file, records_of

#: The stages that evaluate on rows of a corpus, and on tasks of the harness.
STAGE, HARNESS = "evaluate", "evaluate-lm"


def finished_evaluations(runs_dir: Path, stages: Sequence[str] = (STAGE,)) -> list[RunFolder]:
    """Return all finished evaluations, newest first."""
    return [
        run for run in list_runs(runs_dir) if run.record.status == "FINISHED" and any(map(run.is_of, stages))
    ]


def runs_that_measured(folder: Path, evaluations: Sequence[RunFolder]) -> list[RunFolder]:
    """Return the evaluations of this bundle."""
    return [run for run in evaluations if _measured(run, folder)]


def _measured(run: RunFolder, folder: Path) -> bool:
    """Return whether a run evaluated this bundle, by its recorded folder or else its name."""
    for record in records_of(lane_file(run.path / "tracking", FILES), "use_bundle"):
        return found_path(record["folder"], run.path) == folder.absolute()
    named = str(mapping_in(run.path / "config.yaml").get("bundle", ""))
    return named in (folder.parent.parent.name, str(folder), str(folder.parent.parent))
