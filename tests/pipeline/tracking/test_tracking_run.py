"""The calls that a stage makes, and the process beside it."""

import contextlib
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TrackingError
from pipeline.tracking import Run, RunCard, TrackingOptions, start_run, sync
from pipeline.tracking.options import Store
from pipeline.tracking.spool import lane_file, read_records
from pipeline.tracking.spooled_run import SpooledRun
from pipeline.tracking.store import open_client
from tests.waiting import LIMIT_S, wait_until

Begin = Callable[..., Run]
ROOT = Path(__file__).parents[3]
CARD = RunCard(stage="pretrain", name="pretrain tiny", config={"lr": 0.1})

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

TRAINING = """
import os, sys, time
from pathlib import Path
from pipeline.tracking import RunCard, TrackingOptions, start_run
folder, end = Path(sys.argv[1]), sys.argv[2]
run = start_run(RunCard(stage="pretrain", name=folder.name, config={"lr": 0.1}, seed=1),
                options=TrackingOptions(end_wait_s=600.0), run_folder=folder, project_folder=folder.parent)
with run:
    for step in range(1, 51):
        run.log_metrics({"train/loss": 1 / step}, step)
    if end == "wait":
        assert run.wait_until_known(600)
        print("ready", flush=True)
        time.sleep(6000)
"""


def start_training(folder: Path, end: str = "finish") -> subprocess.Popen[bytes]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environ.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", TRAINING, str(folder), end]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def found_runs(project: Path) -> dict[str, Any]:
    client: Any = open_client(Store(f"sqlite:///{project}/mlflow.db", project / "mlartifacts"))
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = {
        run.info.run_name: (run, client.get_metric_history(run.info.run_id, "train/loss"))
        for run in client.search_runs(experiments)
    }
    client._tracking_client.store._dispose_engine()
    return runs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_run_that_is_off_has_every_call_and_leaves_nothing(tmp_path: Path) -> None:
    options = TrackingOptions(enabled=False)
    with start_run(
        CARD, options=options, run_folder=tmp_path / "run", project_folder=tmp_path, environ={}
    ) as run:
        run.log_metrics({"a": 1.0}, 1)
        run.log_text("x", "x.md")
        assert run.run_id is None
    assert list(tmp_path.iterdir()) == []
    for name, call in inspect.getmembers(Run, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(call) == inspect.signature(getattr(SpooledRun, name)), name


def test_only_the_first_rank_tracks(tmp_path: Path) -> None:
    for environ in ({"RANK": "1"}, {"LOCAL_RANK": "3"}, {"SLURM_PROCID": "2"}):
        run = start_run(
            CARD,
            options=TrackingOptions(),
            run_folder=tmp_path / "r",
            project_folder=tmp_path,
            environ=environ,
        )
        assert run.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_a_plain_folder_store_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="plain folder"):
        start_run(
            CARD,
            options=TrackingOptions(uri="mlruns"),
            run_folder=tmp_path / "run",
            project_folder=tmp_path,
            environ={},
        )
    assert list(tmp_path.iterdir()) == []


def test_a_run_cannot_go_on_in_another_store(tmp_path: Path, begin: Begin) -> None:
    begin().end()
    progress = {"run_id": "r", "experiment_id": "1", "uri": "http://elsewhere"}
    (tmp_path / "run" / "tracking" / "progress.json").write_text(json.dumps(progress))
    with pytest.raises(TrackingError, match="tracked in http://elsewhere"):
        begin()


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (RuntimeError, "FAILED"),
        (KeyboardInterrupt, "KILLED"),
        (SystemExit(143), "KILLED"),
        (None, "FINISHED"),
    ],
)
def test_the_end_status_is_what_happened(
    raised: type[BaseException] | BaseException | None, status: str, tmp_path: Path, begin: Begin
) -> None:
    with contextlib.suppress(BaseException), begin():
        if raised is not None:
            raise raised
    records = [r for r, _ in read_records(lane_file(tmp_path / "run" / "tracking", "points"), 0)]
    assert [r["status"] for r in records if r and r["kind"] == "end"] == [status]


def test_no_secret_is_written_even_to_the_spool(tmp_path: Path) -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "MY_TOKEN": "s3cr3t-value",
        "MLFLOW_TRACKING_URI": "http://u:pw99@127.0.0.1:9",
    }
    config = {"a": {"password": "pw11"}, "b": "s3cr3t-value"}
    tags = {"from": "s3cr3t-value"}
    card = RunCard(stage="pretrain", name="n s3cr3t-value", config=config, tags=tags)
    options = TrackingOptions(end_wait_s=0.0)
    run = start_run(card, options=options, run_folder=tmp_path, project_folder=tmp_path, environ=environ)
    run.set_tags({"note": "s3cr3t-value"})
    run.log_text("the value is s3cr3t-value", "sample.md")
    run.end()
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for secret in (b"s3cr3t-value", b"pw99", b"pw11"):
        assert secret not in written


@pytest.mark.slow
def test_a_run_begins_and_ends_without_its_server_which_gets_all_of_it_later(
    tmp_path: Path, begin: Begin, store: Store, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = begin(uri=f"http://127.0.0.1:{free_port()}", end_wait_s=1.0)
    assert run.run_id is not None
    for step in range(1, 101):
        run.log_metrics({"train/loss": 1 / step}, step)
    run.end()
    assert "were not sent to MLflow" in caplog.text
    assert "make sync" in caplog.text
    report = sync(tmp_path / "run", uri=store.uri, environ={})
    assert report.n_left == 0
    assert (tmp_path / "mlartifacts" / str(report.run_id) / "artifacts" / "config.yaml").exists()
    points = client.get_metric_history(report.run_id, "train/loss")
    assert [(m.step, m.value) for m in points] == [(step, 1 / step) for step in range(1, 101)]
    spooled = [r for r, _ in read_records(lane_file(tmp_path / "run" / "tracking", "points"), 0)]
    losses = [r for r in spooled if r and "train/loss" in r.get("values", {})]
    assert [m.timestamp for m in points] == [r["time_ms"] for r in losses]
    assert client.get_run(report.run_id).data.tags["local_id"] == run.run_id or report.run_id == run.run_id


@pytest.mark.slow
def test_three_runs_at_once_in_a_fresh_folder_all_arrive(tmp_path: Path) -> None:
    trainings = [start_training(tmp_path / f"run{n}") for n in range(3)]
    for training in trainings:
        _, talk = training.communicate(timeout=LIMIT_S)
        assert training.returncode == 0, talk
        assert talk == b""
    runs = found_runs(tmp_path)
    assert sorted(runs) == ["run0", "run1", "run2"]
    for run, points in runs.values():
        assert run.info.status == "FINISHED"
        assert [m.step for m in points] == list(range(1, 51))
    assert len({run.info.experiment_id for run, _ in runs.values()}) == 1


@pytest.mark.slow
def test_a_training_that_is_killed_is_recorded_as_killed(tmp_path: Path) -> None:
    training = start_training(tmp_path / "run", "wait")
    assert training.stdout is not None
    assert training.stdout.readline() == b"ready\n"
    training.send_signal(signal.SIGKILL)
    training.communicate()
    ended = lambda: found_runs(tmp_path)["run"][0].info.status != "RUNNING"  # noqa: E731
    wait_until(ended, "the writer has recorded the end of the run", pause_s=0.5)
    run, points = found_runs(tmp_path)["run"]
    assert run.info.status == "KILLED"
    assert len(points) == 50
