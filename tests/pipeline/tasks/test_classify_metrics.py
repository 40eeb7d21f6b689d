"""Scores of classifications are those of scikit-learn and torchmetrics; plots show all classes."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torchmetrics.functional.classification import multiclass_calibration_error

from pipeline.tasks.classify.figures import confusion_figure, reliability_figure
from pipeline.tasks.classify.metrics import (
    best_threshold,
    calibration_error,
    macro_f1,
    matthews_correlation,
    multi_label_scores,
    single_label_scores,
)

RNG = np.random.default_rng(0)


def answers(
    n_rows: int, n_classes: int, *, skill: float = 0.6
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    truth = RNG.integers(0, n_classes, n_rows)
    logits = RNG.normal(size=(n_rows, n_classes)) + 2 * skill * np.eye(n_classes)[truth]
    probabilities = torch.from_numpy(logits).softmax(-1)
    return truth, probabilities.argmax(-1).numpy(), probabilities


@pytest.mark.parametrize("n_classes", [2, 5, 77])
def test_scores_of_one_label_are_those_of_the_libraries(n_classes: int) -> None:
    truth, made, probabilities = answers(300, n_classes)
    confidence = probabilities.amax(-1).numpy()
    scores = single_label_scores(truth, made, confidence, n_classes=n_classes, intervals=False)
    error = multiclass_calibration_error(probabilities, torch.from_numpy(truth), n_classes, n_bins=15)
    expected = {
        "accuracy": accuracy_score(truth, made),
        "macro_f1": f1_score(truth, made, average="macro"),
        "mcc": matthews_corrcoef(truth, made),
        "calibration_error": error.item(),
    }
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("truth", "made"), [([0, 0, 2], [0, 0, 2]), ([0, 1, 1], [2, 2, 2]), ([1, 1], [0, 1])]
)
def test_classes_that_do_not_occur_count_as_in_scikit_learn(truth: list[int], made: list[int]) -> None:
    confusion = np.zeros((1, 4, 4))
    np.add.at(confusion[0], (truth, made), 1)
    assert macro_f1(confusion)[0] == pytest.approx(f1_score(truth, made, average="macro"))
    assert matthews_correlation(confusion)[0] == pytest.approx(matthews_corrcoef(truth, made))


def test_every_resample_is_scored_as_scikit_learn_scores_it() -> None:
    truth, made, _ = answers(40, 3)
    rows = RNG.integers(0, 40, (20, 40))
    confusion = np.zeros((20, 3, 3))
    for counts, drawn in zip(confusion, rows, strict=True):
        np.add.at(counts, (truth[drawn], made[drawn]), 1)
    expected = [f1_score(truth[drawn], made[drawn], average="macro") for drawn in rows]
    assert macro_f1(confusion) == pytest.approx(expected)
    expected = [matthews_corrcoef(truth[drawn], made[drawn]) for drawn in rows]
    assert matthews_correlation(confusion) == pytest.approx(expected)


def test_the_interval_of_each_score_holds_its_value() -> None:
    truth, made, probabilities = answers(400, 4)
    confidence = probabilities.amax(-1).numpy()
    scores = single_label_scores(truth, made, confidence, n_classes=4, intervals=True)
    for name in ("accuracy", "macro_f1", "mcc"):
        score = scores[name]
        assert score.low is not None
        assert score.high is not None
        assert score.low < score.value < score.high
        assert 0.05 < score.high - score.low < 0.2


def test_certain_and_right_answers_are_calibrated_and_certain_and_wrong_ones_are_not() -> None:
    sure = np.ones(4)
    assert calibration_error(sure, sure > 0, intervals=False).value == 0
    assert calibration_error(sure, sure < 0, intervals=False).value == 1


def test_scores_of_several_labels_are_those_of_scikit_learn() -> None:
    truth, made = RNG.random((200, 6)) < 0.3, RNG.random((200, 6)) < 0.4
    made[:100] = truth[:100]
    truth[:, 5] = made[:, 5] = False
    scores = multi_label_scores(truth, made, intervals=True)
    expected = {
        "accuracy": accuracy_score(truth, made),
        "micro_f1": f1_score(truth, made, average="micro"),
        "macro_f1": f1_score(truth, made, average="macro", zero_division=0),
    }
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected)
    assert all(score.low < score.value < score.high for score in scores.values())  # type: ignore[operator]


def test_the_best_threshold_is_that_of_a_search_over_all() -> None:
    for _ in range(20):
        truth = RNG.random((30, 3)) < 0.3
        probabilities = np.round(np.clip(truth * 0.3 + RNG.random((30, 3)) * 0.7, 0, 1), 1)
        f1 = {t: f1_score(truth, probabilities >= t, average="micro") for t in np.unique(probabilities)}
        best = max(f1.values())
        expected = max(t for t, value in f1.items() if value == pytest.approx(best))
        assert best_threshold(truth, probabilities) == expected


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 20, 77])
def test_every_class_has_its_name_in_the_confusion_matrix_and_few_their_numbers(n_classes: int) -> None:
    truth, made, _ = answers(500, n_classes)
    names = ["a name with $dollar$ signs", *(f"class {i}" for i in range(1, n_classes))]
    figure = confusion_figure(truth, made, names)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    occupied = len(set(zip(truth.tolist(), made.tolist(), strict=True)))
    assert len(axes.texts) == (occupied if n_classes <= 20 else 0)


def test_names_that_no_font_can_write_become_numbers() -> None:
    figure = confusion_figure(np.array([0, 1]), np.array([0, 1]), ["\U000f0000", "b"])
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["#0", "#1"]


@pytest.mark.slow
def test_the_reliability_diagram_counts_every_answer() -> None:
    confidence = np.array([0.2, 0.5, 0.52, 0.99, 1.0])
    figure = reliability_figure(confidence, np.array([False, True, False, True, True]), error=0.1)
    figure.canvas.draw()
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 5
