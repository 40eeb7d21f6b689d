"""A proxy in front of a real MLflow server that simulates failures."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

#: refusing: not executed, 500; answer lost: executed, but 500; hanging: no response; cut: executed, with half
#: a response; empty: not executed, 200 with an empty body.
Mode = Literal["honest", "refusing", "answer lost", "hanging", "cut", "empty"]


def free_port() -> int:
    """Return an unused port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Proxy(ThreadingHTTPServer):
    """Forwards each request, or fails according to its mode."""

    daemon_threads = True
    mode: Mode = "honest"
    n_spoilt = 0

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self.behind = behind
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        self.healed = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors, since clients that disconnect are expected."""


@contextmanager
def running_proxy(behind: int) -> Iterator[Proxy]:
    """Run a proxy in front of the server at a port of this machine."""
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
