"""What people look at after a fine-tuning: texts lie in the run's folder, and go nowhere unless they may."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.evaluation.rows import ERRORS, SAMPLES, Evaluation, HeldOut, log_evaluation
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.finetuning import FinetuneTask, Prediction, Row
from pipeline.tasks.qa import ExtractiveQA
from pipeline.tracking import Run

ON = HeldOut(corpus="reviews", split="test")
REVIEWS = [{"text": f"private review {i}", "label": "good|fine" if i % 2 else "bad"} for i in range(4)]
QUESTIONS = [
    {"context": f"private room {i}", "question": "where?", "answers": {"text": ["room"], "answer_start": [8]}}
    for i in range(3)
]


class Recorder(Run):
    """Keeps the texts that would go to MLflow."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def log_text(self, text: str, artifact: str) -> None:
        self.texts[artifact] = text


def logged(
    task: FinetuneTask,
    rows: Sequence[Row],
    predictions: Sequence[Prediction],
    folder: Path,
    *,
    show_text: bool,
) -> dict[str, str]:
    recorder = Recorder()
    evaluation = Evaluation(task=task, on=ON, rows=rows, predictions=predictions, scores={})
    log_evaluation(recorder, evaluation, folder, show_text=show_text)
    return recorder.texts


def classified(folder: Path, *, show_text: bool) -> dict[str, str]:
    probabilities = {"probabilities": {"bad": 0.9, "good|fine": 0.1}}
    made = [Prediction(text="bad", confidence=0.9 - i / 10, details=probabilities) for i in range(4)]
    return logged(TextClassification().fit(REVIEWS), REVIEWS, made, folder, show_text=show_text)


def table(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_texts_lie_in_the_folder_alone_and_the_table_of_all_has_labels_and_numbers(tmp_path: Path) -> None:
    texts = classified(tmp_path, show_text=False)
    assert texts.keys() == {ERRORS}
    assert "private" not in texts[ERRORS]
    assert table(texts[ERRORS]) == [
        "| row | score | confidence | prediction | target |",
        "| --- | --- | --- | --- | --- |",
        "| 1 | 0.000 | 0.800 | bad | good\\|fine |",
        "| 3 | 0.000 | 0.600 | bad | good\\|fine |",
    ]
    assert "log_corpus_text=false" in texts[ERRORS]
    own = table((tmp_path / ERRORS).read_text())
    assert own[0] == "| row | score | confidence | input | prediction | target |"
    assert own[2] == "| 1 | 0.000 | 0.800 | private review 1 | bad (0.80) | good\\|fine |"
    assert (tmp_path / SAMPLES).read_text().count("private review") == 4


def test_where_texts_may_be_shown_both_go_to_mlflow_as_they_are(tmp_path: Path) -> None:
    texts = classified(tmp_path, show_text=True)
    assert texts == {
        ERRORS: (tmp_path / ERRORS).read_text(),
        "samples/test.md": (tmp_path / SAMPLES).read_text(),
    }


def test_of_a_task_whose_answers_are_texts_only_numbers_are_told(tmp_path: Path) -> None:
    made = [Prediction(text="private", confidence=0.5), Prediction(text="room"), Prediction(text="")]
    texts = logged(ExtractiveQA(), QUESTIONS, made, tmp_path, show_text=False)
    assert table(texts[ERRORS])[2:] == ["| 0 | 0.000 | 0.500 |", "| 2 | 0.000 |  |"]
    own = (tmp_path / ERRORS).read_text()
    assert "| where? [private room 0] | private (0.50) | room |" in own


@pytest.mark.parametrize("show_text", [True, False])
def test_without_mistakes_there_is_no_table(tmp_path: Path, show_text: bool) -> None:
    made = [Prediction(text="room")] * 3
    texts = logged(ExtractiveQA(), QUESTIONS, made, tmp_path, show_text=show_text)
    assert texts[ERRORS] == "Every prediction is correct.\n"
