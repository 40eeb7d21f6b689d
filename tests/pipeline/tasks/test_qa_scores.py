"""Exact match and F1 are those of the official scripts; the null threshold is that of a search over all."""

import re
import string
from collections import Counter
from typing import Any

import numpy as np
import pytest
from torchmetrics.functional.text import squad as torchmetrics_squad

from pipeline.tasks.qa.squad import (
    best_null_threshold,
    is_chinese,
    row_scores,
    scores_cmrc,
    scores_v1,
    scores_v2,
)

RNG = np.random.default_rng(0)
WORDS = ["the", "a", "An", "red", "Fox,", "fox", "jumps", "U.S.", "it's", "--", "10%", "  "]


def random_answer(longest: int = 5) -> str:
    return " ".join(RNG.choice(WORDS, RNG.integers(0, longest + 1)))


def slow_normalized(text: str) -> str:
    """As the definition of SQuAD says, letter by letter."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def slow_v2(prediction: str, references: list[str]) -> tuple[int, float]:
    """SQuAD v2.0 as its paper defines it: no answer is an empty text, which F1 finds right or wrong."""
    golds = [gold for gold in references if slow_normalized(gold)] or [""]
    exact = max(int(slow_normalized(gold) == slow_normalized(prediction)) for gold in golds)
    best = 0.0
    for gold in golds:
        true, said = slow_normalized(gold).split(), slow_normalized(prediction).split()
        if not true or not said:
            best = max(best, float(true == said))
            continue
        remaining, shared = Counter(true), 0
        for word in said:
            if remaining[word] > 0:
                remaining[word] -= 1
                shared += 1
        if shared:
            precision, recall = shared / len(said), shared / len(true)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


def test_scores_of_answerable_questions_are_those_of_the_script_of_v1() -> None:
    for _ in range(200):
        # With a word in each: of two answers without any, torchmetrics has F1 1 and the script of v1.1 has 0.
        prediction = f"{random_answer()} fox"
        references = [f"red {random_answer()}" for _ in range(RNG.integers(1, 4))]
        target = {"answers": {"answer_start": [0] * len(references), "text": references}, "id": "1"}
        official = torchmetrics_squad([{"prediction_text": prediction, "id": "1"}], [target])
        expected = official["exact_match"].item() / 100, official["f1"].item() / 100
        assert scores_v1(prediction, references) == pytest.approx(expected)


def test_scores_of_questions_that_may_have_no_answer_are_those_of_v2() -> None:
    for _ in range(300):
        prediction, references = random_answer(2), [random_answer(2) for _ in range(RNG.integers(0, 4))]
        assert scores_v2(prediction, references) == pytest.approx(slow_v2(prediction, references))


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("The red fox!", ["red fox"], (1, 1)),
        ("red", ["red fox", "blue"], (0, 2 / 3)),
        ("", [], (1, 1)),
        ("red", [], (0, 0)),
        ("", ["red"], (0, 0)),
    ],
)
def test_scores_of_plain_cases(prediction: str, references: list[str], expected: tuple[float, float]) -> None:
    assert scores_v2(prediction, references) == pytest.approx(expected)


def rows(*references: list[str], context: str = "") -> list[dict[str, Any]]:
    return [{"context": context, "answers": {"text": some}} for some in references]


def test_version_one_is_used_where_every_question_has_an_answer_and_version_two_elsewhere() -> None:
    exact, f1, answerable = row_scores(["the"], rows(["an"]))
    assert (exact[0], f1[0], answerable[0]) == (1, 0, True)
    exact, f1, answerable = row_scores(["the", "x"], rows(["an"], []))
    assert (exact.tolist(), f1.tolist(), answerable.tolist()) == ([1, 0], [1, 0], [True, False])


def test_a_row_is_compared_by_characters_where_its_context_is_chinese() -> None:
    chinese, mixed = "红狐 jumps over 2018", "In Chinese 狐 is the word for a small red animal."
    assert (is_chinese(chinese), is_chinese(mixed), is_chinese("")) == (True, False, False)
    _, f1, _ = row_scores(["红狐"], rows(["红狐跳过"], context=chinese))
    assert f1[0] == pytest.approx(2 / 3)
    _, f1, _ = row_scores(["红狐"], rows(["红狐跳过"], context=mixed))
    assert f1[0] == 0
    exact, f1, _ = row_scores(["", "狐"], rows([], [], context=chinese))
    assert (exact.tolist(), f1.tolist()) == ([1, 0], [1, 0])


def slow_cmrc(prediction: str, reference: str) -> tuple[int, float]:
    """F1 of the longest common run of characters, for texts of Chinese characters and points alone."""
    said, true = ([c for c in text if c not in "，。《》"] for text in (prediction, reference))
    runs = [
        size
        for i in range(len(said))
        for j in range(len(true))
        for size in range(1, len(said) - i + 1)
        if said[i : i + size] == true[j : j + size]
    ]
    if not runs:
        return int(said == true), 0.0
    precision, recall = max(runs) / len(said), max(runs) / len(true)
    return int(said == true), 2 * precision * recall / (precision + recall)


def test_chinese_answers_are_compared_by_characters_as_in_cmrc_2018() -> None:
    characters = list("红狐跳过懒狗，。《》")
    for _ in range(200):
        prediction = "".join(RNG.choice(characters, RNG.integers(0, 8)))
        reference = "红" + "".join(RNG.choice(characters, RNG.integers(0, 7)))
        assert scores_cmrc(prediction, [reference]) == pytest.approx(slow_cmrc(prediction, reference))


def test_words_and_numbers_in_chinese_answers_count_as_one() -> None:
    assert scores_cmrc("iPhone 15", ["苹果iPhone 15"]) == (0, pytest.approx(2 * 2 / (2 + 4)))
    assert scores_cmrc("12.5米", ["12.5 米"]) == (0, 1)
    assert scores_cmrc("《战国》", ["战国"]) == (1, 1)


def slow_threshold_score(
    threshold: float, margins: np.ndarray, answered: np.ndarray, null: np.ndarray
) -> float:
    return float(np.where(margins > threshold, null, answered).mean())


def test_the_null_threshold_is_as_good_as_the_best_of_all_thresholds() -> None:
    for case in range(200):
        n_rows = int(RNG.integers(1, 12))
        margins = RNG.normal(size=n_rows).round(int(RNG.integers(0, 2)))  # some are equal
        null = (RNG.random(n_rows) < case / 200).astype(float)
        answered = np.where(null > 0, 0, RNG.random(n_rows).round(1))
        margins[RNG.random(n_rows) < 0.1] = np.inf
        columns = margins, answered, null
        candidates = [-1e9, *margins[np.isfinite(margins)], 1e9]
        best = max(slow_threshold_score(threshold, *columns) for threshold in candidates)
        found = best_null_threshold(*columns)
        assert np.isfinite(found)
        assert slow_threshold_score(found, *columns) == pytest.approx(best)


def test_the_null_threshold_keeps_away_from_the_margins() -> None:
    margins = np.array([-1.0, 2.0, 3.0])
    found = best_null_threshold(margins, np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0]))
    assert found == 0.5
