"""The runs that measured a bundle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import read_yaml
from pipeline.runs.folders import RunFolder, list_runs
from pipeline.tracking.places import found_path
from pipeline.tracking.spool import FILES, lane_file, read_records

#: Evaluations on rows of a corpus, and those on tasks of the harness.
STAGE, HARNESS = "evaluate", "evaluate-lm"


def finished_evaluations(runs_dir: Path, stages: Sequence[str] = (STAGE,)) -> list[RunFolder]:
    """All evaluations that were finished, newest first."""
    return [
        run for run in list_runs(runs_dir) if run.record.status == "FINISHED" and any(map(run.is_of, stages))
    ]


def runs_that_measured(folder: Path, evaluations: Sequence[RunFolder]) -> list[RunFolder]:
    """Those of the evaluations that measured this bundle."""
    return [run for run in evaluations if _measured(run, folder)]


def _measured(run: RunFolder, folder: Path) -> bool:
    """By the folder of the bundle that was read, where it is recorded; else by its name."""
    for record, _ in read_records(lane_file(run.path / "tracking", FILES), 0):
        if record is not None and record["kind"] == "use_bundle":
            return found_path(record["folder"], run.path) == folder.absolute()
    named = str(_config(run).get("bundle", ""))
    return named in (folder.parent.parent.name, str(folder), str(folder.parent.parent))


def _config(run: RunFolder) -> Mapping[str, Any]:
    try:
        found = read_yaml(run.path / "config.yaml")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
