"""The worst answers of a fine-tuning, as artifacts of its run."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import load_bundle
from pipeline.evaluation.rows import HeldOut, evaluate_rows
from pipeline.explain import worst
from pipeline.explain.worst import GAP, PAGE, RECORDS, log_worst
from pipeline.tracking import Run

FIXTURES = Path(__file__).parents[2] / "fixtures" / "version_0_1"
TEXT = "Frieda had the secret feather."


class Kept(Run):
    """Keeps what it is told."""

    run_id = "1"  # type: ignore[assignment]

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.metrics: dict[str, float] = {}

    def log_text(self, text: str, artifact: str) -> None:
        self.texts[artifact] = text

    def log_metrics(self, values: Any, step: int) -> None:
        self.metrics.update(values)


def logged(n_rows: int = 3, *, show_text: bool, tracked: Kept | None = None) -> Kept:
    bundle: Any = load_bundle("old-classify", runs_dir=FIXTURES)
    names = bundle.task.label_names
    rows = [{"text": f"{TEXT} {i}", "label": names[i % len(names)]} for i in range(n_rows)]
    on = HeldOut(corpus="c", split="test")
    evaluation = evaluate_rows(bundle.task, bundle.model, bundle.tokenizer, rows, on=on, batch_size=4)
    tracked = tracked or Kept()
    log_worst(
        tracked, evaluation, bundle.model, bundle.tokenizer, show_text=show_text, say=lambda *words: None
    )
    return tracked


def test_the_worst_rows_are_recorded_with_the_largest_gap() -> None:
    kept = logged(show_text=True)
    records = json.loads(kept.texts[RECORDS])
    assert 0 < len(records) <= 3
    assert kept.metrics[GAP] == max(one["gap"] for record in records for one in record["decisions"])
    assert all(f"<h2>Row {record['row']}</h2>" in kept.texts[PAGE] for record in records)
    assert "secret" in kept.texts[PAGE]


def test_without_permission_no_text_of_a_row_is_recorded_but_names_of_classes() -> None:
    kept = logged(show_text=False)
    for text in kept.texts.values():
        assert "secret" not in text
        assert "feather" not in text
    (record, *_) = json.loads(kept.texts[RECORDS])
    assert record["target"]
    assert "token numbers" in kept.texts[PAGE]


def test_when_the_time_is_over_the_page_says_how_many_rows_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worst, "BUDGET_S", -1.0)
    kept = logged(8, show_text=True)
    assert len(json.loads(kept.texts[RECORDS])) == 1
    assert "the time limit for explanations was reached" in kept.texts[PAGE]


def test_what_fails_is_said_and_ends_nothing() -> None:
    class Full(Kept):
        def log_text(self, text: str, artifact: str) -> None:
            raise OSError("no space")

    assert not logged(show_text=True, tracked=Full()).metrics


def test_a_run_that_is_not_tracked_costs_nothing() -> None:
    class Untracked(Kept):
        run_id = None  # type: ignore[assignment]

    assert not logged(show_text=True, tracked=Untracked()).texts
