"""Nobody listens any more: the run is saved, its end is recorded, and the exit code is that of the signal."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.test_interruptions import GOOD, LONG, ROOT, WORDS, load_step, status

LIMIT_S = 240


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts the pipeline in a session of its own, with SIGHUP as a terminal's shell leaves it."""
    (tmp_path / "my.txt").write_text(GOOD)
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    started: list[subprocess.Popen[bytes]] = []

    def call(*words: str, talk: int) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=talk,
            stderr=talk,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 - one thread
        )
        os.close(talk)
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()


def open_terminal() -> tuple[int, int]:
    """The two ends of a terminal that has a size: without one, a progress bar shows nothing."""
    terminal, inner = pty.openpty()
    termios.tcsetwinsize(inner, (24, 100))
    return terminal, inner


def read_until(file: int, mark: bytes) -> None:
    """Read what the process says until it has said this."""
    said = b""
    while mark not in said:
        more = os.read(file, 65536)
        assert more, f"the process ended before it said {mark!r}: {said.decode()}"
        said += more


def assert_saved(folder: Path) -> None:
    assert status(folder) == "KILLED"
    assert load_step(folder / "runs/mine/checkpoints/last.ckpt") > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_training_whose_reader_is_gone_is_saved(start, number: signal.Signals, tmp_path: Path) -> None:
    """`make pretrain 2>&1 | tee log`, where Ctrl-C ends `tee` first."""
    reader, writer = os.pipe()
    process = start(*LONG, "tracking=off", talk=writer)
    read_until(reader, b"pretrain causal_lm: step")
    os.close(reader)
    process.send_signal(number)
    assert process.wait(LIMIT_S) == 128 + number
    assert_saved(tmp_path)


@pytest.mark.slow
def test_a_training_whose_terminal_is_closed_is_saved(start, tmp_path: Path) -> None:
    """Window closed, ssh dropped: writing fails, and SIGHUP comes from the shell and from the kernel."""
    terminal, inner = open_terminal()
    process = start(*LONG, "tracking=off", talk=inner)
    read_until(terminal, b", loss ")  # a step was made
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.wait(LIMIT_S) == 128 + signal.SIGHUP
    assert_saved(tmp_path)


@pytest.mark.slow
def test_a_training_that_nobody_reads_ends_as_any_other(start, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start("pretrain", *WORDS, "tracking=off", talk=writer)
    assert process.wait(LIMIT_S) == 0
    assert status(tmp_path) == "FINISHED"


@pytest.mark.slow
def test_a_pipeline_whose_terminal_is_closed_saves_its_step(start, tmp_path: Path) -> None:
    terminal, inner = open_terminal()
    words = (
        "pipeline",
        "tasks=[classify]",
        "debug=quick",
        "tracking=off",
        "pretrain.trainer.max_steps=100000",
        "pretrain.trainer.compile=false",
    )
    process = start(*words, "pretrain.trainer.val_every_steps=10", talk=inner)
    read_until(terminal, b", loss ")  # a step was made
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    assert process.wait(LIMIT_S) == 128 + signal.SIGHUP
    (run,) = (tmp_path / "runs").glob("pretrain*")
    assert json.loads((run / "run.json").read_text())["status"] == "KILLED"
    assert (run / "checkpoints/last.ckpt").exists()
