"""Mixtures: the shares are as the weights, nothing is left out, and the same arguments give the same rows."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.corpus import Columns, Files, Hub, Mixture
from datamodules.corpus.mixture import _repeated
from datamodules.errors import DataError
from datamodules.storyworld import StoryWorld

LABELLED = Columns(("text", "label"), ("text_pair",))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def files(name: str, n: int, *, test: bool = False, **more: Any) -> Files:
    def part(split: str, size: int) -> str:
        rows = [{"text": f"{name} {split} {i}", "label": name, **more} for i in range(size)]
        return write(f"{name}-{split}.jsonl", rows)

    return Files(part("train", n), part("validation", 2), test=part("test", 3) if test else None)


def trained(mixture: Mixture) -> Counter[str]:
    return Counter(row["label"] for row in mixture.load(LABELLED).train)


def test_without_weights_every_row_of_every_source_is_there_once_and_shuffled() -> None:
    corpus = Mixture({"a": files("a", 30), "b": files("b", 10)}).load(LABELLED)
    texts = [row["text"] for row in corpus.train]
    assert sorted(texts) == sorted(
        f"{name} train {i}" for name, n in (("a", 30), ("b", 10)) for i in range(n)
    )
    assert texts != sorted(texts)
    assert corpus.name == "a+b"


def test_the_shares_are_as_the_weights_and_the_largest_for_its_weight_is_there_once() -> None:
    sources = {"a": files("a", 30), "b": files("b", 10)}
    assert trained(Mixture(sources, {"a": 1, "b": 1})) == {"a": 30, "b": 30}
    assert trained(Mixture(sources, {"a": 9, "b": 1})) == {"a": 90, "b": 10}
    assert trained(Mixture(sources, {"a": 2, "b": 1})) == {"a": 30, "b": 15}


@given(st.integers(1, 30), st.integers(0, 100))
def test_repeated_rows_come_equally_often(size: int, more: int) -> None:
    rows = Counter(_repeated(size, size + more, np.random.default_rng(0)).tolist())
    assert len(rows) == size
    assert max(rows.values()) - min(rows.values()) <= 1


def test_held_out_rows_are_those_of_the_sources_one_after_the_other() -> None:
    corpus = Mixture({"a": files("a", 5, test=True), "b": files("b", 5)}, {"a": 1, "b": 3}).load(LABELLED)
    held_out = [f"{name} validation {i}" for name in "ab" for i in range(2)]
    assert [row["text"] for row in corpus.validation] == held_out
    assert corpus.test is not None
    assert [row["text"] for row in corpus.test] == [f"a test {i}" for i in range(3)]
    assert Mixture({"b": files("b", 5)}).load(LABELLED).test is None


def test_the_same_arguments_give_the_same_rows_and_fingerprint_and_others_do_not() -> None:
    sources = {"a": files("a", 30), "b": files("b", 10)}
    first, again = (Mixture(sources, seed=1).load(LABELLED) for _ in range(2))
    assert list(first.train) == list(again.train)
    assert first.fingerprint == again.fingerprint
    for other in (Mixture(sources, seed=2), Mixture(sources, {"a": 1, "b": 1}, seed=1)):
        assert other.load(LABELLED).fingerprint != first.fingerprint
    assert list(Mixture(sources, seed=2).load(LABELLED).train) != list(first.train)


def test_text_alone_can_be_mixed_for_pretraining() -> None:
    stories = StoryWorld(20, n_validation_rows=3)
    corpus = Mixture({"stories": stories, "a": files("a", 20)}, {"stories": 1, "a": 1}).load()
    assert [tuple(row) for row in corpus.train] == [("text",)] * 40
    assert corpus.n_validation_rows == 5


def test_an_optional_column_is_kept_where_all_sources_have_it() -> None:
    one, other = files("a", 3, text_pair="x"), files("b", 3)
    assert set(Mixture({"a": one}).load(LABELLED).train[0]) == {"text", "label", "text_pair"}  # type: ignore[index]
    mixed = Mixture({"a": one, "b": other}).load(LABELLED)
    assert set(mixed.train[0]) == {"text", "label"}  # type: ignore[index]


def test_what_cannot_be_mixed_is_told() -> None:
    numbers = Files(write("n.jsonl", [{"text": "n", "label": ["a"]}, {"text": "m", "label": ["a"]}]))
    for mixture, said in (
        (Mixture({"a": files("a", 3), "n": numbers}), "the sources' columns are of different types (a: text"),
        (
            Mixture({"x": Files("nowhere.jsonl")}),
            "data.sources.x: data.train=nowhere.jsonl: there is no such",
        ),
    ):
        with pytest.raises(DataError) as caught:
            mixture.load(LABELLED)
        assert str(caught.value).startswith(said)
    for name in ("train", "validation"):
        Path("hub").mkdir(exist_ok=True)
        write(f"hub/{name}.jsonl", [{"text": name, "label": "a"}])
    with pytest.raises(
        DataError, match=r"(?s)^data.sources.h is streamed; .* set data.sources.h.streaming=false"
    ):
        Mixture({"h": Hub("hub", streaming=True)}).load(LABELLED)


@pytest.mark.parametrize(
    ("sources", "weights", "said"),
    [
        ({}, None, "data.sources is empty"),
        ({"a": 1}, {"b": 1.0}, "data.weights names b; expected a weight for each of a"),
        ({"a": 1}, {"a": 0.0}, "weights above 0"),
        ({"a": 1}, {"a": float("nan")}, "weights above 0"),
    ],
)
def test_impossible_arguments_are_refused(sources: Any, weights: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Mixture(sources, weights)
