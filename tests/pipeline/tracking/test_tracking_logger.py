"""What a training logs arrives at the number of optimizer steps done."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.tracking import Run
from pipeline.tracking.logger import TrackingLogger
from tests.pipeline.toy import ToyTraining


class Recorder(Run):
    """A run that keeps what it is told."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int]] = []

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self.points += [(key, step) for key in values]

    def steps_of(self, key: str) -> list[int]:
        return [step for name, step in self.points if name == key]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_points_stand_at_the_number_of_optimizer_steps_done(tmp_path: Path, accumulate: int) -> None:
    run = Recorder()
    training = ToyTraining(
        folder=tmp_path, max_steps=6, val_every_steps=3, log_every_steps=2, accumulate=accumulate
    )
    training.trainer(TrackingLogger(run)).fit(training.module(), training.data())
    assert run.steps_of("train/loss") == [2, 4, 6]
    assert run.steps_of("tokens_per_second") == [2, 4, 6]
    assert run.steps_of("val/loss") == [3, 6]
