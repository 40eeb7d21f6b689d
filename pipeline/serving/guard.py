"""Checks before each request (host, token, size, time), and metrics after it."""

import asyncio
import ipaddress
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.serving.metrics import Metrics
from pipeline.serving.options import ServingOptions
from pipeline.serving.problems import RequestProblem, queue_full

#: The maximum size of the headers of a request.
MAX_HEAD_BYTES = 1 << 15

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(kw_only=True)
class Guard:
    """An ASGI application that wraps another one.

    Args:
        app: the application that answers requests.
        options: the limits of the server.
        host: the address that the server listens on.
        token: the bearer token that a request must have; None: none is needed.
        metrics: counts requests.
        say: reports failures, without any text of a request.
        without_token: paths that need no token: they reveal nothing about models or texts.
        n_running: requests that are being answered.
    """

    app: ASGIApp
    options: ServingOptions
    host: str
    token: str | None
    metrics: Metrics
    say: Callable[[str], None]
    without_token: set[str] = field(default_factory=lambda: {"/health"})
    n_running: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check and answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, response = time.monotonic(), _Response(send)
        self.n_running += 1
        try:
            async with asyncio.timeout(self.options.request_timeout_s):
                self._check(scope)
                body = await self._body(scope, receive)
                await self.app(scope, _replayed(body, receive), response.send)
        except TimeoutError:
            await response.refuse(RequestProblem(504, "the request took too long; send a smaller one"))
        except RequestProblem as problem:
            await response.refuse(problem)
        except Exception as error:
            self.say(place_of(error))
            await response.refuse(RequestProblem(500, "the server failed; see its log"))
        finally:
            self.n_running -= 1
        path = getattr(scope.get("route"), "path", "other")
        self.metrics.count("prelude_requests_total", path=path, status=str(response.status))
        self.metrics.observe("prelude_request_seconds", time.monotonic() - began, path=path)

    def _check(self, scope: Scope) -> None:
        if self.n_running > self.options.max_connections:
            raise queue_full()
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
            raise RequestProblem(431, f"the headers are longer than {MAX_HEAD_BYTES:,} bytes")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = _name_of(headers.get("host", ""))
        if not self._is_allowed(host):
            raise RequestProblem(
                400, "Host: this name is not allowed; add it to serving.allowed_hosts", field="Host"
            )
        if self.token is not None and scope["path"] not in self.without_token:
            self._check_token(headers)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.options.max_body_bytes:
            raise self._too_large()

    def _check_token(self, headers: Mapping[str, str]) -> None:
        token = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not secrets.compare_digest(token.encode(), str(self.token).encode()):
            raise RequestProblem(
                401,
                "Authorization: expected `Bearer` followed by the token of the server",
                field="Authorization",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _is_allowed(self, name: str) -> bool:
        """Return whether a host name is allowed, which prevents attacks by DNS rebinding."""
        if name in _LOCAL_NAMES or name == self.host or name in self.options.allowed_hosts:
            return True
        # A server that listens on a network is reached by its IP addresses, which cannot be rebound.
        return self.host not in _LOCAL_NAMES and _is_address(name)

    def _too_large(self) -> RequestProblem:
        return RequestProblem(
            413, f"body: the body is longer than {self.options.max_body_bytes:,} bytes", field="body"
        )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.options.read_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestProblem(499, "the client disconnected")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.options.max_body_bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise RequestProblem(408, "body: the body arrived too slowly", field="body") from None


class _Response:
    """Sends a response; an error can replace it only before its first byte is sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, problem: RequestProblem) -> None:
        if self.status:
            return
        content = json.dumps(problem.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), **problem.headers}
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": content})


def place_of(error: BaseException) -> str:
    """Return the type and place of an error, without its message, which may contain a user's text."""
    frames = extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a receiver of the body and then of the client's further messages, such as a disconnect."""
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _name_of(host: str) -> str:
    """Return the host name without the port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
