"""Simpler models on the rows of a classifier."""

from typing import Any

import numpy as np
import pytest

from pipeline.tasks.classify import TextClassification, baseline

WORDS = {"good": ("fine", "nice", "sunny"), "bad": ("grim", "dull", "wet")}


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    """Three rows of four are good; a word tells."""
    made = []
    for i in range(start, start + n):
        label = "bad" if i % 4 == 0 else "good"
        made.append({"text": f"It was a {WORDS[label][i % 3]} day, number {i}.", "label": label})
    return made


def test_the_commonest_label_and_a_linear_model_score_what_they_must_on_the_same_rows() -> None:
    train, asked = rows(60), rows(20, 100)
    task = TextClassification().fit(train)
    found = {name: make() for name, make in task.baselines(train, asked).items()}
    assert found["majority"].mean() == 0.75
    assert found["linear"].tolist() == [1.0] * 20
    assert TextClassification(linear_baseline=False).fit(train).baselines(train, asked).keys() == {"majority"}


def test_a_linear_model_reads_characters_where_words_have_no_spaces_and_both_texts_of_a_pair() -> None:
    labels = np.arange(40) % 2
    chinese = [["今天天气很好" if label else "今天下大雨了", f"第{i}行"] for i, label in enumerate(labels)]
    assert baseline.linear(chinese, labels, [["天气好", "x"], ["下雨", "x"]]).tolist() == [1, 0]
    pairs = [["the same", "a cat" if label else "no dog"] for label in labels]
    assert baseline.linear(pairs, labels, [["the same", "cat"], ["the same", "dog"]]).tolist() == [1, 0]


def test_rows_sorted_by_label_are_seen_evenly_where_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baseline, "MAX_ROWS", 20)
    labels = np.repeat([0, 1, 2, 3], 25)
    texts = [[f"word{label}"] for label in labels]
    assert baseline.linear(texts, labels, [[f"word{label}"] for label in range(4)]).tolist() == [0, 1, 2, 3]


def test_rows_of_several_labels_have_no_baseline() -> None:
    several = [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}]
    assert TextClassification().fit(several).baselines(several, several) == {}
