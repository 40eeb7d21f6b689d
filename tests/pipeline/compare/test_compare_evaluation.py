"""What an evaluation leaves behind for comparisons."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from pipeline.compare.facts import read_measurement
from pipeline.evaluation.rows import Evaluation, HeldOut, row_digest, save_evaluation
from pipeline.tasks.finetuning import Prediction
from pipeline.tasks.qa import ExtractiveQA


def evaluation(split: Literal["validation", "test"] = "test", *, chose_weights: bool = False) -> Evaluation:
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
        task=task,
        on=HeldOut(corpus="squad", split=split, chose_weights=chose_weights),
        rows=rows,
        predictions=predictions,
        scores=task.score(predictions, rows, intervals=True),
    )


def test_scores_of_rows_are_kept_and_no_text(tmp_path: Path) -> None:
    save_evaluation(tmp_path, evaluation())
    measured = read_measurement(tmp_path)
    assert measured is not None
    assert (measured.metric, measured.row_metric, measured.corpus) == ("f1", "f1", "squad")
    assert measured.row_scores.tolist() == [1, 0, 0]
    assert measured.metrics["f1"].value == pytest.approx(np.mean([1, 0, 0]))
    assert len(set(measured.rows)) == 3
    text = (tmp_path / "evaluation.json").read_text()
    assert not any(word in text for word in ("Anna", "lantern", "Who"))
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation.json"]


def test_validation_rows_are_called_so_and_known_to_have_chosen_the_weights(tmp_path: Path) -> None:
    found = evaluation("validation", chose_weights=True)
    assert found.metrics["val/f1"] == pytest.approx(1 / 3)
    assert found.on.in_words(3) == "3 validation rows of squad, on which the weights were selected"
    assert evaluation().on.in_words(1) == "1 test row of squad"
    save_evaluation(tmp_path, found)
    measured = read_measurement(tmp_path)
    assert measured is not None
    assert (measured.prefix, measured.chose_weights) == ("val", True)
    assert measured.metrics["f1"].n_rows == 3


def test_an_old_record_that_calls_validation_rows_test_is_read_as_what_it_is(tmp_path: Path) -> None:
    save_evaluation(tmp_path, evaluation("validation"))
    file = tmp_path / "evaluation.json"
    record = json.loads(file.read_text())
    del record["prefix"], record["chose_weights"]
    for score in record["metrics"].values():
        del score["n_rows"]
    file.write_text(json.dumps(record))
    measured = read_measurement(tmp_path)
    assert measured is not None
    assert (measured.prefix, measured.chose_weights) == ("val", True)


def test_a_metric_that_is_0_on_all_rows_is_said_to_tell_nothing(tmp_path: Path) -> None:
    found = evaluation()
    assert found.cautions == []
    wrong = [Prediction(text="nobody")] * 3
    found = replace(found, predictions=wrong, scores=found.task.score(wrong, found.rows, intervals=True))
    assert found.cautions == ["f1 is 0 on all rows, so it cannot distinguish models here"]


def test_a_rows_digest_is_of_its_content_not_of_its_order() -> None:
    assert row_digest({"a": 1, "b": "ä"}) == row_digest({"b": "ä", "a": 1})
    assert row_digest({"a": 1}) != row_digest({"a": 2})
    assert row_digest({"a": "\ud800"})
