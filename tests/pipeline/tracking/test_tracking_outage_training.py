"""Whole trainings whose MLflow server dies or hangs in their midst."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.tracking_proxy import Proxy, free_port, running_proxy
from pipeline.tracking.options import Store
from pipeline.tracking.spool import POINTS, Progress, lane_file, read_records
from pipeline.tracking.store import create_sqlite, open_client
from pipeline.tracking.ui import running_server
from tests.pipeline.tracking.whole_trainings import (
    PRETRAIN,
    Curve,
    assert_all_there,
    command,
    environ,
    run_id_of,
    spooled,
    stored,
    values,
    wait_until_sent,
)
from tests.waiting import LIMIT_S, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

N_STEPS, FAULT_AT_STEP = 200, 30
WORDS = (*PRETRAIN, f"trainer.max_steps={N_STEPS}", "trainer.val_every_steps=100", "name=a")


class Server:
    """A real MLflow server, a proxy before it, and what can happen to the two."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(f"sqlite:///{folder}/server.db", folder / "server-artifacts")
        create_sqlite(self._store)
        self._port = free_port()
        self._kept = ExitStack()
        self._start()
        self._proxy: Proxy = self._kept.enter_context(running_proxy(self._port))
        self.uri = self._proxy.uri

    def _start(self) -> None:
        server = running_server(self._store, port=self._port, environ=environ())
        self._process = self._kept.enter_context(server)

    def fall_ill(self, fault: str) -> None:
        if fault == "killed":
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._proxy.mode = "hanging"

    def recover(self, fault: str) -> None:
        self._proxy.mode = "honest"
        self._proxy.healed.set()
        if fault == "killed":
            self._process.wait()
            self._start()

    def close(self) -> None:
        self._kept.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Curve]:
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(*WORDS), cwd=folder, env=environ(), check=True, capture_output=True)
    return spooled(folder / "runs/a")


def last_step(run_folder: Path) -> int:
    points = read_records(lane_file(run_folder / "tracking", POINTS), 0)
    return max((r["step"] for r, _ in points if r and r["kind"] == "metrics"), default=0)


@pytest.mark.parametrize("fault", ["killed", "hanging"])  # the others: test_tracking_outage
def test_an_outage_in_the_midst_changes_nothing_but_when_the_points_arrive(
    fault: str, server: Server, undisturbed: dict[str, Curve], tmp_path: Path
) -> None:
    folder = tmp_path / "runs/a"
    training = subprocess.Popen(
        command(*WORDS),
        cwd=tmp_path,
        env=environ(MLFLOW_TRACKING_URI=server.uri),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    known = lambda: Progress.load(folder / "tracking").run_id and last_step(folder) >= FAULT_AT_STEP  # noqa: E731
    wait_until(known, f"MLflow knows the run and step {FAULT_AT_STEP} is done", process=training)
    server.fall_ill(fault)
    assert last_step(folder) < N_STEPS, "the training was over before the fault"
    _, talk = training.communicate(timeout=LIMIT_S)  # it ends while the server is still ill
    server.recover(fault)
    assert training.returncode == 0, talk
    assert talk.count("tracking:") == 1, talk
    wait_until_sent(folder)
    client = open_client(Store(server.uri, None))
    assert_all_there(client, folder)
    curves = stored(client, run_id_of(folder))
    assert values(curves, "train/", "val/", "lr_", "tokens_seen") == values(
        undisturbed, "train/", "val/", "lr_", "tokens_seen"
    )
    for curve in curves.values():
        times = [time_ms for _, time_ms, _ in curve]
        assert times == sorted(times)
