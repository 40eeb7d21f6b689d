"""A working folder of its own, and the pipeline called in it as a user calls it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import main

#: Seconds instead of minutes, and no tracking.
QUICK = ("debug=quick", "tracking=off")


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object that is the last line of standard output."""
        return dict(json.loads(self.out.splitlines()[-1]))

    @property
    def error(self) -> str:
        """The one line of an error."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert lines[0] == self.err.splitlines()[-1], self.err
        return lines[0]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Calls `python -m pipeline` with these words, in a folder that is empty at first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEBUG", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*words: str) -> Outcome:
        capfd.readouterr()
        code = main([*words, "--json"])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A text large enough for a tiny run."""
    file = tmp_path / "poem.txt"
    file.write_text(
        "".join(f"Line {i} of a long poem about nothing much, {i * i} times.\n" for i in range(400))
    )
    return file
