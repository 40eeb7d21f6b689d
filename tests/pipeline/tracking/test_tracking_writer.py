"""The process beside a run: what it imports, and what is said of it when it outlives the run."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking import RunCard, TrackingOptions, start_run
from pipeline.tracking.spool import POINTS, Spool, lane_file
from pipeline.tracking.writer_process import WriterProcess

#: Does not end when the run does.
BUSY = """#!/bin/sh
exec sleep 6000
"""


@pytest.fixture
def busy_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriterProcess]:
    """A writer that the store is slow for, in the place of the real one."""
    script = tmp_path / "busy"
    script.write_text(BUSY)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    writer = WriterProcess(tmp_path, "session", "sqlite:///none.db", system_metrics=False, environ=os.environ)
    yield writer
    writer.kill()


@pytest.mark.parametrize("n_unsent", [0, 2])
def test_a_writer_that_has_sent_everything_ends_in_silence(
    busy_writer: WriterProcess, n_unsent: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = Spool(lane_file(tmp_path, POINTS))
    for step in range(n_unsent):
        points.append({"kind": "metrics", "step": step, "values": {}})
    taken = tmp_path / "progress.json"
    taken.write_text("{}")
    os.utime(taken, (time.time() + 3600,) * 2)  # the store has taken something since the end
    busy_writer.finish(0.1)
    assert [f"{n_unsent} records are being sent" in line for line in caplog.messages] == (
        [True] if n_unsent else []
    )


@pytest.mark.parametrize(("wait_s", "is_created"), [(0.1, False), (0.1, True), (0.0, False)])
def test_a_writer_that_creates_the_database_is_not_killed(
    busy_writer: WriterProcess,
    wait_s: float,
    is_created: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Spool(lane_file(tmp_path, POINTS)).append({"kind": "metrics", "step": 0, "values": {}})
    if is_created:
        (tmp_path / "none.db").touch()
    busy_writer.finish(wait_s)
    (line,) = caplog.messages
    is_killed = is_created or wait_s == 0
    assert line.startswith("tracking: MLflow is creating its database; 1 records") != is_killed
    assert line.startswith("tracking: 1 records were not sent to MLflow: no response in time") == is_killed


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["train/loss", "test/accuracy"])
def test_the_writer_imports_matplotlib_for_runs_with_curves_alone(tmp_path: Path, metric: str) -> None:
    run = start_run(
        RunCard(stage="compare", name="x", config={"lr": 0.1}),
        options=TrackingOptions(end_wait_s=60.0, system_metrics=False),
        run_folder=tmp_path / "run",
        project_folder=tmp_path,
        environ={"PATH": os.environ["PATH"], "PYTHONPROFILEIMPORTTIME": "1"},
    )
    run.log_metrics({metric: 0.5}, 1)
    run.end("FINISHED")
    imported = (tmp_path / "run" / "tracking" / "writer.log").read_text()
    assert "mlflow" in imported
    assert ("matplotlib" in imported) == (metric == "train/loss")
