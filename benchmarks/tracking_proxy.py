"""A loopback proxy that stands before a real MLflow server and behaves as a sick one does."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

#: refusing: 500, nothing is done; answer lost: done, but 500; hanging: no answer at all; cut: done, and half
#: an answer; empty: not done, and 200 with nothing in it.
Mode = Literal["honest", "refusing", "answer lost", "hanging", "cut", "empty"]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Proxy(ThreadingHTTPServer):
    """Forwards each request, or does with it what its mode says."""

    daemon_threads = True
    mode: Mode = "honest"
    n_spoilt = 0

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self.behind = behind
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        self.healed = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


@contextmanager
def running_proxy(behind: int) -> Iterator[Proxy]:
    """A proxy before the server at a port of this machine."""
    proxy = Proxy(behind)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.healed.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class _Forwarder(BaseHTTPRequestHandler):
    server: Proxy

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode = self.server.mode
        if mode != "honest":
            self.server.n_spoilt += 1
        if mode == "hanging":
            self.server.healed.wait(60)
            return
        status, answer = (200, b"") if mode == "empty" else (500, b"sick")
        if mode not in {"refusing", "empty"}:
            status, answer = self._ask(body)
        if mode == "answer lost":
            status, answer = 500, b"sick"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer[: len(answer) // 2] if mode == "cut" else answer)

    def _ask(self, body: bytes) -> tuple[int, bytes]:
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() in {"content-type", "accept"}}
        behind.request(self.command, self.path, body, headers)
        got = behind.getresponse()
        status, answer = got.status, got.read()
        behind.close()
        return status, answer

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815 (names of http.server)

    def log_message(self, *arguments: Any) -> None:
        pass
