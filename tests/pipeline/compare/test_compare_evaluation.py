"""What an evaluation leaves behind for comparisons."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.compare.facts import read_measurement
from pipeline.evaluation import Evaluation, row_digest, save_evaluation
from pipeline.tasks.finetuning import Prediction
from pipeline.tasks.qa import ExtractiveQA


def evaluation() -> Evaluation:
    task = ExtractiveQA()
    rows = [
        {
            "context": "Anna has the lantern.",
            "question": "Who?",
            "answers": {"text": [text], "answer_start": [0]},
        }
        for text in ("Anna", "the lantern", "Zoe")
    ]
    predictions = [Prediction(text="Anna") for _ in rows]
    return Evaluation(
        task=task, rows=rows, predictions=predictions, scores=task.score(predictions, rows, intervals=True)
    )


def test_scores_of_rows_are_kept_and_no_text(tmp_path: Path) -> None:
    save_evaluation(tmp_path, evaluation(), corpus="squad", split="test")
    measured = read_measurement(tmp_path)
    assert measured is not None
    assert (measured.metric, measured.row_metric, measured.corpus) == ("f1", "f1", "squad")
    assert measured.row_scores.tolist() == [1, 0, 0]
    assert measured.metrics["f1"].value == pytest.approx(np.mean([1, 0, 0]))
    assert len(set(measured.rows)) == 3
    text = (tmp_path / "evaluation.json").read_text()
    assert not any(word in text for word in ("Anna", "lantern", "Who"))
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_rows_digest_is_of_its_content_not_of_its_order() -> None:
    assert row_digest({"a": 1, "b": "ä"}) == row_digest({"b": "ä", "a": 1})
    assert row_digest({"a": 1}) != row_digest({"a": 2})
    assert row_digest({"a": "\ud800"})
