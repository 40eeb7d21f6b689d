"""What the harness gives becomes metrics with intervals, and a score for each row."""

import json
from pathlib import Path

import pytest

from pipeline.compare.facts import read_measurement
from pipeline.harness.results import RESULTS, HarnessResults

SAMPLES = [
    {"acc": float(i % 4 > 0), "prompt_hash": f"p{i}", "target_hash": "t", "filter": "none"} for i in range(40)
]
FOUND = {
    "results": {
        "pairs": {"alias": "pairs", "acc,none": 0.75, "acc_stderr,none": 0.05},
        "text": {
            "bits_per_byte,none": 1.5,
            "bits_per_byte_stderr,none": "N/A",
            "m,strict": 2.0,
            "f1,none": 0.5,
            "f1_stderr,none": 0.05,
        },
    },
    "n-samples": {"pairs": {"effective": 40}, "text": {"effective": 3}},
    "n-shot": {"pairs": 2},
    "higher_is_better": {"text": {"bits_per_byte": False}},
    "samples": {"pairs": SAMPLES, "text": [{"bits_per_byte": (1.0, 2)}]},
}


def test_each_metric_has_its_standard_error_and_its_interval() -> None:
    metrics = HarnessResults.read(FOUND, ["pairs", "text"]).metrics
    assert metrics["test/pairs/acc"] == 0.75
    assert metrics["test/pairs/acc_stderr"] == 0.05
    assert metrics["test/pairs/acc_low"] == pytest.approx(0.598, abs=5e-4)  # Wilson's
    assert metrics["test/text/f1_low"] == pytest.approx(0.402)
    assert metrics["test/text/bits_per_byte"] == 1.5
    assert metrics["test/text/m.strict"] == 2.0
    assert "test/text/bits_per_byte_low" not in metrics
    assert metrics["test/accuracy"] == 0.75


def test_the_interval_of_a_share_of_few_rows_stays_between_0_and_1() -> None:
    few = {"results": {"a": {"acc,none": 0.9, "acc_stderr,none": 0.1}}, "n-samples": {"a": {"effective": 10}}}
    metrics = HarnessResults.read(few, ["a"]).metrics
    assert metrics["test/a/acc_high"] == pytest.approx(0.982, abs=5e-4)


def test_the_run_folder_holds_the_results_and_what_each_row_scored_for_compare(tmp_path: Path) -> None:
    results = HarnessResults.read(FOUND, ["pairs", "text"])
    results.save(tmp_path)
    measurement = read_measurement(tmp_path)
    assert measurement is not None
    assert (measurement.corpus, measurement.metric) == ("pairs+text", "accuracy")
    assert measurement.row_scores.tolist() == [row["acc"] for row in SAMPLES]
    assert len(set(measurement.rows)) == 40
    kept = json.loads((tmp_path / RESULTS).read_text())
    assert kept["results"] == FOUND["results"]
    assert "samples" not in kept
