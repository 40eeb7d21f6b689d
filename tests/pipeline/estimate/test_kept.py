"""The estimate of a configuration, next to what its training took."""

from pathlib import Path

import pytest

from pipeline.config.compose import compose
from pipeline.estimate.kept import Cost, cost_facts, cost_metrics, keep, kept


@pytest.mark.slow
def test_an_estimate_is_found_by_what_cost_depends_on_and_by_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    estimated = Cost(step_s=0.2, peak_bytes=None)
    keep(compose("estimate", ["size=nano"]), estimated)
    same = ("size=nano", "seed=7", "trainer.max_steps=7", "data=files", "data.train=x", "name=a")
    assert kept(compose("pretrain", same)) == estimated
    for word in ("trainer.batch_size=3", "trainer.compile=true", "size=tiny", "optimizer=adamw"):
        assert kept(compose("pretrain", ["size=nano", word])) is None


def test_a_difference_is_said_in_percent_of_the_estimate_and_what_is_not_known_is_left_out() -> None:
    measured = Cost(step_s=0.22, peak_bytes=6.9e9)
    estimated = Cost(step_s=0.2, peak_bytes=6.77e9)
    assert cost_facts(measured, estimated) == {
        "time per step": "0.22 s, estimated 0.2 s (+10.0% from the estimate)",
        "peak memory": "6.90 GB, estimated 6.77 GB (+1.9% from the estimate)",
    }
    assert cost_metrics(measured, estimated) == {
        "step_s": 0.22,
        "peak_bytes": 6.9e9,
        "estimated_step_s": 0.2,
        "estimated_peak_bytes": 6.77e9,
    }
    on_cpu = Cost(step_s=0.22, peak_bytes=None)
    assert list(cost_facts(on_cpu, estimated)) == ["time per step"]
    assert cost_facts(measured, None) == {}
    assert cost_metrics(measured, None) == {}
