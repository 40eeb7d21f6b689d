"""A database that cannot take a run's records: training goes on from its spool, and one line says why."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tracking_proxy import free_port
from pipeline.__main__ import main
from pipeline.errors import TrackingError
from pipeline.tracking import Run, TrackingOptions
from pipeline.tracking.options import Store
from pipeline.tracking.problems import explain
from pipeline.tracking.spool import Progress
from pipeline.tracking.ui import serve_ui
from tests.pipeline.tracking.whole_trainings import ROOT, assert_all_there, environ, wait_until_sent
from tests.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

Begin = Callable[..., Run]


def train(begin: Begin, end_wait_s: float) -> Run:
    """Log a few steps; the run has not ended yet."""
    run = begin(end_wait_s=end_wait_s)
    for step in range(1, 21):
        run.log_metrics({"train/loss": 1 / step}, step)
    return run


def set_revision(store: Store, revision: str) -> str:
    """Let a database say that it is of another schema; gives the one that it was of."""
    with closing(sqlite3.connect(store.sqlite_file or "")) as database, database:
        ((before,),) = database.execute("select version_num from alembic_version")
        database.execute("update alembic_version set version_num = ?", [revision])
    return str(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("revision", "says"),
    [("ffffffffffff", "a newer version of MLflow"), ("451aebb31d03", "an older version of MLflow")],
)
def test_a_store_of_another_schema_is_told_at_once_and_takes_all_when_it_is_put_right(
    revision: str,
    says: str,
    begin: Begin,
    store: Store,
    client: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = set_revision(store, revision)
    # Nothing changes it by waiting: were the whole limit waited for, this test would run into its own.
    train(begin, end_wait_s=3600.0).end("FINISHED")
    (note,) = caplog.messages
    assert f"{store.sqlite_file} was written by {says}" in note
    assert "`make sync`" in note
    assert "\n" not in note
    set_revision(store, before)
    wait_until_sent(tmp_path / "run")
    assert_all_there(client, tmp_path / "run")


@pytest.mark.slow
def test_the_pages_of_a_store_of_another_schema_are_refused_as_a_registration_is(
    store: Store, tmp_path: Path
) -> None:
    set_revision(store, "ffffffffffff")
    options = TrackingOptions(uri=store.uri)
    with pytest.raises(TrackingError) as caught:
        serve_ui(options, project_folder=tmp_path, port=free_port(), environ=os.environ)
    said = str(caught.value)
    assert said.startswith(f"{store.sqlite_file} was written by a newer version of MLflow (Detected ")
    assert said.endswith("or choose another store with tracking.uri")
    assert said.count("\n") == 1  # the error, and its hint


@pytest.mark.slow
def test_a_locked_database_is_told_and_takes_all_when_it_is_free(
    begin: Begin, store: Store, client: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(store.sqlite_file or "", isolation_level=None)) as database:
        database.execute("begin exclusive")
        run = train(begin, end_wait_s=0.1)
        progress = lambda: Progress.load(tmp_path / "run" / "tracking")  # noqa: E731
        wait_until(lambda: progress().problem, "the writer finds the database locked")
        run.end("FINISHED")  # while it is locked
    (note,) = caplog.messages
    assert f"{store.sqlite_file} is locked by another process" in note
    assert "wait until that process ends, then `make sync`" in note
    wait_until_sent(tmp_path / "run")
    assert_all_there(client, tmp_path / "run")


FULL_DISK = """
import os, sys, time
from pathlib import Path
from pipeline.tracking.spool import Progress
from pipeline.tracking import RunCard, TrackingOptions, start_run
disk, folder = Path(sys.argv[1]), Path(sys.argv[2])
options = TrackingOptions(uri=f"sqlite:///{disk}/mlflow.db", end_wait_s=0.1, system_metrics=False)
with start_run(RunCard(stage="pretrain", name="full", config={"lr": 0.1}), options=options, run_folder=folder,
               project_folder=folder) as run:
    assert run.wait_until_known(600)
    filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)  # somebody else fills the disk
    try:
        while True:
            os.write(filler, bytes(4096))
    except OSError:
        pass
    for step in range(1, 2001):
        run.log_metrics({f"train/metric_{n}": 1 / step for n in range(10)}, step)
    while not Progress.load(folder / "tracking").problem:
        time.sleep(0.1)
"""


@pytest.mark.slow
def test_a_full_disk_under_the_store_is_told_and_the_exit_code_is_right(
    ready_database: Path, tmp_path: Path
) -> None:
    disk, folder = tmp_path / "disk", tmp_path / "run"
    disk.mkdir()
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=2m tmpfs "{disk}" && cp "{ready_database}" "{disk}/mlflow.db"'
    names = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--user", "--map-root-user"])]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*names, "sh", "-c", mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("no file system of its own can be mounted here")
    training = subprocess.run(
        [*names, "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", FULL_DISK, disk, folder],
        env=environ(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert training.returncode == 0, training.stderr
    (note,) = training.stderr.splitlines()
    assert "mlflow.db is on a full disk" in note
    assert "free some space, then `make sync`" in note


def test_sync_of_a_store_that_takes_nothing_ends_with_its_remedy(
    begin: Begin,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    begin(folder="runs/a").end()
    set_revision(store, "ffffffffffff")
    assert main(["sync"]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert "install the newer version of MLflow" in hint
    assert "`make sync` again" in hint


@pytest.mark.parametrize(
    ("text", "says", "lasting"),
    [
        ("API request to endpoint /x failed with error code 401 != 200. Response: 'a'", "password", True),
        ("API request to endpoint /x failed with error code 403 != 200: 'Permission denied'",
         "does not permit this user", True),
        ("API request to endpoint /x failed with error code 503 != 200. Response: ''", "an error", False),
        ("API request to http://h failed with exception HTTPConnectionPool", "does not respond", False),
        ("API request to http://h failed with exception (too many 500 error responses)", "an error", False),
        ("(psycopg2.OperationalError) FATAL:  password authentication failed for user", "password", True),
        ("(psycopg2.OperationalError) connection to server at 1, failed: refused", "does not respond", False),
        ("[Errno 28] No space left on device", "full disk", False),
        ("cannot read http://ann:swordfish@h/x", "cannot read http://h/x", False),
    ],
)  # fmt: skip
def test_what_a_store_says_is_told_in_plain_words_without_its_credentials(
    text: str, says: str, lasting: bool
) -> None:
    problem = explain(RuntimeError(text), Store("http://ann:swordfish@host:5000", None))
    assert problem.text.startswith("http://host:5000")
    assert says in problem.text
    assert problem.lasting is lasting
    assert "swordfish" not in problem.text + problem.remedy
