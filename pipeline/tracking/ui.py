"""Serve MLflow's pages for a local store or a database, on this machine only (`make ui`)."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from pipeline.errors import TrackingError
from pipeline.signals import listening
from pipeline.tracking.links import charts_url, home_url
from pipeline.tracking.moved import follow_project
from pipeline.tracking.options import Store, TrackingOptions, resolve_store
from pipeline.tracking.problems import explain
from pipeline.tracking.store import create_sqlite, quieten_mlflow

HOST = "127.0.0.1"
DEFAULT_PORT = 5000
_START_LIMIT_S = 120.0
_STOP_LIMIT_S = 10.0
_LAST_PORT = 65_535
#: Time, level and module at the beginning of a line of the server's log.
_LOG_PREFIX = re.compile(r"^[\d/]+ [\d:]+ [A-Z]+ [\w.]+: ", re.MULTILINE)


def serve_ui(
    options: TrackingOptions,
    *,
    project_folder: Path,
    port: int = DEFAULT_PORT,
    environ: Mapping[str, str],
    say: Callable[[str], None] = print,
) -> None:
    """Serve MLflow's pages until Ctrl-C, and print their URL, and open it if there is a browser.

    If the store is a server, which has its own pages, only print their URL.

    Raises:
        TrackingError: if the port is invalid or in use, or the server does not start.
    """
    store = resolve_store(options.uri, project_folder=project_folder, environ=environ)
    if store.uri.startswith(("http://", "https://")):
        _show(home_url(store.public_uri), environ, say)
        return
    _check_port(port)
    say("Starting MLflow (about 10 s) ...")
    with running_server(store, port=port, environ=environ) as server:
        address = f"http://{HOST}:{port}"
        found = _experiment_id(address, options.experiment)
        _show(charts_url(address, found) if found else home_url(address), environ, say)
        say("Press Ctrl-C to stop it.")
        _wait_until_stopped(server)


@contextmanager
def running_server(
    store: Store, *, port: int, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run an MLflow server for a database store, and end it with all its processes on exit."""
    if store.sqlite_file is not None and not store.sqlite_file.exists():
        quieten_mlflow()
        create_sqlite(store)
    follow_project(store)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", store.uri]
    if store.artifact_root is not None:
        command += ["--artifacts-destination", store.artifact_root.as_uri()]
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS": "false",
    }
    with tempfile.TemporaryFile() as talk:
        server = subprocess.Popen(
            command,
            env={**environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=talk,
            start_new_session=True,  # so that one signal ends it and all its workers
        )
        try:
            if not _answers(server, port):
                talk.seek(0)
                raise _did_not_start(talk.read().decode(errors="replace"), store)
            yield server
        finally:
            _stop(server)


def _check_port(port: int) -> None:
    if not 0 < port <= _LAST_PORT:
        raise TrackingError(
            f"{port} is not a valid port", f"1 to {_LAST_PORT}", "choose another port: make ui PORT=5001"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise TrackingError(
                f"port {port} on {HOST} cannot be used ({error.strerror})",
                "a free port",
                f"free the port, or choose another: make ui PORT={port % _LAST_PORT + 1}",
            ) from None


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server responds; return False if it ends or takes too long."""
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    return False


def _did_not_start(talk: str, store: Store) -> TrackingError:
    problem = explain(RuntimeError(_LOG_PREFIX.sub("", talk)), store)
    if problem.remedy:
        return TrackingError(problem.text, problem.expected, problem.remedy)
    lines = talk.strip().splitlines()
    return TrackingError(
        f"MLflow's server did not start: {lines[-1] if lines else 'no response'}",
        f"a response within {_START_LIMIT_S:.0f} s",
        "run `mlflow server` to see its complete output",
    )


def _experiment_id(address: str, name: str) -> str | None:
    query = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(name, safe='')}"
    try:
        with urllib.request.urlopen(query, timeout=10) as answer:
            return str(json.load(answer)["experiment"]["experiment_id"])
    except urllib.error.HTTPError:  # nothing has been tracked yet
        return None


def _show(address: str, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    say(address)
    if sys.platform == "darwin" or environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)


def _wait_until_stopped(server: subprocess.Popen[bytes]) -> None:
    """Wait for a signal, or for the server to end."""
    with suppress(KeyboardInterrupt), listening(signal.default_int_handler):
        server.wait()


def _stop(server: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sign)
        except ProcessLookupError:
            break
        try:
            server.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            continue
        break
    server.wait()
