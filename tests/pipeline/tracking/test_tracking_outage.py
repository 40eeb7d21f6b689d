"""A real MLflow server that dies, hangs, answers 500, or does as told and then answers 500."""

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.tracking import Run, SyncReport, sync
from pipeline.tracking.options import Store
from pipeline.tracking.store import create_sqlite, open_client
from pipeline.ui import running_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

Begin = Callable[..., Run]
Mode = Literal["honest", "refusing", "answer lost"]
LONGEST_CALL_S = 0.1


class Proxy(ThreadingHTTPServer):
    """Stands before the server and behaves as a sick one does."""

    daemon_threads = True
    mode: Mode = "honest"
    n_spoilt = 0

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Forwarder)
        self.behind = behind
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"


class Forwarder(BaseHTTPRequestHandler):
    server: Proxy

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode = self.server.mode
        status, answer = 500, b"sick"
        if mode != "refusing":
            behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() in {"content-type", "accept"}}
            behind.request(self.command, self.path, body, headers)
            got = behind.getresponse()
            status, answer = got.status, got.read()
            behind.close()
        if mode != "honest":
            self.server.n_spoilt += 1
            status, answer = 500, b"sick"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815 (names of http.server)

    def log_message(self, *arguments: Any) -> None:
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, int]]:
    folder = tmp_path_factory.mktemp("server")
    store = Store(f"sqlite:///{folder}/mlflow.db", folder / "mlartifacts")
    create_sqlite(store)
    port = free_port()
    with running_server(store, port=port, environ=os.environ) as process:
        yield process, port


@pytest.fixture
def proxy(server: tuple[Any, int]) -> Iterator[Proxy]:
    proxy = Proxy(server[1])
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    yield proxy
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def log_steps(run: Run, first: int, last: int, *, pause_s: float = 0.0) -> float:
    """Log one point a step; the longest call in seconds."""
    longest = 0.0
    for step in range(first, last + 1):
        begun = time.perf_counter()
        run.log_metrics({"train/loss": 1 / step}, step)
        longest = max(longest, time.perf_counter() - begun)
        time.sleep(pause_s)
    return longest


def assert_whole(uri: str, run_id: str | None, n_steps: int, status: str = "FINISHED") -> None:
    client = open_client(Store(uri, None))
    assert run_id is not None
    run = client.get_run(run_id)
    points = client.get_metric_history(run_id, "train/loss")
    assert [(m.step, m.value) for m in points] == [(step, 1 / step) for step in range(1, n_steps + 1)]
    assert run.info.status == status
    same = client.search_runs([run.info.experiment_id], f"tags.local_id = '{run.data.tags['local_id']}'")
    assert len(same) == 1
    assert [file.path for file in client.list_artifacts(run_id, "samples")] == ["samples/one.md"]


def sync_until_whole(run_folder: Path, limit_s: float = 60.0) -> SyncReport:
    deadline = time.monotonic() + limit_s
    while (report := sync(run_folder, environ={})).n_left and time.monotonic() < deadline:
        pass
    return report


def test_a_server_that_does_as_told_but_answers_500_gets_nothing_twice(
    proxy: Proxy, begin: Begin, tmp_path: Path
) -> None:
    proxy.mode = "answer lost"
    run = begin(uri=proxy.uri, experiment="lost", end_wait_s=60.0)
    run.log_text("one", "samples/one.md")
    log_steps(run, 1, 40)
    while proxy.n_spoilt < 3:  # the first requests were carried out, and their answers lost
        log_steps(run, 41, 40, pause_s=0.1)
        time.sleep(0.05)
    proxy.mode = "honest"
    assert run.wait_until_known(60)
    proxy.mode, spoilt = "answer lost", proxy.n_spoilt
    log_steps(run, 41, 80)
    while proxy.n_spoilt < spoilt + 1:
        time.sleep(0.05)
    proxy.mode = "honest"
    run.end()
    assert_whole(proxy.uri, run.run_id, 80)


def test_a_server_that_answers_500_delays_nothing_and_is_synced_later(
    proxy: Proxy, begin: Begin, tmp_path: Path
) -> None:
    proxy.mode = "refusing"
    begun = time.monotonic()
    run = begin(uri=proxy.uri, experiment="refusing", end_wait_s=2.0)
    run.log_text("one", "samples/one.md")
    assert log_steps(run, 1, 100) < LONGEST_CALL_S
    run.end()
    assert time.monotonic() - begun < 10
    proxy.mode = "honest"
    report = sync_until_whole(tmp_path / "run")
    assert report.n_left == 0, report
    assert_whole(proxy.uri, report.run_id, 100)


def test_a_paused_server_delays_nothing_and_is_synced_later(
    server: tuple[Any, int], begin: Begin, tmp_path: Path
) -> None:
    process, port = server
    uri = f"http://127.0.0.1:{port}"
    run = begin(uri=uri, experiment="paused", end_wait_s=2.0)
    run.log_text("one", "samples/one.md")
    log_steps(run, 1, 20)
    assert run.wait_until_known(60)
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        assert log_steps(run, 21, 60, pause_s=0.05) < LONGEST_CALL_S
        begun = time.monotonic()
        run.end()
        assert time.monotonic() - begun < 4
    finally:
        os.killpg(process.pid, signal.SIGCONT)
    report = sync_until_whole(tmp_path / "run")
    assert report.n_left == 0, report
    assert_whole(uri, report.run_id, 60)


def test_a_server_killed_and_started_again_during_a_run_has_all_of_it_at_the_end(
    begin: Begin, tmp_path: Path
) -> None:
    store = Store(f"sqlite:///{tmp_path}/server.db", tmp_path / "mlartifacts")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with running_server(store, port=port, environ=os.environ) as process:
        run = begin(uri=uri, end_wait_s=60.0)
        run.log_text("one", "samples/one.md")
        log_steps(run, 1, 20)
        assert run.wait_until_known(60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert log_steps(run, 21, 60, pause_s=0.05) < LONGEST_CALL_S
    with running_server(store, port=port, environ=os.environ):
        log_steps(run, 61, 80)
        run.end()
        assert_whole(uri, run.run_id, 80)
