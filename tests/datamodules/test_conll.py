"""Files in the format of the CoNLL shared tasks."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from datamodules.corpus import Columns, Files, Hub, read_rows
from datamodules.errors import DataError

COLUMNS = Columns(("tokens", "tags"))
FOUR = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP I-MISC

Peter NNP B-NP B-PER\r
Blackburn NNP I-NP I-PER
"""
ROWS = [
    {"tokens": ["EU", "rejects", "German"], "tags": ["B-ORG", "O", "I-MISC"]},
    {"tokens": ["Peter", "Blackburn"], "tags": ["B-PER", "I-PER"]},
]


def read(path: Path, text: str) -> list[dict[str, Any]]:
    path.write_text(text, encoding="utf-8")
    return list(Files(str(path), str(_other(path.parent))).load(COLUMNS).train)


def _other(folder: Path) -> Path:
    (folder / "other.conll").write_text("x O\n")
    return folder / "other.conll"


def test_sentences_of_two_or_four_columns_are_rows(tmp_path: Path) -> None:
    assert read(tmp_path / "four.conll", FOUR) == ROWS
    two = "\n\nEU\tB-ORG\nrejects\tO\nGerman\tI-MISC\n   \n\nPeter B-PER\nBlackburn I-PER"
    assert read(tmp_path / "two.conll", two) == ROWS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("EU B-ORG\nrejects\n", "line 2: 1 columns, but the first line has 2"),
        ("EU X B-ORG\n\nPeter B-PER\n", "line 3: 2 columns, but the first line has 3"),
        ("a O\n\nEU S-ORG\n", "line 3: the tag of 'EU' is 'S-ORG'; expected O, B-TYPE or I-TYPE"),
        ("a O\nEU B-\n", "line 2: the tag of 'EU' is 'B-'"),
        ("a b c\nx y z\n", "line 1: the tag of 'a' is 'c'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "bad.conll", text)
    assert f"bad.conll, {said}" in str(caught.value)


def test_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "latin.conll").write_bytes("a O\nGrün B-PER\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.conll, line 2"):
        Files(str(tmp_path / "latin.conll"), str(_other(tmp_path))).load(COLUMNS)


def test_words_without_tags_can_be_predicted_and_not_learned(tmp_path: Path) -> None:
    path = tmp_path / "words.conll"
    path.write_text("Peter\nBlackburn\n\nEU\n")
    assert read_rows(path, {}, Columns(("tokens",)), carried=("tags",)) == [
        {"tokens": ["Peter", "Blackburn"]},
        {"tokens": ["EU"]},
    ]
    with pytest.raises(DataError, match="there is no column 'tags'"):
        Files(str(path), str(_other(tmp_path))).load(COLUMNS)


def test_a_long_file_keeps_each_sentence_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.corpus.source_file._BLOCK_BYTES", 16)
    assert read(tmp_path / "long.conll", FOUR) == ROWS


def test_sequences_of_class_labels_are_read_as_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER", "I-PER"])),
        }
    )
    for split in ("train", "validation"):
        rows = [
            {"tokens": ["I", "am", split], "ner_tags": [0, 0, 1]},
            {"tokens": ["A", split], "ner_tags": [1, 2]},
        ]
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / f"{split}.parquet"))
    corpus = Hub(str(tmp_path), columns={"tags": "ner_tags"}).load(COLUMNS)
    assert list(corpus.train)[1] == {"tokens": ["A", "train"], "tags": ["B-PER", "I-PER"]}
    files = Files(
        str(tmp_path / "train.parquet"), str(tmp_path / "validation.parquet"), columns={"tags": "ner_tags"}
    )
    assert next(iter(files.load(COLUMNS).train))["tags"] == ["O", "O", "B-PER"]
