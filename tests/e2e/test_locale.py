"""A locale without our letters: everything is kept in UTF-8, and printing ends nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TEXT = "".join(f"Zeile {i} über ein langes Gedicht, 你好, {i * i} mal.\n" for i in range(200))
#: ASCII alone: what GBK or Latin-1 do to some letters, this does to all.
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def call(folder: Path, *words: str) -> "subprocess.CompletedProcess[bytes]":
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **ASCII}
    command = [sys.executable, "-m", "pipeline", *words]
    encoded = [word.encode() for word in command]
    return subprocess.run(encoded, cwd=folder, env=environ, capture_output=True, check=False)


@pytest.mark.slow
def test_a_model_is_trained_recorded_and_read_in_a_locale_without_its_letters(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    words = (
        "debug=quick",
        "tokenizer=bytes",
        "data=files",
        "data.train=my.txt",
        "name=mine",
        "packing=concat",
    )
    trained = call(tmp_path, "pretrain", *words, "name=mine", "prompts=[über 你]", "log_corpus_text=true")
    assert trained.returncode == 0, trained.stderr.decode()
    config = (tmp_path / "runs/mine/bundles/best/config.yaml").read_text(encoding="utf-8")
    assert "über 你" in config
    written = call(tmp_path, "generate", "bundle=mine", "prompts=[über 你]")
    assert written.returncode == 0, written.stderr.decode()
    assert written.stdout.startswith(b"\\xfcber \\u4f60")


@pytest.mark.slow
def test_a_name_that_the_locale_cannot_write_is_an_error_with_a_hint(tmp_path: Path) -> None:
    done = call(tmp_path, "doctor", "runs_dir=Läufe")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 2), done.stderr.decode()
    assert b"has characters that the locale's encoding, ascii, cannot represent" in done.stderr


def test_an_argument_that_is_text_in_no_encoding_is_refused(tmp_path: Path) -> None:
    words = [sys.executable.encode(), b"-m", b"pipeline", b"show-config", b"prompts=[\xff\xfe]"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"is not valid text in utf-8" in done.stderr
