"""Which column a missing one probably is: the remedy works when it is pasted."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpus import Columns, Files, Mixture, read_rows
from datamodules.corpus.proposals import missing_column
from datamodules.errors import DataError

CLASSIFY, QA = Columns(("text", "label"), ("text_pair",)), Columns(("context", "question", "answers"))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def proposed(name: str, rows: list[dict[str, Any]], *taken: str) -> str:
    error = missing_column(
        "a.jsonl", name, list(rows[0]), name=name, key="data.columns", taken=taken, sample=rows
    )
    return error.remedy.removeprefix(f"set data.columns.{name}=")


def film(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "film": f"Film {number}",
        "plot": f"A long story, number {number}",
        "fun": number % 2,
    }


@pytest.mark.parametrize(
    ("name", "row", "taken", "column"),
    [
        ("text", {"id": 1, "Text": "a", "sentence": "b"}, [], "Text"),
        ("text", {"id": 1, "label": "a", "sentence": "b"}, ["label"], "sentence"),
        ("text", {"idx": 1, "texts": "a"}, [], "texts"),
        ("label", {"text": "a", "lable": 1}, ["text"], "lable"),
        ("label", {"text": "a", "Star Rating": 1, "category": "b"}, ["text"], "category"),
        ("target", {"id": "1", "translation": {"en": "a", "de": "b"}}, ["translation.en"], "translation.de"),
        ("summary", {"id": "1", "article": "a", "highlights": "b"}, ["article"], "highlights"),
        ("answers", {"id": "1", "answer": {"text": ["a"]}}, [], "answer"),
        ("text", {"id": 1, "my text": "some words"}, [], "'my text'"),
    ],
)
def test_a_column_is_proposed_by_its_name(
    name: str, row: dict[str, Any], taken: list[str], column: str
) -> None:
    assert proposed(name, [row], *taken) == column


def test_a_column_is_proposed_by_what_it_holds() -> None:
    films = [film(number) for number in range(20)]
    assert proposed("text", films) == "plot"
    assert proposed("label", films, "plot") == "fun"
    asked = [{"id": "a b", "q1": f"A long text {i}.", "q2": f"What is {i}?"} for i in range(5)]
    assert proposed("question", asked, "q1") == "q2"
    assert proposed("turns", [{"id": 1, "x": ["a", "b"]}]) == "x"


def test_nothing_is_proposed_where_nothing_is_like_it() -> None:
    assert proposed("text", [{"id": 1, "n": "00123"}]) == (
        "give the file such a column, or name it with data.columns.text=COLUMN"
    )
    assert proposed("label", [film(number) for number in range(20)], "plot", "fun").startswith(
        "give the file"
    )
    Path("a.csv").write_text("I liked it a lot,1\nI did not,0\n")
    with pytest.raises(DataError, match=r"write the names of the columns in the first line"):
        read_rows("a.csv", {}, CLASSIFY)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_kind_of_file_is_looked_into_and_the_proposal_is_right(kind: str) -> None:
    rows = [{**film(number), "fun": str(number % 2)} for number in range(20)]
    name = f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), name)
    elif kind in ("jsonl", "json"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        cells = [
            list(rows[0]),
            *([f'"{one}"' if kind == "csv" else str(one) for one in row.values()] for row in rows),
        ]
        Path(name).write_text("".join(("\t" if kind == "tsv" else ",").join(line) + "\n" for line in cells))
    columns: dict[str, str] = {}
    for wanted, path in (("text", "plot"), ("label", "fun")):
        with pytest.raises(DataError) as caught:
            Files(name, columns=columns).load(CLASSIFY)
        assert caught.value.remedy == f"set data.columns.{wanted}={path}"
        columns[wanted] = path
    assert Files(name, columns=columns).load(CLASSIFY).n_train_rows == 19


def test_names_are_shown_on_one_line_and_shortened() -> None:
    error = missing_column("a.csv", "text", ["a\r\nb", "c" * 99], name="text", key="data.columns")
    assert error.expected == f"one of the columns present: a b, {'c' * 59}…"


def test_the_remedy_has_the_key_of_the_command() -> None:
    Path("a.csv").write_text("sentence,label\na,b\nc,b\n")
    with pytest.raises(DataError, match=r"set columns\.text=sentence$"):
        read_rows("a.csv", {}, CLASSIFY)
    with pytest.raises(DataError, match=r"set data\.columns\.text=sentence$"):
        Files("a.csv").load(CLASSIFY)
    with pytest.raises(DataError, match=r"set data\.sources\.mine\.columns\.text=sentence$"):
        Mixture({"mine": Files("a.csv")}).load(CLASSIFY)


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Lanterns",
            "paragraphs": [
                {
                    "context": "Anna has it.",
                    "qas": [
                        {"id": "1", "question": "Who?", "answers": [{"text": "Anna", "answer_start": 0}]},
                        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_squads_own_file_is_read_as_it_is(indent: int | None) -> None:
    Path("train-v2.0.json").write_text(json.dumps(SQUAD, indent=indent) + "\n")
    context = {"context": "Anna has it."}
    anna, nothing = {"text": ["Anna"], "answer_start": [0]}, {"text": [], "answer_start": []}
    assert read_rows("train-v2.0.json", {}, QA) == [
        {**context, "question": "Who?", "answers": anna},
        {**context, "question": "Why?", "answers": nothing},
    ]
    asked = read_rows("train-v2.0.json", {}, Columns(("context", "question")), carried=("id", "title"))
    assert [(row["id"], row["title"]) for row in asked] == [("1", "Lanterns"), ("2", "Lanterns")]


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_under_data_are_read_and_other_objects_are_json_lines(indent: int | None) -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    Path("a.json").write_text(json.dumps({"version": 1, "data": rows}, indent=indent))
    assert read_rows("a.json", {}, CLASSIFY) == rows
    Path("b.json").write_text("\n".join(map(json.dumps, rows)))
    assert read_rows("b.json", {}, CLASSIFY) == rows
    Path("c.json").write_text(json.dumps(rows[0], indent=indent))
    assert read_rows("c.json", {}, CLASSIFY) == rows[:1]


@pytest.mark.parametrize(
    ("paragraphs", "said"),
    [
        (
            {},
            "a.json, article 1 has no list 'paragraphs'; expected a list of objects, one object per line, or",
        ),
        ([{"context": "a"}], "a.json, article 1, paragraph 1 has no list 'qas'"),
        ([{"context": "a", "qas": [1]}], "a.json, article 1, paragraph 1, question 1 is not an object"),
        (
            [{"qas": [{"question": "?"}]}],
            "a.json: there is no column 'context'; expected one of the columns present: question",
        ),
        (
            [{"context": "a", "qas": [{"answers": "b"}]}],
            "a.json, article 1, paragraph 1, question 1: 'answers'",
        ),
    ],
)
def test_what_is_wrong_in_a_nested_file_is_named_with_its_place(paragraphs: Any, said: str) -> None:
    Path("a.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    with pytest.raises(DataError) as caught:
        read_rows("a.json", {}, QA)
    assert str(caught.value).startswith(said)
