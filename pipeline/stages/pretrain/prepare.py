"""Prepare the corpus, the tokenizer, the token rows and the model of a pretraining run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from datamodules.cache import TokenRows
from datamodules.corpus import Corpus
from datamodules.tokenizer import Tokenizer
from pipeline import report
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.config.tasks import pretraining_task
from pipeline.known_corpus import known_corpus
from pipeline.machine.devices import for_rows
from pipeline.prepare import (
    asked_vocab_size,
    build_rows,
    build_tokenizer,
)
from pipeline.runs.tokenizers import maker_of, tokenizer_tags
from pipeline.tasks.base import PretrainingTask
from pipeline.tracking import DatasetRecord
from pipeline.training.states import Prepared, Started


@dataclass(frozen=True, kw_only=True)
class Pretraining(Prepared):
    """A pretraining run that is ready to train.

    Args:
        task: the pretraining task.
        train_rows: the token rows for training.
        validation_rows: the token rows for validation.
        texts: the beginnings of the first validation texts.
        tokenizer_run: the name of the run that trained the tokenizer, if there is one.
        optimum_bits_per_byte: the exact entropy of the validation rows, if known.
    """

    task: PretrainingTask
    train_rows: TokenRows
    validation_rows: TokenRows
    texts: Sequence[str]
    tokenizer_run: str | None
    optimum_bits_per_byte: float | None


def prepare(started: Started) -> Pretraining:
    """Read the corpus and build the tokenizer, the token rows and the model, reporting each."""
    config, options, bundle, tracked = started.config, started.options, started.bundle, started.tracked
    task = pretraining_task(config)
    known = known_corpus(config)
    corpus = known.corpus
    report.say_corpus(corpus, known.cleaned)
    torch.manual_seed(config.seed)
    if bundle is None:
        tokenizer = build_tokenizer(config, corpus)
        model, asked = build_model(to_plain(config.model), tokenizer), asked_vocab_size(config)
    else:
        tokenizer, model, asked = bundle.tokenizer, bundle.model.train(), None
        report.say("Start", f"weights and tokenizer of {report.short(bundle.folder)}")
    report.say("Tokenizer", f"{config.choices.tokenizer}, {report.describe_tokenizer(tokenizer, asked)}")
    tokenizer_run = maker_of(tokenizer, Path(config.runs_dir)) if bundle is None else None
    if tokenizer_run is not None:
        tracked.set_tags(tokenizer_tags(tokenizer_run))
    limit = model.backbone.max_seq_len
    train_rows, validation_rows = build_rows(config, options, corpus, tokenizer, task, max_seq_len=limit)
    report.say("Tokens", report.describe_rows(train_rows, validation_rows))
    report.say("Model", report.describe_model(model))
    tracked.log_dataset(_dataset(corpus, tokenizer, train_rows), "train")
    tracked.log_dataset(_dataset(corpus, tokenizer, validation_rows), "validation")
    return Pretraining(
        **vars(replace(started, options=for_rows(options, len(train_rows)))),
        task=task,
        corpus=corpus,
        tokenizer=tokenizer,
        model=model,
        train_rows=train_rows,
        validation_rows=validation_rows,
        n_rows=len(train_rows),
        texts=known.texts,
        tokenizer_run=None if tokenizer_run is None else tokenizer_run.name,
        optimum_bits_per_byte=known.optimum_bits_per_byte,
    )


def _dataset(corpus: Corpus, tokenizer: Tokenizer, rows: TokenRows) -> DatasetRecord:
    """Describe token rows as an input of the run."""
    counts = rows.manifest["counts"]
    return DatasetRecord(
        name=corpus.name,
        digest=rows.manifest["sha256"],
        source=corpus.uri,
        columns={"input_ids": "integer"},
        profile={"rows": len(rows), "corpus": corpus.fingerprint, "tokenizer": tokenizer.digest, **counts},
    )
