"""Corpora from files: what is read, what is held out, and the error for everything that can be wrong."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.corpus import Columns, Corpus, Files, Mirror, texts
from datamodules.corpus.rows import rows_digest
from datamodules.errors import DataError

TEXTS = ["one\n", 'zwei, "drei"', "", "小狐狸", "NA", "2024-01-01", "5"]
REPAIR = "correct or remove the row"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    return folder / "prelude"


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows_of(*contents: str) -> str:
    return lines(*({"text": content} for content in contents))


def write(name: str, content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    Path(name).write_bytes(gzip.compress(raw) if name.endswith(".gz") and isinstance(content, str) else raw)
    return name


def write_kind(kind: str, contents: list[str]) -> str:
    rows = [{"text": content, "n": number} for number, content in enumerate(contents)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), "rows.parquet")
        return "rows.parquet"
    if kind.startswith("json."):
        return write("rows." + kind, json.dumps(rows))
    if kind.startswith("json"):
        return write("rows." + kind, lines(*rows))
    quoted = ['"' + row["text"].replace('"', '""') + '",' + str(row["n"]) for row in rows]
    return write("rows." + kind, "\n".join(["text,n", *quoted]) + "\n")


def error_of(*arguments: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        Files(*arguments, **options).load()
    assert str(caught.value).count("\n") == 1
    return str(caught.value)


KINDS = ["jsonl", "jsonl.gz", "json", "json.gz", "csv", "csv.gz", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_gives_the_same_rows_and_the_same_fingerprint(kind: str) -> None:
    validation = write("validation.jsonl", rows_of("held out"))
    corpus = Files(write_kind(kind, TEXTS), validation).load()
    assert list(texts(corpus.train)) == TEXTS
    assert [row["text"] for row in corpus.train] == TEXTS
    assert list(texts(corpus.validation)) == ["held out"]
    assert corpus.fingerprint == Files(write("same.jsonl", rows_of(*TEXTS)), validation).load().fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_further_columns_are_mapped(kind: str) -> None:
    """Tables with separators hold text alone, which stays as it is written."""
    read = str if kind.startswith(("csv", "tsv")) else int
    validation = write("validation.jsonl", lines({"text": "held out", "n": read(7)}))
    files = Files(write_kind(kind, TEXTS), validation, columns={"number": "n"})
    corpus = files.load(Columns(("text", "number")))
    assert [row["number"] for row in corpus.train] == list(map(read, range(len(TEXTS))))


@pytest.mark.parametrize("name", ["all.txt", "all.TXT", "all.txt.gz"])
def test_a_text_file_is_one_row_with_its_line_ends(name: str) -> None:
    corpus = Files(write(name, "one\r\ntwo\n\n"), write("v.txt", "three")).load()
    assert list(texts(corpus.train)) == ["one\r\ntwo\n\n"]
    assert corpus.name == "all"
    assert (corpus.n_train_rows, corpus.n_validation_rows) == (1, 1)


def test_patterns_and_lists_are_read_in_order() -> None:
    write("b.jsonl", rows_of("b"))
    write("a.jsonl", rows_of("a"))
    write("z.csv", "text\nz\n")
    corpus = Files(["z.csv", "?.jsonl"], write("validation.txt", "v")).load()
    assert list(texts(corpus.train)) == ["z", "a", "b"]
    assert [source["uri"] for source in corpus.sources] == ["z.csv", "a.jsonl", "b.jsonl", "validation.txt"]
    assert [source["split"] for source in corpus.sources] == ["train"] * 3 + ["validation"]


def test_another_column_can_be_the_text() -> None:
    corpus = Files(
        write("a.jsonl", lines({"story": "a"})), write("v.jsonl", lines({"story": "v"})), {"text": "story"}
    )
    assert list(corpus.load().train) == [{"text": "a"}]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_byte_order_mark_is_dropped(kind: str) -> None:
    content = {"txt": "a", "jsonl": '{"text": "a"}\n', "csv": "text\na\n"}[kind]
    corpus = Files(write(f"a.{kind}", "\ufeff" + content), write("v.txt", "v")).load()
    assert list(texts(corpus.train)) == ["a"]


def test_a_corpus_larger_than_a_block_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.corpus.source_file._BLOCK_BYTES", 64)
    contents = [f"row {number} " + "河" * (number % 50) for number in range(200)]
    for name, content in (("a.jsonl", rows_of(*contents)), ("a.csv", "text\n" + "\n".join(contents))):
        assert list(texts(Files(write(name, content), write("v.txt", "v")).load().train)) == contents
    corpus = Files(write("a.txt", "\n".join(contents)), write("v.txt", "v")).load()
    assert list(texts(corpus.train)) == ["\n".join(contents)]


def test_what_the_fast_json_reader_refuses_is_read_all_the_same() -> None:
    content = '{"text": "a", "x": NaN}\n\n{"text": "b", "x": 1e999}\n{"text": "c", "x": "\\ud83d\\ude00"}'
    assert list(texts(Files(write("a.jsonl", content), write("v.txt", "v")).load().train)) == ["a", "b", "c"]


def test_without_validation_the_same_rows_are_held_out_in_any_order() -> None:
    contents = [f"row {number}" for number in range(100)]
    first = Files(write("a.jsonl", rows_of(*contents)), validation_fraction=0.1).load()
    second = Files(write("b.jsonl", rows_of(*reversed(contents))), validation_fraction=0.1).load()
    assert set(texts(first.validation)) == set(texts(second.validation))
    assert (first.n_train_rows, first.n_validation_rows) == (90, 10)
    assert sorted([*texts(first.train), *texts(first.validation)]) == sorted(contents)


def test_equal_rows_are_held_out_together() -> None:
    contents = [f"row {number % 40}" for number in range(200)]
    corpus = Files(write("a.jsonl", rows_of(*contents)), validation_fraction=0.1).load()
    assert not set(texts(corpus.train)) & set(texts(corpus.validation))


def test_of_one_text_the_end_is_held_out_from_a_line_on() -> None:
    content = "".join(f"line {number}\n" for number in range(100))
    corpus = Files(write("a.txt", content), validation_fraction=0.2).load()
    (train,), (validation,) = texts(corpus.train), texts(corpus.validation)
    assert train + validation == content
    assert train.endswith("\n")
    assert 0.15 < len(validation) / len(content) < 0.25


def test_the_fingerprint_follows_content_and_not_paths() -> None:
    validation = write("v.txt", "v")
    first = Files(write("a.jsonl", rows_of("a", "b")), validation).load()
    moved = Files(write("other.jsonl", rows_of("a", "b")), validation).load()
    changed = Files(write("a.jsonl", rows_of("a", "c")), validation).load()
    joined = Files(write("a.jsonl", rows_of("ab", "")), validation).load()
    swapped = Files(write("a.jsonl", rows_of("b", "a")), validation).load()
    assert first.fingerprint == moved.fingerprint
    others = {first.fingerprint, changed.fingerprint, joined.fingerprint, swapped.fingerprint}
    assert len(others) == 4


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=8), cut=st.integers(0, 8)
)
def test_the_digest_of_rows_does_not_depend_on_chunks_or_string_types(contents: list[str], cut: int) -> None:
    whole = pa.table({"text": pa.array(contents, pa.large_string())})
    parts = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    small = pa.table({"text": pa.array(contents, pa.string())})
    assert rows_digest(whole) == rows_digest(parts) == rows_digest(small)


def test_checked_files_are_read_from_the_store_the_next_time(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, validation = write("a.jsonl", rows_of("a", "b")), write("v.txt", "v")
    first = Files(train, validation).load()
    assert len(list(store.iterdir())) == 2
    monkeypatch.setattr("datamodules.corpus.store.read_tables", None)
    assert Files(train, validation).load().fingerprint == first.fingerprint


def test_a_refused_file_leaves_nothing_in_the_store(store: Path) -> None:
    error_of(write("a.jsonl", rows_of(*"abc") + "{"))
    assert list(store.iterdir()) == []


def test_a_store_that_cannot_be_written_is_told(store: Path) -> None:
    store.parent.write_text("a file where the folder should be")
    assert error_of(write("a.jsonl", rows_of("a", "b"))) == (
        f"the data cache {store} cannot be written: Not a directory; "
        "expected a writable folder with enough free space\nhint: "
        "free some space, or set HF_HOME to another folder"
    )


BAD_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("a.txt", "", "data.train=a.txt is empty; expected text\nhint: check how the file was written"),
    "only spaces": (
        *("a.txt", " \n\n"),
        "a.txt contains no text; expected at least one row with text\nhint: check how the file was written",
    ),
    "empty gzip": (
        *("a.txt.gz", ""),
        "a.txt.gz contains no text; expected at least one row with text\n"
        "hint: check how the file was written",
    ),
    "binary": (
        *("a.txt", b"some\nby\0tes"),
        "a.txt, line 2, has a NUL byte, so this is a binary file or UTF-16; expected UTF-8 text\nhint: "
        "convert it to UTF-8, or choose another file",
    ),
    "an image": (
        *("a.txt", b"\x89PNG\r\n\x1a\n"),
        "a.txt is a PNG image; expected UTF-8 text\nhint: rename, unpack or convert the file",
    ),
    "Latin-1": (
        *("a.txt", "one\ntwo\nca\u00e9\n".encode("latin-1")),
        "a.txt, line 3, byte 3 of the line: 0xe9 is not UTF-8; expected UTF-8 text\nhint: "
        "convert it: iconv -f LATIN1 (or GB18030, ...) -t UTF-8 a.txt > NEW",
    ),
    "UTF-16": (
        *("a.txt", "text".encode("utf-16")),
        "a.txt is UTF-16 text; expected UTF-8\nhint: convert it: iconv -f UTF-16 -t UTF-8 a.txt > NEW",
    ),
    "unnamed gzip": (
        *("a.jsonl", gzip.compress(b"{}")),
        "a.jsonl is gzip-compressed, but its name does not end in .gz; expected UTF-8 text\nhint: "
        "rename, unpack or convert the file",
    ),
    "cut gzip": (
        *("a.jsonl.gz", gzip.compress(bytes(range(256)))[:-20]),
        "a.jsonl.gz is incomplete: its gzip data ends too early; expected the complete file\nhint: "
        "copy or download it again",
    ),
    "no gzip": (
        *("a.jsonl.gz", b"plain"),
        "a.jsonl.gz is not valid gzip: Not a gzipped file (b'pl'); "
        "expected a gzip file, according to its name\nhint: "
        "copy or download it again",
    ),
    "a broken line": (
        *("a.jsonl", rows_of("a", "b") + '{"text": "c"\n' + rows_of("d")),
        "a.jsonl, line 3: invalid JSON at character 13: Expecting ',' delimiter; "
        "expected one complete JSON object per line\nhint: correct or remove the line",
    ),
    "no object": (
        *("a.jsonl", '["a"]\n'),
        'a.jsonl, line 1: a list, not an object; expected an object such as {"text": "..."}'
        "\nhint: correct the file",
    ),
    "no column": (
        *("a.jsonl", lines({"story": "a", "id": 1})),
        "a.jsonl, line 1: there is no column 'text'; expected one of the columns present: story, id\nhint: "
        "set data.columns.text=story",
    ),
    "a missing key": (
        *("a.jsonl", lines({"text": "a"}, {"story": "b"})),
        f"a.jsonl, line 2: the key 'text' is missing; expected the same keys in every row\nhint: {REPAIR}",
    ),
    "null": (
        *("a.jsonl", lines({"text": "a"}, {"text": None})),
        f"a.jsonl, line 2: column 'text' contains null; expected text in every row\nhint: {REPAIR}",
    ),
    "mixed types": (
        *("a.jsonl", lines({"text": "a"}, {"text": "b"}, {"text": 5})),
        f"a.jsonl, line 3: column 'text' contains a number; expected text in every row\nhint: {REPAIR}",
    ),
    "half a character": (
        *("a.jsonl", '{"text": "\\ud83d"}\n'),
        "a.jsonl, line 1: column 'text' contains half of a surrogate pair (\\ud800 to \\udfff); "
        f"expected text in every row\nhint: {REPAIR}",
    ),
    "a broken list": (
        *("a.json", '[{"text": "a"},\n{"text": }]'),
        "a.json, line 2: invalid JSON at character 10: Expecting value; expected one list of objects\nhint: "
        "correct the file",
    ),
    "an empty list": (
        *("a.json", "[]"),
        "a.json contains no text; expected at least one row with text\nhint: check how the file was written",
    ),
    "a long record": (
        *("a.csv", 'text,n\na,1\n"two\nlines",2\nb,3,4\n'),
        "a.csv, line 5: 3 fields; expected 2, as in the header\nhint: "
        "put fields that contain separators, quotes or line breaks in double quotes",
    ),
    "an open quote": (
        *("a.csv", 'text,n\na,1\n"b,2\n'),
        "a.csv, line 3: unexpected end of data; expected fields with closed quotes\nhint: "
        'double each quote inside: ""',
    ),
    "no such header": (
        *("a.csv", "a,b\n1,2\n"),
        "a.csv: there is no column 'text'; expected one of the columns present: a, b\nhint: "
        "give the file such a column, or name it with data.columns.text=COLUMN",
    ),
    "a header only": (
        *("a.tsv", "text\tn\n"),
        "a.tsv contains no text; expected at least one row with text\nhint: check how the file was written",
    ),
    "no Parquet": (
        *("a.parquet", b"text"),
        "a.parquet cannot be read as Parquet: Parquet file size is 4 bytes, "
        "smaller than the minimum file footer (8 bytes); expected a complete Parquet file\nhint: "
        "copy or download it again",
    ),
    "only empty rows": (
        *("a.jsonl", rows_of("", "")),
        "a.jsonl contains no text; expected at least one row with text\nhint: check how the file was written",
    ),
    "one row": (
        *("a.jsonl", rows_of("a")),
        "a.jsonl is too small to hold out a part for validation; "
        "expected at least two different rows or lines\nhint: "
        "set data.validation=PATH",
    ),
    "an unknown kind": (
        *("a.pdf", "text"),
        "data.train=a.pdf is of an unknown kind; "
        "expected a file ending in .txt, .jsonl, .json, .csv, .tsv, .conll, .parquet, "
        "or one of these and .gz (not .parquet)\nhint: rename or convert the file",
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_is_answered_with_what_and_where(what: str) -> None:
    name, content, expected = BAD_FILES[what]
    assert error_of(write(name, content)) == expected


def test_a_broken_line_is_named_by_its_number_in_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.corpus.source_file._BLOCK_BYTES", 64)
    good = [f"row {number}" for number in range(100)]
    assert error_of(write("a.jsonl", rows_of(*good) + "{\n" + rows_of("b"))).startswith(
        "a.jsonl, line 101: invalid JSON"
    )
    latin = "".join(f"{row}\n" for row in good).encode() + b"\xe9\n"
    assert error_of(write("a.txt", latin)).startswith("a.txt, line 101, byte 1 of the line: 0xe9")


def test_columns_of_parquet_are_checked() -> None:
    pq.write_table(pa.table({"text": ["a", None]}), "null.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), "numbers.parquet")
    pq.write_table(pa.table({"story": ["a"]}), "other.parquet")
    assert error_of("null.parquet") == (
        f"null.parquet, row 2: column 'text' contains null; expected text in every row\nhint: {REPAIR}"
    )
    assert error_of("numbers.parquet").startswith(
        "numbers.parquet: column 'text' contains values of type int64;"
    )
    assert error_of("other.parquet").startswith(
        "other.parquet: there is no column 'text'; expected one of the columns"
    )


def test_a_further_column_of_two_types_is_refused() -> None:
    train = write("a.jsonl", lines({"text": "a", "n": 1}, {"text": "b", "n": "x"}))
    with pytest.raises(DataError) as caught:
        Files(train).load(Columns(("text", "n")))
    assert str(caught.value) == (
        "a.jsonl, line 2: column 'n' contains text; "
        f"expected a number, as before, in every row\nhint: {REPAIR}"
    )


def test_paths_that_lead_nowhere_are_answered_with_the_nearest_name() -> None:
    write("stories.jsonl", rows_of("a"))
    assert error_of("storys.jsonl") == (
        "data.train=storys.jsonl: there is no such file; expected an existing file"
        "\nhint: did you mean stories.jsonl?"
    )
    assert error_of("x/y.txt") == (
        "data.train=x/y.txt: there is no such file; expected an existing file\nhint: "
        "there is no folder x either: check the path"
    )
    assert error_of("*.txt") == (
        "data.train=*.txt matches no file; expected a pattern that matches files\nhint: check the pattern"
    )
    assert error_of([]) == "data.train is empty; expected at least one path\nhint: set data.train=PATH"
    assert error_of("stories.jsonl", "v.txt").startswith("data.validation=v.txt: there is no such file")


def test_validation_that_is_the_training_file_is_refused() -> None:
    remedy = (
        "expected text that is not trained on\nhint: give another file, "
        "or leave out data.validation to hold out a part of data.train"
    )
    train, copy = write("a.jsonl", rows_of("a", "b")), write("copy.jsonl", rows_of("a", "b"))
    assert (
        error_of(train, train) == f"validation file a.jsonl is identical to training file a.jsonl; {remedy}"
    )
    assert (
        error_of(train, copy) == f"validation file copy.jsonl is identical to training file a.jsonl; {remedy}"
    )
    packed = write("a.jsonl.gz", rows_of("a", "b"))
    assert (
        error_of(train, packed)
        == f"the validation rows of a.jsonl.gz are identical to the training rows; {remedy}"
    )


def test_impossible_options_are_refused_before_any_file_is_touched() -> None:
    assert error_of("nowhere", validation_fraction=1.5) == (
        "validation_fraction is 1.5; expected more than 0 and less than 1\nhint: set it to 0.05"
    )


def test_a_mirror_is_read_from_its_folder() -> None:
    Path("mirror/tales").mkdir(parents=True)
    write("mirror/tales/train.jsonl", rows_of("a", "b"))
    write("mirror/tales/validation.jsonl", rows_of("c"))
    corpus = Mirror("mirror", "tales/train.jsonl", "tales/validation.jsonl", name="tales").load()
    assert isinstance(corpus, Corpus)
    assert (corpus.name, list(texts(corpus.train)), list(texts(corpus.validation))) == (
        "tales",
        ["a", "b"],
        ["c"],
    )


def test_without_a_mirror_the_variable_to_set_is_named() -> None:
    with pytest.raises(DataError) as caught:
        Mirror(None, "tales/train.jsonl", name="tales").load()
    assert str(caught.value) == (
        "PRELUDE_DATA is not set, but tales is only in a local mirror; expected a folder that contains "
        "tales/train.jsonl\nhint: set PRELUDE_DATA=FOLDER, or choose data=storyworld or a corpus on the Hub"
    )
    with pytest.raises(
        DataError, match=r"^PRELUDE_DATA=nowhere is not a folder; expected a folder of local copies"
    ):
        Mirror("nowhere", "tales/train.jsonl").load()
