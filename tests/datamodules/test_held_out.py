"""What is held out of training: by hash, equal rows together, and no class without a row to train on."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from datamodules.corpus import Columns, Corpus, Files, Mixture
from datamodules.corpus.held_out import n_also_in, with_repeated
from datamodules.errors import DataError

LABELLED = Columns(("text", "label"))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def load(rows: list[dict[str, Any]], **options: Any) -> Corpus:
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Files("a.jsonl", **options).load(LABELLED)


def split(rows: list[dict[str, Any]], **options: Any) -> tuple[list[Any], list[Any]]:
    corpus = load(rows, **options)
    return list(corpus.train), list(corpus.validation)


def row(text: Any, label: Any = "a") -> dict[str, Any]:
    return {"text": str(text), "label": label}


@pytest.mark.parametrize("start", range(0, 400, 10))
def test_a_class_with_a_single_row_stays_in_training(start: int) -> None:
    labels = ["rare", *(("a", "b")[number % 2] for number in range(9))]
    train, validation = split([row(start + number, label) for number, label in enumerate(labels)])
    assert len(validation) == 1
    assert {one["label"] for one in train} == {"rare", "a", "b"}


@pytest.mark.parametrize("listed", [False, True])
def test_each_of_many_classes_keeps_a_row_however_much_is_held_out(listed: bool) -> None:
    rows = [row(number, [f"c{number % 30}"] if listed else f"c{number % 30}") for number in range(60)]
    train, validation = split(rows, validation_fraction=0.9)
    assert Counter(str(one["label"]) for one in train) == dict.fromkeys(
        {str(one["label"]) for one in rows}, 1
    )
    assert len(validation) == 30


def test_equal_rows_are_not_all_held_out_nor_divided() -> None:
    for seed in range(8):
        rows = [row("the same"), *(row(f"{seed}-{number}") for number in range(30))] + [row("the same")] * 69
        train, validation = split(rows)
        assert len(validation) == 5
        assert not {one["text"] for one in train} & {one["text"] for one in validation}


def test_where_all_groups_of_equal_rows_are_large_the_smallest_is_held_out() -> None:
    train, validation = split([row("x")] * 50 + [row("y")] * 20 + [row("z")] * 30)
    assert (len(train), {one["text"] for one in validation}) == (80, {"y"})


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a", 1), row("b", 2)], "a class with at least two different rows"),
        ([row("a", 1), row("a", 1), row("b", 2)], "a class with at least two different rows"),
        ([row("a", 1)], "a class with at least two different rows"),
    ],
)
def test_rows_that_leave_nothing_to_hold_out_are_refused(rows: list[Any], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        load(rows)
    assert str(caught.value) == (
        "a.jsonl is too small to hold out a part for validation; "
        f"expected {expected}\nhint: set data.validation=PATH"
    )


def test_rows_that_also_stand_in_training_are_counted_by_their_inputs() -> None:
    train = datasets.Dataset.from_list(
        [{"text": text, "text_pair": "p", "turns": [text]} for text in ("a", "b", "b", "c")]
    )
    held_out = datasets.Dataset.from_list(
        [{"text": text, "text_pair": pair, "turns": [text]} for text, pair in ("bp", "bp", "cq", "dp", "ap")]
    )
    assert n_also_in(held_out, train, ["text"]) == 4
    assert n_also_in(held_out, train, ["text", "text_pair"]) == 3
    assert n_also_in(held_out, train, ["text", "nowhere"]) == 4
    assert n_also_in(held_out, train.select([3, 3, 0]), ["turns"]) == 2
    assert n_also_in(held_out, train.select([]), ["text"]) == 0


def test_rows_of_one_split_in_another_are_counted_in_files_and_in_mixtures() -> None:
    for name, numbers in {"a": range(20), "v": [1, 2, 90], "b": range(80, 99), "t": [2, 85, 200]}.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in numbers))
    one = Files("a.jsonl", "v.jsonl", test="t.jsonl")
    mixture = Mixture({"a": one, "b": Files("b.jsonl", validation_fraction=0.01)})
    assert with_repeated(one.load(LABELLED), ["text"]).repeated == {
        "validation in train": 2,
        "test in train": 1,
        "test in validation": 1,
    }
    assert with_repeated(mixture.load(LABELLED), ["text"]).repeated["validation in train"] >= 2
    assert with_repeated(load([row(number) for number in range(50)]), ["text"]).repeated == {}
