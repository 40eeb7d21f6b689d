import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from pipeline.config.sizes import smaller_sizes
from pipeline.training.callbacks import forecast
from pipeline.training.callbacks.forecast import Forecast, describe_forecast
from tests.pipeline.toy import ToyTraining

pytestmark = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning")

SMALL = {"d_model": 256, "n_layers": 6, "n_heads": 8, "max_seq_len": 256}


class Clock:
    """A clock on which a training batch takes 2 s and a validation batch 20 s."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Ticking(Callback):
    """Advances a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_batch_end(self, *_: Any) -> None:
        self._clock.now += 2.0

    def on_validation_batch_start(self, *_: Any) -> None:
        self._clock.now += 20.0


@pytest.mark.parametrize(
    ("max_steps", "val_every_steps", "expected"),
    [
        (12, 5, [("0:22", "9")]),  # 9 steps of 2 s, 3 validations of 2 batches: (9 + 3 * 2 / 3) * 2 s
        (12, 1, [("0:31", "9")]),  # 9 steps, 10 validations, one of them next; no validation is measured
        (12, 3, [("0:23", "9")]),  # 9 steps, 4 validations
        (3, 5, []),  # the last step is the last one that is measured
    ],
)
def test_a_training_says_once_how_long_it_will_take(
    max_steps: int,
    val_every_steps: int,
    expected: list[tuple[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(forecast, "time", clock)
    extra = (Ticking(clock), Forecast(dict))
    ToyTraining(folder=tmp_path, extra=extra, max_steps=max_steps, val_every_steps=val_every_steps).fit()
    assert re.findall(r"Time +about (\d:\d\d) for (\d+) steps", capsys.readouterr().err) == expected


def test_a_long_training_names_the_largest_size_that_takes_three_minutes() -> None:
    sizes = partial(smaller_sizes, SMALL, 2048)
    assert list(sizes()) == ["tiny", "nano"]
    assert sizes()["tiny"] == pytest.approx(0.2, abs=0.03)
    assert describe_forecast(8.0, 100, sizes) == "about 13:20 for 100 steps; size=tiny would take about 2:54"
    assert "size=nano" in describe_forecast(80.0, 100, sizes)
    assert "size" not in describe_forecast(5.0, 100, sizes)


def test_where_no_size_is_small_enough_fewer_steps_are_named() -> None:
    text = describe_forecast(9.0, 1000, dict)
    assert text == "about 2:30:00 for 1,000 steps; trainer.max_steps=20 would take about 3:00"


def test_a_budget_that_ends_sooner_is_what_is_told() -> None:
    text = describe_forecast(1.0, 1000, dict, budget_s=30.0)
    assert text == "about 0:30, the time budget; all 1,000 steps would take 16:40"
