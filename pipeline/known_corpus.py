"""Facts about a pretraining corpus in the cache, so that a run with cached token rows parses no text."""

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules.cache import cache_key
from datamodules.corpus import Corpus, LazyRows, texts
from datamodules.errors import DataError
from datamodules.files import write_whole
from datamodules.source import Source
from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.prepare import code_version, load_corpus, optimum_bits_per_byte

#: The validation texts on which masked and denoising models show sample outputs, and how much of each: a text
#: may be a whole book.
N_TEXTS, TEXT_CHARACTERS = 3, 4_000

_SPLITS = ("train", "validation", "test")
_FACTS = ("name", "fingerprint", "sources", "notes", "repeated")


@dataclass(frozen=True, kw_only=True)
class KnownCorpus:
    """A cleaned corpus whose rows are read lazily.

    Args:
        corpus: the rows.
        cleaned: how often cleaning changed or dropped something, by kind.
        texts: the beginnings of the first validation texts.
        optimum_bits_per_byte: the exact entropy of the validation rows, if known.
    """

    corpus: Corpus
    cleaned: dict[str, int]
    texts: list[str]
    optimum_bits_per_byte: float | None


def known_corpus(config: Config) -> KnownCorpus:
    """Return the corpus of a configuration, with its facts from the cache if they are there.

    Rows of a source that has no snapshot, such as a data set on the Hub, are read and checked each time.
    """
    source = construct(config.data, Source)
    snapshot = source.snapshot()
    if snapshot is None:
        return _read(config)
    parts = {
        "corpus": snapshot,
        "data": to_plain(config.data),
        "cleaning": to_plain(config.cleaning),
        "code": code_version("datamodules", "pipeline.prepare", __name__),
    }
    file = Path(config.cache_dir) / "corpora" / f"{cache_key(**parts)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # missing or damaged: computed below
        return _from_facts(json.loads(file.read_text(encoding="utf-8")), config)
    known = _read(config)
    if source.snapshot() != snapshot:  # files changed while they were read
        return known
    with suppress(OSError):  # the token cache, which a run needs, reports this
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(_facts(known), ensure_ascii=False), durable=False)
    return known


def _read(config: Config) -> KnownCorpus:
    corpus, cleaned = load_corpus(config)
    return KnownCorpus(
        corpus=corpus,
        cleaned=cleaned,
        texts=[text[:TEXT_CHARACTERS] for text in islice(texts(corpus.validation), N_TEXTS)],
        optimum_bits_per_byte=optimum_bits_per_byte(corpus),
    )


def _facts(known: KnownCorpus) -> dict[str, Any]:
    corpus = known.corpus
    return {
        "corpus": {name: getattr(corpus, name) for name in _FACTS},
        "n_rows": {split: getattr(corpus, f"n_{split}_rows") for split in _SPLITS},
        "known": {name: value for name, value in vars(known).items() if name != "corpus"},
    }


def _from_facts(facts: dict[str, Any], config: Config) -> KnownCorpus:
    @cache
    def read() -> Corpus:
        corpus = load_corpus(config)[0]
        if corpus.fingerprint != facts["corpus"]["fingerprint"]:
            raise DataError(
                f"the files of the corpus {corpus.name} have changed since the run began",
                "files that stay as they are",
                "start the run again",
            )
        return corpus

    def rows(split: str) -> LazyRows:
        return LazyRows(facts["n_rows"][split], lambda: getattr(read(), split))

    test = None if facts["n_rows"]["test"] is None else rows("test")
    corpus = Corpus(train=rows("train"), validation=rows("validation"), test=test, **facts["corpus"])
    return KnownCorpus(corpus=corpus, **facts["known"])
