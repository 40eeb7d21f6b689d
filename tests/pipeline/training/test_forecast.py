import re
from functools import partial
from pathlib import Path

import pytest

from pipeline.config.sizes import smaller_sizes
from pipeline.training.callbacks.forecast import Forecast, describe_forecast
from tests.pipeline.toy import ToyTraining

pytestmark = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning")

SMALL = {"d_model": 256, "n_layers": 6, "n_heads": 8, "max_seq_len": 256}


def test_a_training_says_once_how_long_it_will_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ToyTraining(folder=tmp_path, extra=(Forecast(dict),), max_steps=12).fit()
    assert re.findall(r"Time +about \d:\d\d for (\d+) steps", capsys.readouterr().err) == ["7"]


def test_a_training_that_ends_with_the_measured_steps_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ToyTraining(folder=tmp_path, extra=(Forecast(dict),), max_steps=5).fit()
    assert "Time" not in capsys.readouterr().err


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
