"""From the configuration to things, one function a step: corpus, tokenizer, token rows, model."""

import hashlib
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from datamodules import cache, packing
from datamodules.cleaning import Cleaner
from datamodules.corpus import TEXT_ONLY, Columns, Corpus, texts
from datamodules.corpus.held_out import with_repeated
from datamodules.corpus.rows import TEXT
from datamodules.source import Source
from datamodules.tokenizer import Tokenizer, TokenizerTrainer
from modules.init import initialize
from modules.model import Model
from modules.transformer import Transformer
from pipeline.config.construct import class_of, construct
from pipeline.config.plain import Config, to_plain
from pipeline.errors import CacheError, ConfigError, TokenizerError
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.finetuning import FinetuneTask
from pipeline.training.trainer import TrainerOptions

T = TypeVar("T")

#: Seeds the corruption of validation rows: the same in every run, so that numbers compare; not training's.
VALIDATION_SEED = 2**31 - 1

#: Tokens in a row: room for <bos>, two tokens and <eos>; and segment ids fit in 16 bits.
MIN_SEQ_LEN, MAX_SEQ_LEN = 4, 2**16 - 2

#: Documents that are tokenized at once; the library spreads them over the cores.
ENCODE_DOCUMENTS = 1024


def pretraining_task(config: Config) -> PretrainingTask:
    """The task of a stage that reads raw text.

    Raises:
        ConfigError: the task learns from labelled rows.
    """
    task = construct(config.task, PretrainingTask, FinetuneTask)
    if isinstance(task, FinetuneTask):
        raise ConfigError(
            f"task={config.choices.task} learns from labelled rows",
            "a task that learns from raw text",
            f"use `make finetune-{config.choices.task}`, or task=causal_lm",
        )
    return task


def finetuning_task(config: Config) -> FinetuneTask:
    """The task of a stage that reads labelled rows.

    Raises:
        ConfigError: the task learns from raw text.
    """
    task = construct(config.task, FinetuneTask, PretrainingTask)
    if not isinstance(task, FinetuneTask):
        raise ConfigError(
            f"task={config.choices.task} learns from raw text",
            "a task that learns from labelled rows",
            f"use `make pretrain-{config.choices.task}`, or task=classify",
        )
    return task


def to_node(thing: Any) -> dict[str, Any]:
    """The configuration node that a dataclass is built from; what is left at its default is left out."""
    kind = type(thing)
    values = {item.name: (getattr(thing, item.name), item.default) for item in fields(thing)}
    given = {name: value for name, (value, default) in values.items() if value != default}
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **given}


def check_values(config: Config) -> None:
    """Build all that costs nothing, so that impossible values are known before any data is read.

    Raises:
        ConfigError: when a class refuses a value.
    """
    for key in config:
        node = to_plain(config[key])
        if isinstance(node, Mapping) and "_target_" in node:
            construct(node)
    if "model" in config:
        check_model(config)


def check_model(config: Config) -> None:
    """Build the model without memory, so that impossible sizes are known before any data is read.

    Raises:
        ConfigError: for an impossible size, or rows that are too short or too long to be packed.
    """
    max_seq_len = int(config.model.backbone.max_seq_len)
    if not MIN_SEQ_LEN <= max_seq_len <= MAX_SEQ_LEN:
        raise ConfigError(
            f"max_seq_len is {max_seq_len}",
            f"{MIN_SEQ_LEN} to {MAX_SEQ_LEN:,} tokens: a row holds its beginning, its end and text between",
            "set size.max_seq_len",
        )
    with torch.device("meta"):
        backbone = construct(config.model.backbone, Transformer, vocab_size=512)
        if "_target_" in config.model.head:  # else the task makes it, when it has seen the data
            build_head(to_plain(config.model.head), backbone)


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
                "the file as it was written",
                "delete it and run again",
            ) from error
    some = _some_text(texts(corpus.train) if text is None else text, config.tokenizer_text_bytes)
    tokenizer: Tokenizer = interruptibly(lambda: trainer.train(some))
    tokenizer.save(file)
    return tokenizer


def build_rows(
    config: Config, corpus: Corpus, tokenizer: Tokenizer, task: PretrainingTask, *, max_seq_len: int
) -> tuple[cache.TokenRows, cache.TokenRows]:
    """Training and validation rows of tokens, from the cache where these inputs have been seen.

    Of a stream only as many rows are read as the run needs; more steps need another cache.
    """
    options: TrainerOptions = construct(config.trainer)
    needed = options.n_steps * options.batch_size * options.accumulate
    streamed = corpus.n_train_rows is None
    train = _rows(config, corpus, "train", tokenizer, task, max_seq_len, needed if streamed else None)
    return train, build_validation_rows(config, corpus, tokenizer, task, max_seq_len=max_seq_len)


def build_validation_rows(
    config: Config, corpus: Corpus, tokenizer: Tokenizer, task: PretrainingTask, *, max_seq_len: int
) -> cache.TokenRows:
    """Validation rows of tokens, at most `trainer.val_rows`."""
    return _rows(
        config,
        corpus,
        "validation",
        tokenizer,
        task,
        max_seq_len,
        construct(config.trainer, TrainerOptions).val_rows,
    )


def build_model(model_config: Mapping[str, Any], tokenizer: Tokenizer) -> Model:
    """A model with its first weights."""
    backbone = build_backbone(model_config["backbone"], tokenizer)
    model = Model(backbone, build_head(model_config["head"], backbone))
    initialize(model, model_config["init"])
    return model


def build_backbone(node: Mapping[str, Any], tokenizer: Tokenizer) -> Transformer:
    """The backbone that `node` describes, for the tokenizer's vocabulary, or its two."""
    sizes = {"vocab_size": tokenizer.vocab_size}
    if tokenizer.has_own_target:
        sizes["target_vocab_size"] = tokenizer.target.vocab_size
    return construct(node, Transformer, **sizes)


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


def build_head(node: Mapping[str, Any], backbone: Transformer) -> torch.nn.Module:
    """The head that `node` describes, with what it needs of the backbone."""
    known = {"embedding": backbone.output_embedding, "d_model": backbone.d_model}
    wanted = inspect.signature(class_of(node, torch.nn.Module, path="model.head")).parameters
    return construct(node, torch.nn.Module, **{name: known[name] for name in known if name in wanted})


def head_node(head: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """The task's head with those options of the `present` one that it takes too, such as a soft cap."""
    taken = inspect.signature(class_of(head, torch.nn.Module, path="model.head")).parameters
    return {**{key: value for key, value in present.items() if key in taken}, **head}


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
