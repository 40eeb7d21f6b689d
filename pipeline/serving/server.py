"""The server process: a port, an event loop, signals, and a graceful shutdown."""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.errors import ConfigError, RunError
from pipeline.serving.app import make_app
from pipeline.serving.engine import Engine
from pipeline.serving.follow import Follower
from pipeline.serving.guard import MAX_HEAD_BYTES, Guard, place_of
from pipeline.serving.metrics import Metrics
from pipeline.serving.options import ServingOptions
from pipeline.serving.served import ServedModel

Say = Callable[[str, str], None]

_LAST_PORT = 65_535
_KEEP_ALIVE_S = 5


def bind(host: str, port: int) -> socket.socket:
    """Bind a port and listen on it; connections wait until the server runs.

    Raises:
        ConfigError: the port is in use, or there is no such address.
    """
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(
            f"{port} is not a valid port", f"1 to {_LAST_PORT}", "choose another port: PORT=8001"
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"port {port} on {host} cannot be used ({error.strerror})",
            "a free port on an address of this machine",
            f"stop the program that uses it, or choose another port: make serve PORT={port % _LAST_PORT + 1}",
        ) from None
    return listener


class _BoundedProtocol(H11Protocol):
    """HTTP with a time limit for the headers of a request, so that slow clients hold no connection open."""

    read_timeout_s: float
    max_connections: int
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._make_room()
        self._watch_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Close the connection that has been idle for longest, so that idle clients block no others."""
        waiting = {
            one: one._timer.when()
            for one in self.connections
            if isinstance(one, _BoundedProtocol) and one._timer is not None
        }
        if waiting:
            oldest = min(waiting, key=waiting.__getitem__)
            oldest._cancel_timer()
            oldest.transport.close()

    def _watch_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._cancel_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.read_timeout_s, self.transport.close)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """Serves models until a signal arrives or the worker fails.

    Args:
        models: loaded models; each is warmed up before the server listens.
        options: the limits of the server.
        host: the address that the server listens on, for the check of the header `Host`.
        token: the bearer token that requests must have; None: none is needed.
        follower: looks for other versions of models; None: nothing is followed.
        say: reports a topic and a text to the user.
        ready: called when the server accepts requests.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        options: ServingOptions,
        *,
        host: str,
        token: str | None,
        follower: Follower | None,
        say: Say,
        ready: Callable[[], None],
    ) -> None:
        self.problem: BaseException | None = None
        self._say, self._ready, self._follower = say, ready, follower
        metrics = Metrics()
        self.engine = Engine(models, options, metrics, self._failed)
        self.api = make_app(self.engine)
        self.guard = Guard(
            app=self.api,
            options=options,
            host=host,
            token=token,
            metrics=metrics,
            say=lambda text: say("Error", text),
        )
        protocol = type(
            "Protocol",
            (_BoundedProtocol,),
            {"read_timeout_s": options.read_timeout_s, "max_connections": options.max_connections},
        )
        super().__init__(_config(self.guard, protocol, options))
        self._had_terminal = _has_terminal()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Warm up, then serve until the end.

        Raises:
            RunError: the worker failed.
        """
        self.engine.start()
        with self.capture_signals():
            for model in self.engine.models.values():
                await self.engine.warm_up(model)
            await self._serve_and_follow(sockets)
        await asyncio.to_thread(self.engine.worker.stop)
        if self.problem is not None:
            raise RunError(
                f"the model's worker ended ({place_of(self.problem)})",
                "a running worker",
                "start the server again; DEBUG=1 shows the traceback",
            ) from self.problem

    async def _serve_and_follow(self, sockets: list[socket.socket] | None) -> None:
        following = None
        if self._follower is not None:
            following = asyncio.create_task(self._follower.run(self.engine))
        try:
            await self._serve(sockets)
        finally:
            if following is not None:
                following.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then report that the server is ready."""
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Shut down on SIGINT and SIGTERM, at once on the second; on SIGHUP, poll the registry."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return
        answers = {
            signal.SIGINT: self._end,
            signal.SIGTERM: self._end,
            signal.SIGHUP: self._hang_up,
        }
        previous = {number: signal.signal(number, answer) for number, answer in answers.items()}
        try:
            yield
        finally:
            for number, answer in previous.items():
                signal.signal(number, answer)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        """End the server if its terminal was closed; otherwise poll the registry now."""
        if self._had_terminal and not _has_terminal():
            self.should_exit = True
        elif self._follower is not None:
            self._follower.look_now()

    def _failed(self, error: BaseException) -> None:
        self.problem = error
        self.should_exit = True


def run(server: Server, listener: socket.socket) -> None:
    """Serve on this port until the end.

    Raises:
        RunError: the model's worker failed.
    """
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    asyncio.run(server.serve([listener]))


def _config(app: Any, protocol: Any, options: ServingOptions) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing is made of where a client is
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(options.request_timeout_s) + 1,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True
