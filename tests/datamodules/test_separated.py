"""CSV and TSV: every cell is text as it is written, and what separates the cells."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.corpus import Columns, Files, read_rows
from datamodules.errors import DataError

LABELLED = Columns(("text", "label"), ("id",))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def read(name: str, content: str, columns: Columns = LABELLED) -> list[dict[str, Any]]:
    Path(name).write_bytes(content.encode())
    return [dict(row) for row in read_rows(name, {}, columns)]


def error_of(name: str, content: str) -> str:
    with pytest.raises(DataError) as caught:
        read(name, content)
    return str(caught.value)


def test_tsv_has_no_quoting() -> None:
    rows = read("a.tsv", 'text\tlabel\n"We left early.\t1\n"The road was long."\t0\nA ""bad"" day.\t0\n')
    assert [(row["text"], row["label"]) for row in rows] == [
        ('"We left early.', "1"),
        ('"The road was long."', "0"),
        ('A ""bad"" day.', "0"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tsv_takes_any_line_ends_a_byte_order_mark_and_blank_lines(end: str, mark: str) -> None:
    lines = ["label\ttext", "1\ta \u2028 b\rc, d;e", "", "0\t"]
    assert read("a.tsv", mark + end.join(lines)) == [
        {"text": "a \u2028 b\rc, d;e", "label": "1"},
        {"text": "", "label": "0"},
    ]


@given(st.lists(st.text(st.characters(exclude_characters="\t\n\r\0", codec="utf-8"), min_size=1), min_size=1))
@settings(max_examples=50, deadline=None)
def test_whatever_stands_between_two_tabs_is_the_cell(texts: list[str]) -> None:
    content = "text\tlabel\n" + "".join(f"{text}\t{text}\n" for text in texts)
    assert read("a.tsv", content) == [{"text": text, "label": text} for text in texts]


def test_a_ragged_line_of_tsv_is_named_with_what_can_be_done() -> None:
    assert error_of("a.tsv", "text\tlabel\na\t1\nb\tc\t0\n") == (
        "a.tsv, line 3: 3 fields; expected 2, as in the header\nhint: "
        "replace tabs and line breaks in texts by spaces (TSV has no quoting), or write the file as .csv"
    )


CELLS = [
    "00123",
    "12345678901234567890",
    "NA",
    "null",
    "1.10",
    "12E5",
    "2020-01-01",
    "12:30:00",
    "",
    "TRUE",
    "-0",
]


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_every_cell_is_text_as_it_is_written(name: str, separator: str) -> None:
    lines = [separator.join(("id", "text", "label")), *(separator.join((cell, "t", cell)) for cell in CELLS)]
    assert read(name, "\n".join(lines)) == [{"text": "t", "label": cell, "id": cell} for cell in CELLS]


def test_quoted_cells_of_csv_hold_separators_line_ends_and_doubled_quotes() -> None:
    content = 'text,label\r\n"a, ""b""\r\nc",1\r\n5" nails,"0"\r\n\r\n"",""\r\n'
    assert read("a.csv", content) == [
        {"text": 'a, "b"\r\nc', "label": "1"},
        {"text": '5" nails', "label": "0"},
        {"text": "", "label": ""},
    ]


def test_text_after_a_closing_quote_is_refused_and_not_joined() -> None:
    assert error_of("a.csv", 'text,label\na,1\n"He said \\"no\\"",1\n').startswith(
        "a.csv, line 3: ',' expected"
    )


@pytest.mark.parametrize(
    ("separator", "header"),
    [(";", "text;label"), ("\t", "text\tlabel"), ("|", '"text"|"label"'), (";", '"text";"label";"a, b"')],
)
def test_another_separator_of_csv_is_found_by_the_columns_that_are_read(separator: str, header: str) -> None:
    cells = ["one, two", "1,5"] + ["x"] * (header.count(separator) - 1)
    assert read("a.csv", f"{header}\n{separator.join(cells)}\n") == [{"text": "one, two", "label": "1,5"}]


def test_a_first_line_that_names_the_separator_is_no_header() -> None:
    assert read("a.csv", "sep=;\r\ntext;label\r\na;1\r\n") == [{"text": "a", "label": "1"}]
    assert error_of("a.csv", "sep=;\ntext;label\na\n").startswith("a.csv, line 3: 1 field; expected 2")


def test_a_csv_file_with_the_wanted_columns_keeps_its_commas_whatever_else_stands_there() -> None:
    assert read("a.csv", "text,label,a;b;c;d\n1;2,x;y,z\n") == [{"text": "1;2", "label": "x;y"}]


def test_missing_columns_name_the_separator_where_it_is_no_comma() -> None:
    rows = "".join(f"{number};ein langer Satz {number};{number % 2}\n" for number in range(9))
    assert error_of("a.csv", "nr;satz;klasse\n" + rows) == (
        "a.csv (separated by semicolons): there is no column 'text'; "
        "expected one of the columns present: nr, satz, klasse\nhint: set columns.text=satz"
    )


def test_classes_of_csv_are_the_same_in_every_split_and_file() -> None:
    Path("a.csv").write_text("text,label\na,1\nb,2\nc,other\n")
    Path("b.csv").write_text("text,label\nd,1\ne,2\n")
    Path("v.csv").write_text("text,label\nf,1\ng,2\n")
    corpus = Files(["b.csv", "a.csv"], "v.csv").load(LABELLED)
    assert [row["label"] for row in corpus.train] == ["1", "2", "1", "2", "other"]
    assert [row["label"] for row in corpus.validation] == ["1", "2"]
