import json
from typing import Any

import pytest

from benchmarks import tracking_outage, tracking_overhead
from benchmarks.tracking_overhead import N_WARMUP_STEPS, figures, interval, tracked_blocks
from benchmarks.tracking_training import Steps

TINY = "debug=quick tokenizer.vocab_size=400 trainer.precision=fp32 trainer.log_every_steps=2"

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().out.splitlines()
    return dict(json.loads(line))


@pytest.mark.slow
def test_the_overhead_is_a_ratio_of_the_same_steps_with_its_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tracking_overhead.main(["--overrides", TINY, "--steps", "6", "--turns", "2"]) == 0
    found = printed(capsys)
    for name in ("step", "cpu"):
        assert 0 < found[name]["low"] <= found[name]["median"] <= found[name]["high"]
    assert found["longest_call_ms"] > 0
    assert 0 < found["call_share"] < 1
    assert found["writer_start_cpu_s"] > 0


@pytest.mark.slow
def test_after_an_outage_all_points_are_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking_outage, "FAULTS", ("undisturbed", "500s"))
    words = ["--overrides", TINY, "--steps", "40"]
    assert tracking_outage.main(words) == 0
    faults = printed(capsys)["faults"]
    assert list(faults) == ["undisturbed", "500s"]
    for fault, found in faults.items():
        assert found["equal"], fault
        assert found["longest_call_ms"] > 0
        assert 0 < found["call_share"]["high"] < 1
        assert found["end_s"] > 0
    assert faults["500s"]["n_left"] > 0


def test_blocks_are_paired_tracked_to_untracked_whichever_came_first() -> None:
    order = tracked_blocks(2)
    assert order == [False, True, True, False]
    warm_up = [100.0] * (N_WARMUP_STEPS - 1)
    seconds = [*warm_up, 1.0, 1.0, 2.0, 2.0, 6.0, 6.0, 3.0, 3.0]
    found = figures(Steps(seconds, seconds), order, 2)
    assert found["step"] == found["cpu"] == {"median": 2.0, "low": 2.0, "high": 2.0}


def test_an_interval_holds_its_median() -> None:
    assert interval([1.0, 1.0, 1.0]) == {"median": 1.0, "low": 1.0, "high": 1.0}
    found = interval([1.0, 2.0, 9.0])
    assert found == {"median": 2.0, "low": 1.0, "high": 9.0}


@pytest.mark.parametrize("benchmark", [tracking_overhead, tracking_outage])
def test_a_mistake_in_the_configuration_is_answered_in_one_line(
    benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark.main(["--overrides", "trainer.precison=bf16"]) == 2
    assert "did you mean precision?" in capsys.readouterr().err
