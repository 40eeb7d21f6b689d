"""What is known of a corpus without reading it is what reading it tells."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from datamodules.corpus import Corpus, Row, texts
from datamodules.corpus.rows import LazyRows
from datamodules.errors import DataError
from pipeline import known_corpus as module
from pipeline.config.compose import compose
from pipeline.config.plain import Config
from pipeline.known_corpus import KnownCorpus, known_corpus
from pipeline.prepare import load_corpus


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Config]:
    words = ["data.n_train_rows=20", "data.n_validation_rows=10", f"cache_dir={tmp_path / 'cache'}"]
    return lambda *more: compose("pretrain", [*words, *more])


def told(known: KnownCorpus) -> list[object]:
    """All that a corpus tells, its rows too."""
    corpus = known.corpus
    facts = [corpus.name, corpus.fingerprint, corpus.sources, corpus.notes, corpus.repeated]
    sizes = [corpus.n_train_rows, corpus.n_validation_rows, corpus.n_test_rows]
    rows = [list(texts(corpus.train)), list(texts(corpus.validation)), rows_of(corpus.test)]
    return [*facts, *sizes, *rows, known.cleaned, known.texts, known.optimum_bits_per_byte]


def rows_of(rows: Iterable[Row] | None) -> list[Row] | None:
    return None if rows is None else list(rows)


def is_read(corpus: Corpus) -> bool:
    return not isinstance(corpus.train, LazyRows)


@pytest.mark.parametrize("more", [[], ["cleaning.lowercase=true", "data.n_test_rows=4"]])
def test_a_corpus_from_the_cache_tells_what_reading_it_told(
    more: list[str], configured: Callable[..., Config]
) -> None:
    first, second = known_corpus(configured(*more)), known_corpus(configured(*more))
    assert (is_read(first.corpus), is_read(second.corpus)) == (True, False)
    assert told(second) == told(first)


@pytest.mark.slow
def test_other_arguments_cleaning_or_code_are_read_anew(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    known_corpus(configured())
    for more in ("data.seed=1", "data.n_train_rows=21", "cleaning.lowercase=true"):
        assert is_read(known_corpus(configured(more)).corpus)
    monkeypatch.setattr(module, "code_version", lambda *packages: "of tomorrow")
    assert is_read(known_corpus(configured()).corpus)


def test_a_damaged_cache_is_made_anew(configured: Callable[..., Config], tmp_path: Path) -> None:
    known_corpus(configured())
    (file,) = (tmp_path / "cache" / "corpora").iterdir()
    file.write_text("{")
    assert is_read(known_corpus(configured()).corpus)
    assert not is_read(known_corpus(configured()).corpus)


def test_files_are_known_until_their_names_or_bytes_change(tmp_path: Path) -> None:
    file = tmp_path / "my.txt"
    file.write_text("".join(f"Line {i}, once more.\n" for i in range(50)))
    words = [f"cache_dir={tmp_path / 'cache'}", "data=files", f"data.train={tmp_path}/*.txt"]
    config = compose("pretrain", words)
    first, second = known_corpus(config), known_corpus(config)
    assert (is_read(first.corpus), is_read(second.corpus)) == (True, False)
    assert told(second) == told(first)
    file.rename(tmp_path / "other.txt")
    renamed = known_corpus(config).corpus
    assert is_read(renamed)
    assert renamed.sources[0]["uri"] == str(tmp_path / "other.txt")
    (tmp_path / "other.txt").write_text("".join(f"Line {i}, again.\n" for i in range(50)))
    assert is_read(known_corpus(config).corpus)


def test_facts_of_files_that_change_while_they_are_read_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my.txt"
    first = "".join(f"Line {i}, once more.\n" for i in range(50))
    file.write_text(first)
    config = compose("pretrain", [f"cache_dir={tmp_path / 'cache'}", "data=files", f"data.train={file}"])

    def changed(*given: object) -> object:
        file.write_text(first.replace("once more", "again"))
        return load_corpus(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "load_corpus", changed)
        known_corpus(config)
    file.write_text(first)
    assert "once more" in "".join(texts(known_corpus(config).corpus.train))


def test_rows_that_changed_after_the_facts_were_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "my.txt"
    file.write_text("".join(f"Line {i}, once more.\n" for i in range(50)))
    config = compose("pretrain", [f"cache_dir={tmp_path / 'cache'}", "data=files", f"data.train={file}"])
    known_corpus(config)
    known = known_corpus(config)
    file.write_text("".join(f"Line {i}, again.\n" for i in range(50)))
    with pytest.raises(DataError, match="the files of the corpus my have changed since the run began"):
        list(known.corpus.train)


def test_a_mixture_is_known_if_all_of_its_sources_are(tmp_path: Path) -> None:
    def is_known(*words: str) -> bool:
        config = compose("pretrain", [f"cache_dir={tmp_path / 'cache'}", "data=mixture", *words])
        known_corpus(config)
        return not is_read(known_corpus(config).corpus)

    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("".join(f"Line {i} of {name}.\n" for i in range(50)))
    sources = [
        f"data.sources.{name}={{_target_: datamodules.corpus.Files, train: {tmp_path / name}.txt}}"
        for name in ("a", "b")
    ]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train.txt").write_text("".join(f"Line {i}.\n" for i in range(50)))
    options = f"path: {folder}, validation_split: null, n_held_out_rows: 5"
    hub = f"data.sources.c={{_target_: datamodules.corpus.Hub, {options}}}"
    assert is_known(*sources)
    assert not is_known(*sources, hub)


def test_a_long_text_is_shown_from_its_beginning_only(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name + "x" * 2 * module.TEXT_CHARACTERS)
    files = [f"data.train={tmp_path / 'a.txt'}", f"data.validation={tmp_path / 'b.txt'}"]
    known = known_corpus(compose("pretrain", [f"cache_dir={tmp_path / 'cache'}", "data=files", *files]))
    assert known.texts == [("b.txt" + "x" * 2 * module.TEXT_CHARACTERS)[: module.TEXT_CHARACTERS]]
