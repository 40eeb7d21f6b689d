import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training.callbacks import progress
from pipeline.training.callbacks.limits import TimeBudget
from pipeline.training.callbacks.progress import LaggingLoss, ProgressBar
from tests.pipeline.toy import CrashError, StopAfter, ToyTraining

pytestmark = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning")


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


def train(tmp_path: Path, stream: io.StringIO, **options: Any) -> None:
    bar = ProgressBar("pretrain toy", stream=stream)
    ToyTraining(folder=tmp_path, extra=(bar,), **options).fit()


def test_a_bar_ends_with_the_last_step_the_losses_and_the_speed(tmp_path: Path) -> None:
    stream = Terminal()
    train(tmp_path, stream, max_steps=12)
    last = stream.getvalue().split("\r")[-1]
    assert re.search(
        r"pretrain toy 100% \|.*\| 12/12, loss \d\.\d{3}, val \d\.\d{3}, \S+ tokens/s, 0:00 left", last
    )


def test_a_pipe_gets_whole_lines_without_carriage_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "time", Clock(2.0))
    stream = io.StringIO()
    train(tmp_path, stream, max_steps=20, val_every_steps=100)
    text = stream.getvalue()
    assert "\r" not in text
    lines = text.splitlines()
    assert len(lines) == 11  # each tenth of the run, and the end
    assert re.fullmatch(
        r"pretrain toy: step 2/20 \(10%\), loss \d\.\d{3}, \S+ tokens/s, \d+:\d\d left", lines[0]
    )


def test_a_slow_run_gets_a_line_every_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "time", Clock(4.0))
    stream = io.StringIO()
    train(tmp_path, stream, max_steps=60, val_every_steps=1000, save_every_steps=1000)
    steps = [int(step) for step in re.findall(r"step (\d+)/", stream.getvalue())]
    assert all(4.0 * (b - a) <= 20.0 for a, b in pairwise(steps))


def test_nothing_is_drawn_and_no_loss_is_read_between_two_drawings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    monkeypatch.setattr(LaggingLoss, "read", lambda self, loss: reads.append(loss))
    monkeypatch.setattr(progress, "time", Clock(0.01))
    train(tmp_path, Terminal(), max_steps=50, val_every_steps=100, save_every_steps=100)
    assert len(reads) <= 50 * 0.01 / progress.DRAW_EVERY_S + 1  # the last one is at the end


def test_a_long_validation_shows_its_own_progress_and_a_short_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step_s, shown in ((3.0, True), (0.001, False)):
        monkeypatch.setattr(progress, "time", Clock(step_s))
        stream = Terminal()
        train(tmp_path / str(step_s), stream, max_steps=5)
        assert ("validation" in stream.getvalue()) == shown


def test_the_time_left_is_that_of_the_budget_when_it_ends_first() -> None:
    bar = ProgressBar("x", stream=io.StringIO(), time_budget=TimeBudget(30.0))
    bar._started, bar._step, bar._max_steps = progress.time.monotonic() - 100.0, 1, 1000
    assert bar._parts()[-1] == "0:30 left"


def test_a_bar_is_closed_when_the_run_fails(tmp_path: Path) -> None:
    stream = Terminal()
    training = ToyTraining(folder=tmp_path, extra=(ProgressBar("x", stream=stream), StopAfter(3)))
    with pytest.raises(CrashError):
        training.fit()
    assert stream.getvalue().endswith("\n")


def test_the_loss_shown_is_smoothed() -> None:
    loss = LaggingLoss(smoothing=0.5)
    loss.read(torch.tensor(4.0))
    loss.read(torch.tensor(2.0))
    assert loss.value == 3.0
