"""Data sets laid out as on the Hub, read from a folder: splits, streams, documents, mirrors."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus import Hub, texts
from datamodules.corpus.hub_rows import joined
from datamodules.errors import DataError

TRAIN = [f"train {number}" for number in range(30)]
VALIDATION = [f"validation {number}" for number in range(5)]
LINES = ["", " = First = \n", "", "one\n", " = = Part = = \n", "two\n", " = Second = \n", "three\n", ""]


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"story": row, "id": 1}) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    write(tmp_path / "stories/train.jsonl", TRAIN)
    write(tmp_path / "stories/validation.jsonl", VALIDATION)
    return str(tmp_path / "stories")


def load(path: str, **options: Any) -> Any:
    return Hub(path, columns={"text": "story"}, **options).load()


def error_of(path: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    assert str(caught.value).count("\n") == 1
    return str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_both_splits_are_read_with_the_mapped_column_only(folder: str, streaming: bool) -> None:
    corpus = load(folder, streaming=streaming)
    assert list(corpus.train) == [{"text": row} for row in TRAIN]
    assert list(texts(corpus.train)) == TRAIN
    assert list(texts(corpus.validation)) == VALIDATION
    assert corpus.n_train_rows == (None if streaming else 30)
    assert corpus.name == "stories"


@pytest.mark.parametrize("streaming", [False, True])
def test_without_a_validation_split_the_first_rows_are_held_out(folder: str, streaming: bool) -> None:
    corpus = load(folder, streaming=streaming, validation_split=None, n_held_out_rows=4, max_train_rows=10)
    assert list(texts(corpus.validation)) == TRAIN[:4]
    assert list(texts(corpus.train)) == TRAIN[4:14]
    assert error_of(folder, streaming=streaming, validation_split=None, n_held_out_rows=30) == (
        f"{folder}: split train has only the 30 rows to hold out; expected more rows\nhint: "
        "set data.n_held_out_rows to fewer"
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_the_fingerprint_is_the_same_each_time_and_follows_content_and_options(
    folder: str, streaming: bool
) -> None:
    first = load(folder, streaming=streaming).fingerprint
    assert load(folder, streaming=streaming).fingerprint == first
    assert load(folder, streaming=streaming, max_train_rows=5).fingerprint != first
    write(Path(folder) / "train.jsonl", ["other", *TRAIN])
    assert load(folder, streaming=streaming).fingerprint != first


@pytest.mark.parametrize("streaming", [False, True])
def test_lines_are_joined_to_documents(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "wiki/train.jsonl", LINES)
    write(tmp_path / "wiki/validation.jsonl", LINES[6:])
    corpus = load(str(tmp_path / "wiki"), streaming=streaming, document_start="^ = [^=]")
    assert list(texts(corpus.train)) == [" = First = \none\n = = Part = = \ntwo\n", " = Second = \nthree\n"]
    assert list(texts(corpus.validation)) == [" = Second = \nthree\n"]


def test_no_character_is_lost_when_lines_are_joined() -> None:
    rows = [{"text": line} for line in ["before\n", *LINES]]
    assert "".join(row["text"] for row in joined(rows, "^ = [^=]")) == "".join(row["text"] for row in rows)


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_columns_and_rows_without_text_are_told(tmp_path: Path, folder: str, streaming: bool) -> None:
    with pytest.raises(DataError) as caught:
        Hub(folder, streaming=streaming).load()
    assert str(caught.value) == (
        f"{folder}, split train: there is no column 'text'; expected one of the columns present: story, id"
        "\nhint: "
        "set data.columns.text=story"
    )
    write(tmp_path / "nulls/train.jsonl", ["a", None])
    write(tmp_path / "nulls/validation.jsonl", VALIDATION)
    with pytest.raises(DataError, match=r"row 2: column 'text' contains null; expected text in every row"):
        list(load(str(tmp_path / "nulls"), streaming=streaming).train)


def test_unknown_splits_and_configurations_are_answered_with_those_present(folder: str) -> None:
    assert 'Unknown split "test"' in error_of(folder, train_split="test")
    assert "BuilderConfig 'large' not found" in error_of(folder, config_name="large")


def test_impossible_options_are_refused() -> None:
    assert error_of("any", max_train_rows=0) == (
        "data.max_train_rows is 0; expected at least 1\nhint: set data.max_train_rows=1000 or leave it out"
    )


def test_where_there_is_a_mirror_the_hub_is_not_asked(tmp_path: Path) -> None:
    write(tmp_path / "copies/train.jsonl", TRAIN)
    write(tmp_path / "copies/validation.jsonl", VALIDATION)
    mirror = {"mirror": str(tmp_path), "mirror_train": "copies/train.jsonl"}
    corpus = load("nobody/stories", **mirror, mirror_validation="copies/validation.jsonl")
    assert (list(texts(corpus.train)), list(texts(corpus.validation))) == (TRAIN, VALIDATION)
    assert corpus.name == "stories"
    assert error_of("nobody/stories", mirror=str(tmp_path), mirror_train="none.jsonl").startswith(
        f"data.train={tmp_path}/none.jsonl: there is no such file"
    )
    assert error_of("nobody/stories", mirror=str(tmp_path)) == (
        "nobody/stories is not in the local mirror; expected data.mirror_train\nhint: "
        "unset PRELUDE_DATA to use the Hub"
    )


REAL = os.environ.get("PRELUDE_DATA", "")


@pytest.mark.skipif(not REAL, reason="PRELUDE_DATA is not set")
@pytest.mark.parametrize(
    "name", ["wikitext", "tinystories", "tinyshakespeare", "chinese_classics", "fairytale"]
)
def test_the_configured_places_in_the_mirror_are_right(name: str) -> None:
    from omegaconf import OmegaConf

    from datamodules import corpus

    file = Path(__file__).parents[2] / f"configs/data/{name}.yaml"
    options: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    source = getattr(corpus, options.pop("_target_").rsplit(".", 1)[1])(**options)
    loaded = source.load()
    assert loaded.n_train_rows
    assert loaded.n_validation_rows
