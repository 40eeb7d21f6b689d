import errno
import io
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.stdio import SafeStream, show_logs_as_notes

ROOT = Path(__file__).parent.parent.parent


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cannot_be_written_is_dropped_and_the_first_reason_kept() -> None:
    stream = SafeStream(FullDisk())
    assert stream.write("words") == 5
    assert stream.problem is not None
    assert stream.problem.errno == errno.ENOSPC


def command(arguments: str, **environ: str) -> "subprocess.CompletedProcess[bytes]":
    """A command of the shell that calls the pipeline, from any folder and in a fresh environment."""
    return subprocess.run(
        ["bash", "-c", f"{sys.executable} -m pipeline {arguments}"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
def test_results_that_nobody_reads_give_the_code_of_a_broken_pipe_and_no_trace() -> None:
    done = command("show-config | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_results_that_a_full_disk_refuses_are_an_error() -> None:
    done = command("show-config > /dev/full")
    assert done.returncode == 2
    assert b"standard output cannot be opened or written: No space left on device\nhint: " in done.stderr


def test_a_closed_standard_error_changes_no_exit_code() -> None:
    assert command("show-config data=no_such < /dev/null 2>&-").returncode == 2


@pytest.mark.slow
def test_letters_that_the_terminal_does_not_have_are_shown_as_escapes() -> None:
    done = command("show-config 'prompts=[Grüße, 你]'", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert "- Grüße\n- \\u4f60\n".encode("latin-1") in done.stdout


def test_the_streams_are_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    assert main(["no-such-stage"]) == 2
    assert (sys.stdout, sys.stderr) == before


def test_what_a_library_logs_is_a_note_that_names_it_and_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    show_logs_as_notes()
    show_logs_as_notes()
    logging.getLogger("sacrebleu").warning("It looks like this")
    logging.getLogger("sacrebleu").info("unimportant")
    logging.warning("of nobody")
    logging.getLogger("pipeline.tracking").warning("tracking: 3 records wait")
    assert capsys.readouterr().err.splitlines() == [
        "note: It looks like this (sacrebleu)",
        "note: of nobody (root)",
        "tracking: 3 records wait",
    ]
