"""What a run reads before it trains: its corpus, tokenizer and token rows, from the cache or made now."""

import hashlib
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from datamodules import cache, packing
from datamodules.cleaning import Cleaner
from datamodules.corpus import TEXT_ONLY, Columns, Corpus, texts
from datamodules.corpus.held_out import with_repeated
from datamodules.corpus.rows import TEXT
from datamodules.source import Source
from datamodules.tokenizer import Tokenizer, TokenizerTrainer
from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.errors import CacheError, TokenizerError
from pipeline.machine.options import TrainerOptions
from pipeline.tasks.base import PretrainingTask

T = TypeVar("T")

#: Seeds the corruption of validation rows: the same in every run, so that numbers compare; not training's.
VALIDATION_SEED = 2**31 - 1


#: Documents that are tokenized at once; the library spreads them over the cores.
ENCODE_DOCUMENTS = 1024


def load_corpus(config: Config, columns: Columns = TEXT_ONLY) -> tuple[Corpus, dict[str, int]]:
    """Read and clean the corpus; also the counts of what cleaning did."""
    corpus: Corpus = construct(config.data, Source).load(columns)
    cleaner = construct(config.cleaning, Cleaner)
    train, counts = cleaner.clean(corpus.train)
    validation, _ = cleaner.clean(corpus.validation)
    fingerprint = cache.cache_key(
        corpus=corpus.fingerprint,
        cleaning=to_plain(config.cleaning),
        code=code_version("datamodules.cleaning"),
    )
    cleaned = replace(corpus, train=train, validation=validation, fingerprint=fingerprint)
    return with_repeated(cleaned, (TEXT,)), counts


def optimum_bits_per_byte(corpus: Corpus) -> float | None:
    """The exact entropy of the validation rows, where the corpus knows the probability of its texts."""
    bits = n_bytes = 0.0
    for row in corpus.validation:
        if "bits" not in row:
            return None
        bits += row["bits"]
        n_bytes += len(str(row["text"]).encode())
    return bits / n_bytes


def asked_vocab_size(config: Config) -> int | None:
    """The size that a trained vocabulary is to have; None where the tokenizer has a size of its own."""
    size: int | None = config.tokenizer.get("vocab_size")
    return size


def build_tokenizer(
    config: Config, corpus: Corpus, text: Iterable[str] | None = None, *, columns: Sequence[str] = (TEXT,)
) -> Tokenizer:
    """The tokenizer trained on the corpus: from the cache where these inputs have been seen, or now.

    `text` is what it is trained on, if not the column `text`; it is a function of the corpus and `columns`.
    """
    trainer = construct(config.tokenizer, TokenizerTrainer)
    parts = {
        "corpus": corpus.fingerprint,
        "columns": list(columns),
        "tokenizer": trainer.describe(),
        "text_bytes": config.tokenizer_text_bytes,
        "code": code_version("datamodules.tokenizer"),
    }
    file = Path(config.cache_dir) / "tokenizers" / f"{cache.cache_key(**parts)}.json"
    if file.exists():
        try:
            return Tokenizer.from_file(file)
        except TokenizerError as error:
            raise CacheError(
                f"{file} in the cache is damaged ({error.problem})",
                "the file as it was saved",
                "delete the file and run the command again",
            ) from error
    some = _some_text(texts(corpus.train) if text is None else text, config.tokenizer_text_bytes)
    tokenizer: Tokenizer = interruptibly(lambda: trainer.train(some))
    tokenizer.save(file)
    return tokenizer


def build_rows(
    config: Config,
    options: TrainerOptions,
    corpus: Corpus,
    tokenizer: Tokenizer,
    task: PretrainingTask,
    *,
    max_seq_len: int,
) -> tuple[cache.TokenRows, cache.TokenRows]:
    """Training and validation rows of tokens, from the cache where these inputs have been seen.

    Of a stream only as many rows are read as the run needs; more steps need another cache.
    """
    needed = None
    if corpus.n_train_rows is None:
        needed = options.n_steps * options.batch_size * options.accumulate
    train = _rows(config, corpus, "train", tokenizer, task, max_seq_len, needed)
    return train, build_validation_rows(config, options, corpus, tokenizer, task, max_seq_len=max_seq_len)


def build_validation_rows(
    config: Config,
    options: TrainerOptions,
    corpus: Corpus,
    tokenizer: Tokenizer,
    task: PretrainingTask,
    *,
    max_seq_len: int,
) -> cache.TokenRows:
    """Validation rows of tokens, at most `trainer.val_rows`."""
    return _rows(config, corpus, "validation", tokenizer, task, max_seq_len, options.val_rows)


def interruptibly(work: Callable[[], T]) -> T:
    """Do long work of foreign code so that a signal is answered at once.

    Python hears signals in its main thread only, and only between instructions of its own: that thread waits,
    and another works.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()


def code_version(*packages: str) -> str:
    """Hash of the source of modules: what was made by other code is made again."""
    digest = hashlib.sha256()
    for package in packages:
        module = sys.modules[package]
        for file in sorted(_source_files(module)):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _rows(
    config: Config,
    corpus: Corpus,
    split: str,
    tokenizer: Tokenizer,
    task: PretrainingTask,
    max_seq_len: int,
    max_rows: int | None,
) -> cache.TokenRows:
    parts = {
        "corpus": corpus.fingerprint,
        "split": split,
        "tokenizer": tokenizer.digest,
        "packing": config.packing,
        "row_tokens": task.row_tokens(max_seq_len),
        "overlap": task.overlap,
        "max_rows": max_rows,
        "code": code_version("datamodules.packing", "datamodules.cache", "datamodules.tokenizer"),
    }

    def build(writer: cache.RowWriter) -> dict[str, Any]:
        report = packing.PackingReport()
        documents = _encoded(getattr(corpus, split), tokenizer)
        text_bytes = 0

        def counted() -> Iterator[npt.NDArray[np.int32]]:
            nonlocal text_bytes
            for document, n_bytes in documents:
                text_bytes += n_bytes
                yield document

        chunks = packing.pack(
            counted(),
            row_tokens=parts["row_tokens"],
            overlap=task.overlap,
            mode=config.packing,
            pad_id=tokenizer.pad_id,
            max_rows=max_rows,
            report=report,
        )
        for ids, segment_ids in chunks:
            writer.write(ids, segment_ids)
        return {**report.as_dict(), "text_bytes": text_bytes}

    store = cache.TokenCache(Path(config.cache_dir) / "rows")
    return store.get_or_build(cache.cache_key(**parts), parts, build, vocab_size=tokenizer.vocab_size)


def _encoded(
    rows: Iterable[Mapping[str, Any]], tokenizer: Tokenizer
) -> Iterator[tuple[npt.NDArray[np.int32], int]]:
    """Each document as ids with its beginning and end, and its length in bytes of UTF-8."""
    documents = texts(rows)
    while batch := list(islice(documents, ENCODE_DOCUMENTS)):
        encoded = interruptibly(partial(tokenizer.encode_batch, batch))
        for text, ids in zip(batch, encoded, strict=True):
            document = np.concatenate(([tokenizer.bos_id], ids, [tokenizer.eos_id])).astype(np.int32)
            yield document, len(text.encode())


def _some_text(documents: Iterable[str], max_bytes: int) -> Iterator[str]:
    taken = 0
    for text in documents:
        if taken >= max_bytes:
            return
        taken += len(text.encode())
        yield text


def _source_files(module: types.ModuleType) -> list[Path]:
    file = Path(inspect.getsourcefile(module) or "")
    return list(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
