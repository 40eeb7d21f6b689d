"""Real trainings as a user starts them, and whether a store has all that their spools hold."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.tracking import RunStillSent, sync
from pipeline.tracking.spool import POINTS, SYSTEM, Progress, lane_file, read_records
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
PRETRAIN = ("pretrain", "debug=quick", "data.n_train_rows=300", "data.n_validation_rows=40")
FINETUNE = ("finetune", "task=classify", "debug=quick", "data.n_train_rows=200", "data.n_validation_rows=40")

#: (step, time in ms, value) of each point of a metric, in order.
Curve = list[tuple[int, int, float]]


def environ(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *words]


def run(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one stage to its end, in `folder`."""
    return subprocess.run(
        command(*words), cwd=folder, env=environ(**settings), capture_output=True, text=True, check=False
    )


def spooled(run_folder: Path) -> dict[str, Curve]:
    """Every curve that a run's spool holds."""
    found: dict[str, Curve] = {}
    for lane in (POINTS, SYSTEM):
        for record, _ in read_records(lane_file(run_folder / "tracking", lane), 0):
            if record is not None and record["kind"] == "metrics":
                for key, value in record["values"].items():
                    found.setdefault(key, []).append((record["step"], record["time_ms"], value))
    return {key: sorted(curve) for key, curve in found.items()}


def stored(client: Any, run_id: str) -> dict[str, Curve]:
    """Every curve that the store holds."""
    keys = client.get_run(run_id).data.metrics
    return {
        key: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run_id, key))
        for key in keys
    }


def values(curves: Mapping[str, Curve], *prefixes: str) -> dict[str, dict[int, float]]:
    """Step -> value of the curves that do not depend on the clock."""
    return {
        key: {step: value for step, _, value in curve}
        for key, curve in curves.items()
        if key.startswith(prefixes) and "per_second" not in key
    }


def wait_until_sent(run_folder: Path, uri: str | None = None) -> None:
    """Until the run's own writer has ended and nothing is left to send, which is then sent here."""

    def is_sent() -> bool:
        try:
            return not sync(run_folder, uri=uri, environ=os.environ).n_left
        except RunStillSent:
            return False  # it has waited for half a second

    wait_until(is_sent, f"all of {run_folder} has reached MLflow")


def run_id_of(run_folder: Path) -> str:
    run_id = Progress.load(run_folder / "tracking").run_id
    assert run_id is not None
    return run_id


def assert_all_there(client: Any, run_folder: Path, status: str = "FINISHED") -> None:
    """The store has the run once, ended, with every point of the spool once, at its own step and time."""
    run_id = run_id_of(run_folder)
    run = client.get_run(run_id)
    assert run.info.status == status
    same = f"tags.local_id = '{run.data.tags['local_id']}'"
    assert [found.info.run_id for found in client.search_runs([run.info.experiment_id], same)] == [run_id]
    assert stored(client, run_id) == spooled(run_folder)
