"""The server under load, with clients that misbehave, and at its end."""

import http.client
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import torch

from pipeline.errors import ConfigError, RunError
from pipeline.serving.server import bind
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.finetuning import Prediction
from tests.pipeline.serving.models import LABELS, Running, served, serving
from tests.pipeline.serving.saved import process, save_classifier
from tests.waiting import wait_until

#: Opened by a test to let the model go on.
GATE, ENTERED = threading.Event(), threading.Event()


@dataclass(frozen=True, kw_only=True)
class Waiting(TextClassification):
    """Waits at the text `wait`, and fails at others."""

    def predict(self, model: Any, tokenizer: Any, rows: Any, *, batch_size: int) -> list[Prediction]:
        texts = [row["text"] for row in rows]
        if "wait" in texts:
            ENTERED.set()
            assert GATE.wait(60)
        if "bug" in texts:
            raise KeyError("a text of somebody")
        if "end" in texts:
            raise SystemExit("the thread ends")
        return super().predict(model, tokenizer, rows, batch_size=batch_size)


@pytest.fixture(autouse=True)
def closed_gate() -> Iterator[None]:
    GATE.clear()
    ENTERED.clear()
    yield
    GATE.set()


def waiting_model() -> Any:
    return served("classify", task=Waiting(label_names=LABELS, optional_read=[]))


def ask(running: Running, text: str) -> requests.Response:
    return requests.post(f"{running.url}/v1/classify", json={"text": text}, timeout=60)


def in_thread(running: Running, text: str, found: list[int]) -> threading.Thread:
    thread = threading.Thread(target=lambda: found.append(ask(running, text).status_code))
    thread.start()
    return thread


def test_a_full_queue_is_answered_503_at_once_and_what_waits_is_answered_together() -> None:
    with serving([waiting_model()], max_waiting_rows=3) as running:
        found: list[int] = []
        threads = [in_thread(running, "wait", found)]
        assert ENTERED.wait(60)
        threads += [in_thread(running, f"text {number}", found) for number in range(3)]
        wait_until(lambda: running.server.engine.worker.n_waiting == 3, "three rows wait")
        refused = ask(running, "one more")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert requests.get(f"{running.url}/health", timeout=30).status_code == 200
        GATE.set()
        for thread in threads:
            thread.join()
        assert found == [200] * 4
        figures = requests.get(f"{running.url}/metrics", timeout=30).text
        assert 'prelude_batch_rows_bucket{le="2"} 2' in figures  # the warm-up and the first row
        assert 'prelude_batch_rows_bucket{le="4"} 3' in figures  # the three that waited


def test_the_row_of_a_client_that_has_left_is_not_answered() -> None:
    with serving([waiting_model()]) as running:
        found: list[int] = []
        first = in_thread(running, "wait", found)
        assert ENTERED.wait(60)
        leaver = http.client.HTTPConnection("127.0.0.1", running.port)
        headers = {"Content-Type": "application/json"}
        leaver.request("POST", "/v1/classify", json.dumps({"text": "bug"}), headers)
        worker = running.server.engine.worker
        wait_until(lambda: worker.n_waiting == 1, "the second row waits")
        job = worker._rows[0]
        leaver.close()
        wait_until(lambda: job.is_cancelled, "its row is free")
        GATE.set()
        first.join()
        assert found == [200]
        assert running.said == []  # "bug" was never asked


def test_the_rows_of_a_stream_are_free_when_its_client_leaves() -> None:
    with serving([served("causal_lm")]) as running:
        body = {"prompt": "a", "max_tokens": 90, "stream": True, "n": 3}
        with requests.post(f"{running.url}/v1/completions", json=body, stream=True, timeout=30) as stream:
            next(stream.iter_lines())
        worker = running.server.engine.worker
        wait_until(lambda: not worker.n_decoding and not worker.n_waiting, "nothing is written any more")


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("causal_lm", "completions", {"prompt": "a"}),
        ("chat", "chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_a_stream_for_which_there_is_no_room_is_refused_before_it_begins(
    name: str, path: str, body: dict[str, Any]
) -> None:
    with serving([served(name)], max_waiting_rows=1) as running:
        running.server.engine.worker.max_waiting = 0
        done = requests.post(f"{running.url}/v1/{path}", json=body | {"stream": True}, timeout=30)
        assert (done.status_code, done.headers["Retry-After"]) == (503, "1")
        assert done.json()["error"]["type"] == "server_error"


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_given_up() -> None:
    with serving([waiting_model()], request_timeout_s=0.5) as running:
        assert ask(running, "wait").status_code == 504
        GATE.set()
        assert ask(running, "another").status_code == 200


def test_a_fault_of_the_model_is_answered_500_and_its_place_is_said_without_the_text() -> None:
    with serving([waiting_model()]) as running:
        done = ask(running, "bug")
        assert done.status_code == 500
        assert ask(running, "another").status_code == 200
    ((topic, text),) = running.said
    assert topic == "Error"
    assert text.startswith("KeyError at test_robust.py:")
    assert "somebody" not in text + done.text


class Broken(torch.nn.Module):
    """Fails after some calls."""

    def __init__(self, head: torch.nn.Module, n_calls: int) -> None:
        super().__init__()
        self.head, self.n_left = head, n_calls

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.n_left -= 1
        if self.n_left < 0:
            raise KeyError("a text of somebody")
        logits: torch.Tensor = self.head(hidden)
        return logits


