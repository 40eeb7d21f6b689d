"""The runs that measured a bundle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.compare.facts import read_measurement
from pipeline.files import read_yaml
from pipeline.lineage.nodes import Node, State
from pipeline.runs.folders import RunFolder, list_runs
from pipeline.tasks.finetuning import Score
from pipeline.tracking.places import found_path
from pipeline.tracking.spool import FILES, lane_file, read_records

STAGE = "evaluate"

#: Evaluations of a bundle that stand in its lineage.
SHOWN = 6


def finished_evaluations(runs_dir: Path) -> list[RunFolder]:
    """All evaluations that were finished, newest first."""
    return [run for run in list_runs(runs_dir) if run.is_of(STAGE) and run.record.status == "FINISHED"]


def evaluations_of(folder: Path, evaluations: Sequence[RunFolder]) -> list[Node]:
    """The newest evaluations of this bundle, each with its metric; of more than a few, how many more."""
    found = runs_that_measured(folder, evaluations)
    nodes = [
        Node(kind="evaluation", title=run.name, facts=_facts(run), state=State.OK) for run in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        nodes.append(Node(kind="evaluation", title=f"and {len(found) - SHOWN:,} older ones"))
    return nodes


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


def _facts(run: RunFolder) -> dict[str, str]:
    on = {"on": str((run.record.choices or {}).get("data"))}
    measurement = read_measurement(run.path)
    if measurement is None:
        return on
    chosen = [measurement.metric] if measurement.metric else list(measurement.metrics)
    return on | {name: _in_words(measurement.metrics[name]) for name in chosen}


def _in_words(score: Score) -> str:
    interval = "" if score.low is None else f" ({score.low:.4f} to {score.high:.4f})"
    return f"{score.value:.4f}{interval}"


def _config(run: RunFolder) -> Mapping[str, Any]:
    try:
        found = read_yaml(run.path / "config.yaml")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
