"""A real MLflow server that dies, hangs, answers 500, or does as told and then answers 500."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tracking_proxy import Mode, Proxy, free_port, running_proxy
from pipeline.tracking import Run, SyncReport, sync
from pipeline.tracking.options import Store
from pipeline.tracking.replay import Replay
from pipeline.tracking.store import create_sqlite, open_client
from pipeline.tracking.ui import running_server
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

Begin = Callable[..., Run]


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
    with running_proxy(server[1]) as proxy:
        yield proxy


def log_steps(run: Run, first: int, last: int, *, pause_s: float = 0.0) -> None:
    """Log one point a step."""
    for step in range(first, last + 1):
        run.log_metrics({"train/loss": 1 / step}, step)
        time.sleep(pause_s)


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


def sync_until_whole(run_folder: Path) -> SyncReport:
    reports: list[SyncReport] = []

    def is_whole() -> bool:
        reports.append(sync(run_folder, environ={}))
        return not reports[-1].n_left

    wait_until(is_whole, "all records have reached the server")
    return reports[-1]


def test_a_server_that_does_as_told_but_answers_500_gets_nothing_twice(
    proxy: Proxy, begin: Begin, tmp_path: Path
) -> None:
    proxy.mode = "answer lost"
    run = begin(uri=proxy.uri, experiment="lost", end_wait_s=600.0)
    run.log_text("one", "samples/one.md")
    log_steps(run, 1, 40)
    wait_until(lambda: proxy.n_spoilt >= 3, "requests are carried out, and their answers lost")
    proxy.mode = "honest"
    assert run.wait_until_known(600)
    proxy.mode, spoilt = "answer lost", proxy.n_spoilt
    log_steps(run, 41, 80)
    wait_until(lambda: proxy.n_spoilt > spoilt, "the answer to one more request is lost")
    proxy.mode = "honest"
    run.end()
    assert_whole(proxy.uri, run.run_id, 80)


@pytest.mark.parametrize("mode", ["refusing", "answer lost", "hanging", "cut"])
def test_a_run_begins_goes_on_and_ends_while_its_server_is_sick_and_is_synced_later(
    mode: Mode, proxy: Proxy, begin: Begin, tmp_path: Path
) -> None:
    proxy.mode = mode
    run = begin(uri=proxy.uri, experiment="sick", end_wait_s=2.0)
    run.log_text("one", "samples/one.md")
    log_steps(run, 1, 100)
    wait_until(lambda: proxy.n_spoilt > 0, "the writer has asked the server")
    run.end()
    proxy.mode = "honest"
    proxy.healed.set()
    report = sync_until_whole(tmp_path / "run")
    assert_whole(proxy.uri, report.run_id, 100)


def test_a_server_killed_and_started_again_during_a_run_has_all_of_it_at_the_end(
    begin: Begin, tmp_path: Path
) -> None:
    store = Store(f"sqlite:///{tmp_path}/server.db", tmp_path / "mlartifacts")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with running_server(store, port=port, environ=os.environ) as process:
        run = begin(uri=uri, end_wait_s=600.0)
        run.log_text("one", "samples/one.md")
        log_steps(run, 1, 20)
        assert run.wait_until_known(600)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log_steps(run, 21, 60, pause_s=0.05)
    with running_server(store, port=port, environ=os.environ):
        log_steps(run, 61, 80)
        run.end()
        assert_whole(uri, run.run_id, 80)


def test_an_empty_answer_is_not_taken_for_a_run(proxy: Proxy, begin: Begin, tmp_path: Path) -> None:
    proxy.mode = "empty"
    run = begin(uri=proxy.uri, experiment="empty", end_wait_s=600.0)
    run.log_text("one", "samples/one.md")
    log_steps(run, 1, 10)
    wait_until(lambda: proxy.n_spoilt > 1, "the writer has asked the server twice")
    assert not run.wait_until_known(0.1)
    proxy.mode = "honest"
    run.end()
    assert_whole(proxy.uri, run.run_id, 10)


def test_a_run_and_a_model_that_a_server_made_late_of_a_repeated_request_are_removed(
    store: Store, client: Any, begin: Begin, tmp_path: Path
) -> None:
    run = begin()
    bundle = tmp_path / "run" / "best"
    bundle.mkdir()
    (bundle / "DONE").write_text("")
    run.log_bundle(bundle, name="best", step=1, metrics={})
    run.end()
    replay = Replay(tmp_path / "run" / "tracking", store, client=client)
    create_run, create_model = client.create_run, client.create_logged_model

    def twice(create: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: (create(*given, **named), create(*given, **named))[1]

    client.create_run, client.create_logged_model = twice(create_run), twice(create_model)
    assert replay.drain()
    experiment = [replay.progress.experiment_id]
    assert [found.info.run_id for found in client.search_runs(experiment)] == [replay.run_id]
    (model,) = client.search_logged_models(experiment)
    assert replay.progress.models == {str(bundle): model.model_id}
