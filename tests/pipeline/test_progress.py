"""The progress of a long computation: a bar on a terminal, lines elsewhere, nothing for a short one."""

import contextlib
import io
from pathlib import Path

import pytest

from pipeline import load_bundle, progress
from pipeline.progress import Progress
from pipeline.tasks.writing import Answer, Room

FIXTURES = Path(__file__).parents[1] / "fixtures" / "version_0_1"


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


@pytest.mark.parametrize("is_shown", [True, False])
def test_predictions_are_shown_only_where_a_user_waits_for_them(
    is_shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "time", Clock(6.0))
    given = [[1, 2, 3], [4, 5, 6], [7, 8]]
    with progress.showing("predict") if is_shown else contextlib.nullcontext():
        assert list(progress.batches(given, 8)) == given
    expected = "predict: 6 of 8 texts (75%), 0:04 left\n" if is_shown else ""
    assert capsys.readouterr().err == expected


def test_classes_and_written_answers_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "time", Clock(6.0))
    classifier = load_bundle("old-classify", runs_dir=FIXTURES)
    room = Room(left=lambda n_prompt: 8, most_tokens=4, limit=16)
    with progress.showing("evaluate"):
        classifier.predict([{"text": "Emil"}] * 3, batch_size=1)
        room.answers(
            lambda row, reserve: [5], 3, lambda prompts, limit: [Answer(ids=[])] * len(prompts), batch_size=1
        )
    assert capsys.readouterr().err.splitlines() == 2 * ["evaluate: 2 of 3 texts (67%), 0:06 left"]
