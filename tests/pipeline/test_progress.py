"""The progress of a long computation: a bar on a terminal, lines elsewhere, nothing for a short one."""

import io

import pytest

from pipeline import progress
from pipeline.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that moves by `step_s` at each look."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 1000.0, step_s

    def monotonic(self) -> float:
        self.now += self.step_s
        return self.now


def shown(stream: io.StringIO, step_s: float, monkeypatch: pytest.MonkeyPatch) -> str:
    """What 2,000 rows in 20 batches show, if each batch takes `step_s`."""
    monkeypatch.setattr(progress, "time", Clock(step_s))
    with Progress("evaluate", total=2000, unit="rows", stream=stream) as bar:
        for _ in range(20):
            bar.advance(100)
    return stream.getvalue()


def test_a_pipe_gets_a_line_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(io.StringIO(), 4.0, monkeypatch).splitlines() == [
        "evaluate: 300 of 2,000 rows (15%), 1:08 left",
        "evaluate: 600 of 2,000 rows (30%), 0:56 left",
        "evaluate: 900 of 2,000 rows (45%), 0:44 left",
        "evaluate: 1,200 of 2,000 rows (60%), 0:32 left",
        "evaluate: 1,500 of 2,000 rows (75%), 0:20 left",
        "evaluate: 1,800 of 2,000 rows (90%), 0:08 left",
    ]


def test_a_short_computation_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(io.StringIO(), 0.4, monkeypatch) == ""
    assert shown(Terminal(), 0.0, monkeypatch).strip("\r ") == ""


def test_a_terminal_gets_a_bar_that_disappears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "BAR_AFTER_S", 0.0)
    text = shown(Terminal(), 0.0, monkeypatch)
    assert "evaluate:   0%" in text
    assert text.split("\r")[-1].strip() == ""
