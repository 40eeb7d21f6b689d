"""Runs that MLflow shows as running and that nobody runs are closed; a store that is ill is said to be."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipeline import doctor
from pipeline.__main__ import main
from pipeline.doctor import Finding
from pipeline.tracking import TrackingOptions
from pipeline.tracking.options import Store
from pipeline.tracking.store import experiment_id
from tests.pipeline.made_bundles import make_run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

HOUR_MS = 3_600_000


@pytest.fixture
def project(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def running(client: Any, store: Store, *, hours_ago: float, local_id: str = "x") -> str:
    """A run that MLflow shows as running."""
    begun = int(time.time() * 1000 - hours_ago * HOUR_MS)
    experiment = experiment_id(client, "prelude", store.artifact_root)
    run = client.create_run(experiment, start_time=begun, tags={"local_id": local_id}, run_name="lost")
    return str(run.info.run_id)


def found(project: Path) -> list[Finding]:
    return list(doctor.open_in_mlflow(TrackingOptions(), project / "runs"))


def fix(findings: list[Finding]) -> None:
    for finding in findings:
        assert finding.fix is not None
        finding.fix()


def test_a_run_whose_folder_is_gone_is_closed_when_it_has_been_silent_for_an_hour(
    project: Path, client: Any, store: Store
) -> None:
    recent, silent = (running(client, store, hours_ago=hours) for hours in (0.5, 2))
    heard_of = running(client, store, hours_ago=2)
    client.log_metric(heard_of, "system/cpu", 1.0, timestamp=int(time.time() * 1000))
    fix(found(project))
    states = [client.get_run(run).info.status for run in (recent, silent, heard_of)]
    assert states == ["RUNNING", "KILLED", "RUNNING"]
    assert not found(project)


def test_a_run_whose_folder_has_ended_is_closed_and_one_that_is_held_is_not(
    project: Path, client: Any, store: Store
) -> None:
    run_id = running(client, store, hours_ago=0, local_id="mine")
    folder = make_run(project / "runs/a")
    (folder / "tracking").mkdir()
    (folder / "tracking/local_id").write_text("mine")
    with FileLock(folder / ".lock"):
        assert not found(project)
    fix(found(project))
    assert client.get_run(run_id).info.status == "KILLED"


@pytest.mark.slow
def test_a_dead_run_is_closed_as_killed_here_and_in_mlflow(
    project: Path, client: Any, begin: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(project / "runs/dead", status="RUNNING")
    run = begin(folder="runs/dead")
    assert run.wait_until_known(600)
    run._writer.kill()
    assert main(["doctor", "fix=true"]) == 0
    assert "is now KILLED, also in MLflow" in capsys.readouterr().err
    assert '"KILLED"' in (folder / "run.json").read_text()
    assert client.get_run(run.run_id).info.status == "KILLED"


def test_a_spool_that_mlflow_has_not_had_is_counted_with_its_remedy(
    project: Path, begin: Callable[..., Any]
) -> None:
    make_run(project / "runs/a")
    run = begin(folder="runs/a")
    run.log_metrics({"train/loss": 1.0}, 1)
    run.end("FINISHED")
    (finding,) = doctor.unsynced(project / "runs")
    assert finding.what.startswith("1 run has ")
    assert "make sync" in finding.remedy


def test_a_run_whose_end_was_not_sent_yet_is_left_to_sync(
    project: Path, client: Any, store: Store, begin: Callable[..., Any]
) -> None:
    folder = make_run(project / "runs/a")
    begin(folder="runs/a").end("FINISHED")
    running(client, store, hours_ago=0, local_id=(folder / "tracking/local_id").read_text())
    assert not found(project)
    assert list(doctor.unsynced(project / "runs"))


@pytest.mark.slow
def test_a_locked_database_is_told_in_a_line_and_the_rest_is_looked_at(
    project: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(project / "runs/dead", status="RUNNING")
    with closing(sqlite3.connect(store.sqlite_file or "", isolation_level=None)) as database:
        database.execute("begin exclusive")
        assert main(["doctor"]) == 0
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "is locked by" in told
    assert "runs/dead has the status RUNNING" in told


def test_without_a_store_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert not found(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    options = TrackingOptions(uri="http://127.0.0.1:9")
    (finding,) = doctor.open_in_mlflow(options, tmp_path)
    assert "127.0.0.1:9 does not respond" in finding.what
