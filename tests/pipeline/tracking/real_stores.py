"""Real MLflow servers and a real PostgreSQL, each started and stopped by the test that asks for it."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from benchmarks.tracking_proxy import free_port
from tests.waiting import wait_until

ADMIN, ADMIN_PASSWORD = "ann", "correct horse battery"
LIGHT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS": "false",
}


@contextmanager
def basic_auth_server(folder: Path) -> Iterator[str]:
    """The address of an MLflow server that asks for user and password."""
    port = free_port()
    (folder / "auth.ini").write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {ADMIN}\n"
        f"admin_password = {ADMIN_PASSWORD}\n"
    )
    settings = {"MLFLOW_AUTH_CONFIG_PATH": f"{folder}/auth.ini", "MLFLOW_FLASK_SERVER_SECRET_KEY": "test"}
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri"]
    command += [f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "server-artifacts")]
    with ended_at_last(command, {**os.environ, **LIGHT, **settings}) as server:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def ended_at_last(command: list[str], environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is ended with it."""
    with tempfile.TemporaryFile() as talk:
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=talk, stderr=talk, start_new_session=True
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(address, timeout=30):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    wait_until(answers, f"{address} answers", process=server, pause_s=0.2)


def postgres_program(name: str) -> str:
    """The path of one of PostgreSQL's programs; skips the test where there is none."""
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    program = str(sorted(found)[-1]) if found else shutil.which(name)
    if program is None:
        pytest.skip(f"PostgreSQL's {name} is not installed")
    return program


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a fresh PostgreSQL database, with a password."""
    initdb, server, psql = (postgres_program(name) for name in ("initdb", "postgres", "psql"))
    user = _other_user() if os.getuid() == 0 else None  # it refuses to run as root
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="prelude-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        as_user: dict[str, Any] = {}
        if user is not None:
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        (folder / "password").write_text(ADMIN_PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        make = [initdb, "-D", folder / "data", "-U", ADMIN, "-A", "scram-sha-256", "-E", "UTF8"]
        make += ["--pwfile", folder / "password", "--no-sync", "--locale=C"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **as_user)
        options = {"listen_addresses": "127.0.0.1", "port": port, "fsync": "off"}
        options |= {"unix_socket_directories": folder, "dynamic_shared_memory_type": "mmap"}
        process = subprocess.Popen(
            [server, "-D", folder / "data", *(f"--{key}={value}" for key, value in options.items())],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user,
        )  # fmt: skip
        try:
            _create_database(psql, port)
            yield f"postgresql://{ADMIN}:{quote(ADMIN_PASSWORD)}@127.0.0.1:{port}/mlflow"
        finally:
            process.send_signal(signal.SIGQUIT)  # at once, with all that belongs to it
            process.wait()


def _other_user() -> pwd.struct_passwd:
    names = [entry.pw_name for entry in pwd.getpwall()]
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


def _create_database(psql: str, port: int) -> None:
    command = [
        psql,
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-U",
        ADMIN,
        "-c",
        "create database mlflow",
        "postgres",
    ]
    environ = {**os.environ, "PGPASSWORD": ADMIN_PASSWORD}

    def is_made() -> bool:
        return subprocess.run(command, env=environ, capture_output=True, check=False).returncode == 0

    wait_until(is_made, "PostgreSQL has made a database")
