"""A folder as a corpus, and what a reader tells of what it decided."""

from pathlib import Path

import pytest

from datamodules.corpus import Columns, Files, Mixture, read_rows, texts
from datamodules.errors import DataError

LABELLED = Columns(("text", "label"))


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(*names: str, content: str | None = None) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f"text of {name}" if content is None else content)


def error_of(path: str) -> str:
    with pytest.raises(DataError) as caught:
        Files(path).load()
    return str(caught.value)


def test_a_folder_is_its_files_of_text_in_order() -> None:
    write(
        "tales/b.txt",
        "tales/a.TXT",
        "tales/more/c.txt",
        "tales/.hidden/d.txt",
        "tales/.e.txt",
        "tales/notes.md",
    )
    corpus = Files("tales", validation_fraction=0.4).load()
    assert corpus.n_train_rows == 2
    assert corpus.notes == ["3 files of the folder tales"]
    assert [source["uri"] for source in corpus.sources] == ["tales/a.TXT", "tales/b.txt", "tales/more/c.txt"]
    write("v/a.txt")
    assert list(texts(Files("tales/", "v").load().validation)) == ["text of v/a.txt"]


def test_a_folder_that_is_no_one_corpus_is_refused_with_what_works() -> None:
    write("mixed/a.txt", "mixed/b/c.txt", "mixed/labels.csv")
    message = error_of("mixed")
    assert message == (
        "data.train=mixed is a folder with several kinds of files: 2 .txt, 1 .csv; expected files of one kind"
        "\nhint: "
        "set data.train='mixed/**/*.txt'"
    )
    assert Files("mixed/**/*.txt").load().n_train_rows == 1
    write("split/train.csv", "split/test.csv")
    assert error_of("split") == (
        "data.train=split is a folder with test.csv, which seems to contain held-out rows; "
        "expected a folder with the rows of one split\nhint: set data.train=split/train.csv"
    )
    write("imdb/train/pos/1.txt", "imdb/train/neg/1.txt", "imdb/test/pos/1.txt")
    assert error_of("imdb").endswith("set data.train=[imdb/train/neg/1.txt,imdb/train/pos/1.txt]")
    write("empty/notes.md")
    assert error_of("empty").startswith("data.train=empty is a folder without data files; expected a file")


def test_a_separator_that_is_no_comma_is_told_of_files_mixtures_and_rows_to_be_answered() -> None:
    rows = "".join(f"row {number};{number % 2}\n" for number in range(40))
    write("a.csv", "b.csv", content="text;label\n" + rows)
    write("c.csv", content="text,label\nx,1\n")
    note = "a.csv is separated by semicolons"
    assert Files("a.csv", "c.csv").load(LABELLED).notes == [note]
    assert Mixture({"mine": Files("a.csv")}).load(LABELLED).notes == [f"mine: {note}"]
    assert Files(["a.csv", "b.csv"], "c.csv").load(LABELLED).notes == [
        "a.csv and 1 more are separated by semicolons"
    ]
    told: list[str] = []
    read_rows("a.csv", {}, LABELLED, say=told.append)
    read_rows("c.csv", {}, LABELLED, say=told.append)
    assert told == [note]
