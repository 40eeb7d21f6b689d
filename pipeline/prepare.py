"""Prepare the inputs of a run: its corpus, tokenizer and token rows, from the cache if possible."""

import hashlib
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from datamodules import cache, packing
from datamodules.cleaning import Cleaner
from datamodules.corpus import TEXT_ONLY, Columns, Corpus, texts
from datamodules.corpus.batches import in_batches
from datamodules.corpus.held_out import with_repeated
from datamodules.corpus.rows import TEXT
from datamodules.source import Source
from datamodules.tokenizer import Tokenizer, TokenizerTrainer
from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.errors import CacheError, TokenizerError
from pipeline.machine.devices import rows_per_step
from pipeline.machine.options import TrainerOptions
from pipeline.tasks.base import PretrainingTask

T = TypeVar("T")

#: Seed for the corruption of validation rows: the same in every run, so that metrics are comparable.
VALIDATION_SEED = 2**31 - 1


#: Documents tokenized per batch; the library distributes them over the cores.
ENCODE_DOCUMENTS = 1024


def load_corpus(config: Config, columns: Columns = TEXT_ONLY) -> tuple[Corpus, dict[str, int]]:
    """Read and clean the corpus; return it with counts of what cleaning changed or dropped."""
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
    """Return the exact entropy of the validation rows, or None if the probability of texts is not known."""
    bits = n_bytes = 0.0
    for row in corpus.validation:
        if "bits" not in row:
            return None
        bits += row["bits"]
        n_bytes += len(str(row["text"]).encode())
    return bits / n_bytes


def asked_vocab_size(config: Config) -> int | None:
    """Return the requested size of a trained vocabulary, or None if the tokenizer's size is fixed."""
    size: int | None = config.tokenizer.get("vocab_size")
    return size


def build_tokenizer(
    config: Config, corpus: Corpus, text: Iterable[str] | None = None, *, columns: Sequence[str] = (TEXT,)
) -> Tokenizer:
    """Return a tokenizer trained on the corpus, from the cache if it was trained on the same inputs before.

    `text` replaces the column `text` as training text; it must be a function of the corpus and `columns`.
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
    """Return the token rows for training and validation, from the cache if they were made before.

    A stream is read only as far as the run needs; a run with more steps needs another cache entry.
    """
    needed = None
    if corpus.n_train_rows is None:
        needed = options.n_steps * rows_per_step(options)
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
    """Return the token rows for validation, at most `trainer.val_rows`."""
    return _rows(config, corpus, "validation", tokenizer, task, max_seq_len, options.val_rows)


def interruptibly(work: Callable[[], T]) -> T:
    """Run long native code in another thread, so that signals are handled at once.

    Python handles signals only in the main thread, between bytecode instructions. The main thread therefore
    waits for the result.
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
    """Return a hash of the source code of modules, so that caches made by other code are not used."""
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
    """Yield each document as ids, from <bos> to <eos>, and its length in bytes of UTF-8."""
    for batch in in_batches(texts(rows), len, most=ENCODE_DOCUMENTS):
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