def test_a_fault_while_a_text_is_written_ends_it_with_an_error_and_the_next_one_is_written() -> None:
    with serving([served("causal_lm")]) as running:
        model = running.server.engine.models["causal_lm"].bundle.model
        head, body = model.head, {"prompt": "a", "max_tokens": 8, "temperature": 0}
        model.head = Broken(head, 3)
        twice = requests.post(f"{running.url}/v1/completions", json=body | {"n": 2}, timeout=30)
        assert twice.status_code == 500
        model.head = Broken(head, 3)
        stream = requests.post(
            f"{running.url}/v1/completions", json=body | {"stream": True}, stream=True, timeout=30
        )
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(stream.iter_lines())
        stream.close()
        assert stream.status_code == 200
        model.head = head
        assert requests.post(f"{running.url}/v1/completions", json=body, timeout=30).status_code == 200
    assert [text.partition(":")[0] for _, text in running.said] == ["KeyError at test_robust.py"] * 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_worker_ends_nobody_hangs_and_the_server_ends_with_an_error() -> None:
    with serving([waiting_model()]) as running:
        found: list[int] = []
        threads = [in_thread(running, "wait", found)]
        assert ENTERED.wait(60)
        threads += [in_thread(running, text, found) for text in ("end", "another")]
        wait_until(lambda: running.server.engine.worker.n_waiting == 2, "two rows wait")
        GATE.set()
        for thread in (*threads, running.thread):
            thread.join(60)
        assert sorted(found) == [200, 500, 500]
    assert isinstance(running.problem, RunError)
    assert "SystemExit at test_robust.py" in str(running.problem)


def test_what_was_asked_is_answered_before_the_server_ends() -> None:
    with serving([waiting_model()]) as running:
        found: list[int] = []
        thread = in_thread(running, "wait", found)
        assert ENTERED.wait(60)
        running.server.should_exit = True
        time.sleep(0.3)
        with pytest.raises(requests.ConnectionError):
            ask(running, "too late")
        GATE.set()
        thread.join()
        assert found == [200]


@pytest.mark.slow
def test_slow_clients_and_floods_of_headers_are_cut_off() -> None:
    with serving([served("classify")], read_timeout_s=0.3) as running:
        address = ("127.0.0.1", running.port)
        with socket.create_connection(address, timeout=30) as silent:
            silent.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n")
            assert silent.recv(100) == b""
        with socket.create_connection(address, timeout=30) as slow:
            slow.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(address, timeout=30) as flood:
            flood.sendall(b"GET /health HTTP/1.1\r\n" + b"X-Header: a value of some length\r\n" * 1100)
            assert flood.recv(100).startswith(b"HTTP/1.1 400 ")
        whole = {"X-Header": "a" * 40_000}
        assert requests.get(f"{running.url}/health", headers=whole, timeout=30).status_code == 431
        assert ask(running, "another").status_code == 200


def test_clients_that_send_nothing_keep_nobody_out() -> None:
    with serving([waiting_model()], max_connections=3) as running:
        idle = [socket.create_connection(("127.0.0.1", running.port), timeout=30) for _ in range(8)]
        assert ask(running, "another").status_code == 200
        assert idle[0].recv(100) == b""
        for connection in idle:
            connection.close()
        found: list[int] = []
        threads = [in_thread(running, "wait", found) for _ in range(3)]
        assert ENTERED.wait(60)
        guard = running.server.guard
        wait_until(lambda: guard.n_running == 3, "all that is allowed is running")
        refused = requests.get(f"{running.url}/v1/models", timeout=30)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        GATE.set()
        for thread in threads:
            thread.join()
        assert found == [200] * 3


def test_a_port_that_is_taken_is_refused_with_a_remedy() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"make serve PORT={port + 1}"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot be used"):
        bind("no.such.host.invalid", 8000)


#: `make serve` with a model whose thread ends at the text "end".
FATAL = """
import sys
from pipeline.__main__ import main
from pipeline.tasks.classify import TextClassification

predict = TextClassification.predict

def fatal(self, model, tokenizer, rows, **options):
    if any(row["text"] == "end" for row in rows):
        raise SystemExit
    return predict(self, model, tokenizer, rows, **options)

TextClassification.predict = fatal
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_server_whose_worker_ends_answers_who_waits_and_exits_with_code_2(tmp_path: Path) -> None:
    save_classifier(tmp_path / "runs" / "mine")
    with process(tmp_path, "-c", FATAL, "serve", "bundle=mine", "tracking=off") as (server, url, printed):

        def status() -> int:
            try:
                return requests.post(f"{url}/v1/classify", json={"text": "end"}, timeout=60).status_code
            except requests.ConnectionError:
                return 0  # it came when the server had ended

        with ThreadPoolExecutor(8) as pool:
            statuses = {one.result() for one in [pool.submit(status) for _ in range(8)]}
        assert {500} <= statuses <= {0, 500, 503}
        assert server.wait(60) == 2
        assert "error: the model's worker" in printed.read_text()


@pytest.mark.slow
def test_make_serve_says_a_line_that_works_and_ends_in_order(tmp_path: Path) -> None:
    save_classifier(tmp_path / "runs" / "mine")
    words = ("-m", "pipeline", "serve", "bundle=mine", "tracking=off")
    with process(tmp_path, *words) as (server, _, printed):
        lines = printed.read_text().splitlines()
        curl = next(line.removeprefix("Try").strip() for line in lines if line.startswith("Try"))
        done = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["predictions"][0]["text"] in LABELS
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert "all requests were answered" in printed.read_text()
