"""Rows to be answered: what the model reads, by which name, and what is only given back."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from datamodules.corpus import Columns, Files, read_rows
from datamodules.errors import DataError

ASKED = Columns(("text",))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(name: str, *rows: Any) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def test_rows_to_be_answered_need_no_label() -> None:
    path = write("questions.jsonl", {"sentence": "a", "id": 7}, {"sentence": "b", "id": 8})
    assert read_rows(Path(path), {"text": "sentence"}, ASKED, carried=("label", "id")) == [
        {"text": "a", "id": 7},
        {"text": "b", "id": 8},
    ]
    with pytest.raises(DataError, match=r"^input=nowhere.jsonl: there is no such file"):
        read_rows("nowhere.jsonl", {}, ASKED)


def test_what_is_carried_is_given_back_as_it_is_written_whatever_it_is() -> None:
    rows = [
        {"text": "a", "id": 7, "label": None},
        {"text": "b", "id": "00123", "label": [1, "x"]},
        {"text": "c", "label": {"deep": 1.5}},
    ]
    assert read_rows(write("a.jsonl", *rows), {}, ASKED, carried=("label", "id")) == rows
    Path("a.csv").write_text("id,text,label\n00123,a,NA\n12E5,007,1.10\n2020-01-01,c,\n")
    assert read_rows("a.csv", {}, ASKED, carried=("label", "id")) == [
        {"text": "a", "id": "00123", "label": "NA"},
        {"text": "007", "id": "12E5", "label": "1.10"},
        {"text": "c", "id": "2020-01-01", "label": ""},
    ]
    when = datetime.date(2020, 1, 1)
    pq.write_table(pa.table({"text": ["a"], "id": [when], "label": [float("nan")]}), "a.parquet")
    (row,) = read_rows("a.parquet", {}, ASKED, carried=("label", "id"))
    assert (row["id"], math.isnan(row["label"])) == (when, True)


def test_a_column_that_is_named_must_be_there_though_it_is_only_carried_or_optional() -> None:
    path = write("a.jsonl", {"text": "a"}, {"text": "b", "id": 1})
    assert read_rows(path, {"id": "id"}, ASKED, carried=("id",))[1] == {"text": "b", "id": 1}
    with pytest.raises(DataError, match=r"(?s)there is no column 'key'; .*name it with columns\.id="):
        read_rows(path, {"id": "key"}, ASKED, carried=("id",))
    with pytest.raises(DataError, match="there is no column 'hypothesis'"):
        Files(path, columns={"text_pair": "hypothesis"}).load(Columns(("text",), ("text_pair",)))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_column_is_read_by_the_other_name_that_a_file_has_or_else_by_its_own(kind: str) -> None:
    columns = Columns(("text", "text_pair"), other_names={"text_pair": ["hypothesis"]})
    for number, names in enumerate((["text", "hypothesis"], ["text", "text_pair"], ["text"])):
        path = table_file(f"{number}.{kind}", {name: ["a", "b"] for name in names})
        if len(names) == 2:
            assert read_rows(path, {}, columns)[1] == {"text": "b", "text_pair": "b"}
            assert next(iter(Files(path).load(columns).train)).keys() == {"text", "text_pair"}
        else:
            with pytest.raises(DataError, match=r"no column 'hypothesis'; .*\n.* with columns\.text_pair="):
                read_rows(path, {}, columns)
    both = table_file(f"both.{kind}", {"text": ["a"], "text_pair": ["own"], "hypothesis": ["other"]})
    assert read_rows(both, {}, columns)[0]["text_pair"] == "other"
    assert read_rows(both, {"text_pair": "text_pair"}, columns)[0]["text_pair"] == "own"


def table_file(name: str, columns: dict[str, list[str]]) -> str:
    """A file of these columns, of the kind that its name says."""
    table = pa.table(columns)
    if name.endswith(".csv"):
        pa.csv.write_csv(table, name)
    elif name.endswith(".parquet"):
        pq.write_table(table, name)
    else:
        write(name, *table.to_pylist())
    return name
