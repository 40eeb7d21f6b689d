"""The evaluations of a bundle, as nodes of its lineage."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.compare.evaluations import runs_that_measured
from pipeline.compare.facts import read_measurement
from pipeline.lineage.nodes import Node, State
from pipeline.runs.folders import RunFolder
from pipeline.tasks.finetuning import Score

#: The most evaluations of a bundle that its lineage shows.
SHOWN = 6


def evaluations_of(folder: Path, evaluations: Sequence[RunFolder]) -> list[Node]:
    """Return nodes for the newest evaluations of a bundle, with their metrics, and one for the older ones."""
    found = runs_that_measured(folder, evaluations)
    nodes = [
        Node(kind="evaluation", title=run.name, facts=_facts(run), state=State.OK) for run in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        nodes.append(Node(kind="evaluation", title=f"and {len(found) - SHOWN:,} older ones"))
    return nodes


def _facts(run: RunFolder) -> dict[str, str]:
    measurement = read_measurement(run.path)
    if measurement is None:
        return {"on": str((run.record.choices or {}).get("data"))}
    on = {"on": measurement.corpus}
    chosen = [measurement.metric] if measurement.metric else list(measurement.metrics)
    return on | {name: _in_words(measurement.metrics[name]) for name in chosen}


def _in_words(score: Score) -> str:
    interval = "" if score.low is None else f" ({score.low:.4f} to {score.high:.4f})"
    return f"{score.value:.4f}{interval}"
