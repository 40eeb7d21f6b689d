"""Pretraining: corpus, tokenizer, token rows, model, training, bundles."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.cache import TokenRows
from datamodules.collate import RowBatch
from datamodules.corpus import Corpus, texts
from datamodules.datamodule import PretrainDataModule
from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions
from modules.model import Model
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.model import build_model
from pipeline.config.plain import Config, to_plain
from pipeline.config.tasks import pretraining_task
from pipeline.evaluation.attention_picture import log_attention
from pipeline.evaluation.language import LanguageEvaluation, evaluate_language_model
from pipeline.evaluation.rows import HeldOut, keep_samples
from pipeline.machine.choice import describe_machine, with_chosen
from pipeline.machine.devices import check_device, for_rows
from pipeline.machine.options import TrainerOptions
from pipeline.prepare import (
    VALIDATION_SEED,
    asked_vocab_size,
    build_rows,
    build_tokenizer,
    load_corpus,
    optimum_bits_per_byte,
)
from pipeline.runs.bundle import Bundle, parent_of
from pipeline.runs.folders import RunFolder, open_run
from pipeline.runs.inputs import inputs_of
from pipeline.runs.start import load_same_arrangement, with_bundle
from pipeline.runs.tokenizers import edge_to, maker_of
from pipeline.stages.following import after_pretraining
from pipeline.tasks.base import GAP, PretrainingTask, Sample
from pipeline.tracking import DatasetRecord, Run
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.fit import (
    BundleParts,
    Training,
    corpus_record,
    export,
    label_of,
    load_weights,
    track,
    train,
)

#: Validation texts that masked and denoising models show their work on.
N_TEXTS = 3


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All that a pretraining run is made of, before training."""

    task: PretrainingTask
    corpus: Corpus
    tokenizer: Tokenizer
    train_rows: TokenRows
    validation_rows: TokenRows
    model: Model
    model_config: Mapping[str, Any]
    tokenizer_run: str | None
    texts: list[str]
    optimum_bits_per_byte: float | None


def pretrain(config: Config) -> StageResult:
    """Train from scratch, or go on from a bundle (`init_from`) or an unfinished run (`resume`)."""
    check_device(construct(config.trainer, TrainerOptions))
    pretraining_task(config)
    start = None if config.init_from is None else load_same_arrangement(config)
    inputs = inputs_of(config, used=None if start is None else start.folder)
    if start is not None:
        config = with_bundle(config, start)
    label = label_of(config)
    with open_run(config, label=label, inputs=inputs) as run, track(config, run) as tracked:
        config = with_chosen(config, run.record.chosen)
        machine = describe_machine(config, run.record.chosen)
        report.say("Run", f"{report.short(run.path)}{' (resumed)' if run.resumed else ''}, {machine}")
        parts = _prepare(config, start, tracked)
        options = for_rows(construct(config.trainer, TrainerOptions), len(parts.train_rows))
        checkpoints, pace = train(config, options, _training(config, options, parts, tracked), run, tracked)
        evaluation = _evaluate(config, options, parts, checkpoints)
        evaluation.save(run.path)
        bundle_parts = _bundle_parts(config, parts, start)
        bundle = export(config, run, tracked, checkpoints, bundle_parts, best_metrics=evaluation.metrics)
        samples = _samples(config, parts, bundle.model)
        keep_samples(tracked, samples, run.path, "samples/best.md", show_text=_may_be_shown(config, samples))
        log_attention(
            tracked, bundle.model, parts.tokenizer, _first_batch(parts), show_text=config.log_corpus_text
        )
        tracked.end("FINISHED", bundle.metrics)
        _summarise(run, tracked, parts, bundle, samples, pace)
    return StageResult(
        stage="pretrain", run_id=tracked.run_id, bundle=str(bundle.folder), metrics=bundle.metrics
    )


def _prepare(config: Config, start: Bundle | None, tracked: Run) -> Parts:
    """Everything up to the model, each step said as it is done."""
    task = pretraining_task(config)
    corpus, cleaned = load_corpus(config)
    report.say_corpus(corpus, cleaned)
    torch.manual_seed(config.seed)
    asked = asked_vocab_size(config) if start is None else None
    if start is None:
        tokenizer = build_tokenizer(config, corpus)
        model = build_model(to_plain(config.model), tokenizer)
    else:
        tokenizer, model = start.tokenizer, start.model.train()
        tracked.use_bundle(start.folder)
        report.say("Start", f"weights and tokenizer of {report.short(start.folder)}")
    report.say(
        "Tokenizer",
        f"{config.choices.tokenizer}, {report.describe_tokenizer(tokenizer, asked)}",
    )
    tokenizer_run = None if start is not None else maker_of(tokenizer, Path(config.runs_dir))
    if tokenizer_run is not None:
        tracked.set_tags(edge_to(tokenizer_run))
    limit = model.backbone.max_seq_len
    train_rows, validation_rows = build_rows(config, corpus, tokenizer, task, max_seq_len=limit)
    report.say("Tokens", report.describe_rows(train_rows, validation_rows))
    report.say("Model", report.describe_model(model))
    for split, rows in (("train", train_rows), ("validation", validation_rows)):
        tracked.log_dataset(_dataset(corpus, tokenizer, rows), split)  # type: ignore[arg-type]
    return Parts(
        task=task,
        corpus=corpus,
        tokenizer=tokenizer,
        train_rows=train_rows,
        validation_rows=validation_rows,
        model=model,
        model_config=to_plain(config.model),
        tokenizer_run=None if tokenizer_run is None else tokenizer_run.name,
        texts=list(islice(texts(corpus.validation), N_TEXTS)),
        optimum_bits_per_byte=optimum_bits_per_byte(corpus),
    )


