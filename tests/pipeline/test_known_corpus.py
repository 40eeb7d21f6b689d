"""What is known of a corpus without reading it is what reading it tells."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from datamodules.corpus import Corpus, Row, texts
from datamodules.corpus.rows import LazyRows
from pipeline import known_corpus as module
from pipeline.config.compose import compose
from pipeline.config.plain import Config
from pipeline.known_corpus import KnownCorpus, known_corpus


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


def test_files_are_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "my.txt"
    file.write_text("".join(f"Line {i}, once more.\n" for i in range(50)))
    config = compose("pretrain", ["data=files", f"data.train={file}", f"cache_dir={tmp_path / 'cache'}"])
    known_corpus(config)
    assert is_read(known_corpus(config).corpus)