def _training(config: Config, options: TrainerOptions, parts: Parts, tracked: Run) -> Training:
    """What is trained, on what, and what is shown on the way."""
    data = PretrainDataModule(
        parts.train_rows,
        parts.validation_rows,
        collate=parts.task.collator(parts.tokenizer, seed=config.seed),
        validation_collate=parts.task.collator(parts.tokenizer, seed=VALIDATION_SEED),
        batch_size=options.batch_size,
        validation_batch_size=options.batch_size,
        seed=config.seed,
        num_workers=options.num_workers,
    )

    def show(step: int, samples: list[Sample]) -> None:
        if _may_be_shown(config, samples):
            tracked.log_text(report.samples_markdown(samples), f"samples/step-{step:06d}.md")

    return Training(
        model=parts.model,
        objective=parts.task.objective(parts.tokenizer),
        data=data,
        rows_per_epoch=len(parts.train_rows),
        samples=partial(_samples, config, parts, parts.model),
        show=show,
    )


def _evaluate(
    config: Config, options: TrainerOptions, parts: Parts, checkpoints: Checkpoints
) -> LanguageEvaluation:
    """The best weights on all validation rows, row by row."""
    model = parts.model
    load_weights(model, checkpoints.best_path)
    evaluation = evaluate_language_model(
        parts.task,
        model,
        parts.tokenizer,
        parts.validation_rows,
        options,
        on=HeldOut(corpus=config.choices.data, split="validation", chose_weights=True),
    )
    model.cpu()
    return evaluation


def _samples(config: Config, parts: Parts, model: Model) -> list[Sample]:
    """What `model` makes of the prompts, or of validation texts; never longer than it was trained for."""
    prompts = [prompt for prompt in config.prompts or [] if (GAP in prompt) == parts.task.fills_gaps]
    options = construct(config.sampling, SamplingOptions)
    longest = max((len(parts.tokenizer.encode(prompt)) for prompt in prompts), default=0)
    room = max(1, model.backbone.max_seq_len - 1 - longest)
    return parts.task.samples(
        model,
        parts.tokenizer,
        prompts=prompts,
        texts=parts.texts,
        options=replace(options, max_new_tokens=min(options.max_new_tokens, room)),
    )


def _may_be_shown(config: Config, samples: list[Sample]) -> bool:
    """Whether samples show nothing of the corpus, or may."""
    return config.log_corpus_text or all(sample.target is None for sample in samples)


def _first_batch(parts: Parts) -> dict[str, torch.Tensor]:
    """The first validation row, as it is validated on."""
    rows = RowBatch(*parts.validation_rows.take([0]), np.zeros(1, np.int64))
    return parts.task.collator(parts.tokenizer, seed=VALIDATION_SEED)(rows)


def _bundle_parts(config: Config, parts: Parts, start: Bundle | None) -> BundleParts:
    """What the bundles hold beside weights and metrics."""
    return BundleParts(
        model=parts.model,
        tokenizer=parts.tokenizer,
        model_config=parts.model_config,
        task_config=to_plain(config.task),
        provenance={
            "corpus": corpus_record(parts.corpus),
            "tokenizer": parts.tokenizer.digest,
            "tokenizer_run": parts.tokenizer_run,
            "train_rows": parts.train_rows.manifest["sha256"],
            "validation_rows": parts.validation_rows.manifest["sha256"],
            "parent": parent_of(start),
        },
    )


def _dataset(corpus: Corpus, tokenizer: Tokenizer, rows: TokenRows) -> DatasetRecord:
    """Token rows as an input of the run."""
    counts = rows.manifest["counts"]
    return DatasetRecord(
        name=corpus.name,
        digest=rows.manifest["sha256"],
        source=corpus.uri,
        columns={"input_ids": "integer"},
        profile={"rows": len(rows), "corpus": corpus.fingerprint, "tokenizer": tokenizer.digest, **counts},
    )


def _summarise(
    run: RunFolder,
    tracked: Run,
    parts: Parts,
    bundle: Bundle,
    samples: list[Sample],
    pace: str,
) -> None:
    metrics = dict(bundle.metrics)
    if parts.optimum_bits_per_byte is not None and "val/bits_per_byte" in metrics:
        metrics["optimum_bits_per_byte"] = parts.optimum_bits_per_byte
    vocab_size = parts.tokenizer.vocab_size
    facts = {
        "loss by chance": f"{math.log(vocab_size):.4f} (all {vocab_size:,} tokens equally likely)",
        "bundle": report.short(bundle.folder),
        "best step": f"{bundle.provenance['step']:,}",
        "training": pace,
    }
    report.summary(
        f"{run.name}: done",
        metrics=metrics,
        facts=facts,
        samples=samples,
        next_commands=after_pretraining(run, parts.task, type(parts.model.backbone)),
        address=tracked.url,
    )
