"""Fine-tuning: labelled rows, features, a backbone with the task's head, training, answers, bundles."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datamodules.cache import cache_key
from datamodules.corpus import Corpus, numbers_of
from datamodules.corpus.held_out import with_repeated
from datamodules.datamodule import FinetuneDataModule
from datamodules.features import Features
from datamodules.source import Source
from datamodules.tokenizer import Tokenizer
from modules.init import initialize
from modules.model import Model
from modules.transformer import Transformer
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.model import build_backbone, build_head, head_node
from pipeline.config.plain import Config, to_plain
from pipeline.config.tasks import finetuning_task, to_node
from pipeline.errors import DataError
from pipeline.evaluation.attention_picture import log_attention
from pipeline.evaluation.rows import (
    N_SAMPLES,
    Evaluation,
    HeldOut,
    evaluate_rows,
    log_evaluation,
    save_evaluation,
)
from pipeline.machine.choice import describe_machine, with_chosen
from pipeline.machine.devices import check_device, device_of, for_rows
from pipeline.machine.options import TrainerOptions
from pipeline.prepare import asked_vocab_size, build_tokenizer
from pipeline.runs.bundle import Bundle, parent_of
from pipeline.runs.folders import open_run
from pipeline.runs.inputs import inputs_of
from pipeline.runs.start import (
    arranged,
    check_new_backbone,
    check_vocabularies,
    describe_start,
    find_start,
    for_nothing,
    load_start,
    with_bundle,
    with_head,
    with_trainer,
)
from pipeline.stages.finetune.facts import (
    baseline_facts,
    baseline_metrics,
    compare_baselines,
    length_facts,
)
from pipeline.stages.finetune.summary import summarise
from pipeline.tasks.base import Sample
from pipeline.tasks.finetuning import FinetuneTask, Row, SplitRows
from pipeline.tracking import DatasetRecord, Run
from pipeline.training.budget import describe_budget, is_open, with_budget
from pipeline.training.callbacks.freezing import Freezing
from pipeline.training.callbacks.task_metrics import TaskMetrics
from pipeline.training.callbacks.trend import LossTrend
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


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A task that knows its training rows, and the rows of each split, all checked."""

    task: FinetuneTask
    corpus: Corpus
    rows: Mapping[str, Sequence[Row]]


@dataclass(frozen=True, kw_only=True)
class Parts(Labelled):
    """All that a fine-tuning is made of, before training."""

    tokenizer: Tokenizer
    features: Mapping[str, Features]
    model: Model
    model_config: Mapping[str, Any]


def finetune(config: Config) -> StageResult:
    """Train a task's head and the backbone of a bundle, or of nothing, on labelled rows."""
    check_device(construct(config.trainer, TrainerOptions))
    task = finetuning_task(config)
    folder = find_start(config.init_from, Path(config.runs_dir), task.backbones)
    start = None if folder is None else load_start(config, folder)
    report.say("Start", describe_start(start, config.init_from))
    if start is None:
        check_new_backbone(config, task)
    else:
        check_vocabularies(task, start)
        start = arranged(start, task.architecture(type(start.model.backbone)), task.backbone_options)
    inputs = inputs_of(config, used=folder)
    config = for_nothing(config, task.backbone_options) if start is None else with_bundle(config, start)
    labelled = read_labelled(config, task)
    if is_open(wanted := construct(config.trainer, TrainerOptions)):
        config = with_trainer(config, _with_budget(wanted, labelled))
    config = with_head(config, _head(config, labelled.task, start))
    label = label_of(config)
    with open_run(config, label=label, inputs=inputs) as run, track(config, run) as tracked:
        config = with_chosen(config, run.record.chosen)
        machine = describe_machine(config, run.record.chosen)
        report.say("Run", f"{report.short(run.path)}{' (resumed)' if run.resumed else ''}, {machine}")
        parts = _prepare(config, labelled, start, tracked)
        options = for_rows(construct(config.trainer, TrainerOptions), len(parts.features["train"]))
        trend = LossTrend()
        training = _training(config, options, parts, tracked, trend)
        checkpoints, pace = train(config, options, training, run, tracked)
        load_weights(parts.model, checkpoints.best_path)
        parts, evaluation = _measure(config, options, parts)
        metrics = evaluation.metrics
        save_evaluation(run.path, evaluation)
        tracked.describe(f"Measured on {evaluation.on.in_words(len(evaluation.rows))}.")
        log_evaluation(tracked, evaluation, run.path, show_text=config.log_corpus_text)
        bundle_parts = _bundle_parts(parts, start, evaluation)
        bundle = export(config, run, tracked, checkpoints, bundle_parts, best_metrics=metrics)
        first = parts.task.collate(parts.features["validation"].take([0]))
        log_attention(tracked, bundle.model, parts.tokenizer, first, show_text=config.log_corpus_text)
        baselines = compare_baselines(evaluation, parts.rows["train"])
        tracked.log_metrics(baseline_metrics(baselines, parts.task.metric), 0)
        tracked.end("FINISHED", bundle.metrics)
        facts = {"training": pace, **length_facts(options, trend, len(parts.features["train"]))}
        facts |= baseline_facts(baselines, parts.task.metric)
        is_tied = bool(checkpoints.is_tied)
        summarise(config, run, tracked, bundle, evaluation, facts, is_tied=is_tied)
    return StageResult(
        stage="finetune", run_id=tracked.run_id, bundle=str(bundle.folder), metrics=bundle.metrics
    )


def _head(config: Config, task: FinetuneTask, start: Bundle | None) -> dict[str, Any]:
    """The node of the task's head, with what the present one has for it; no memory is taken."""
    with torch.device("meta"):
        nothing = partial(construct, config.model.backbone, vocab_size=1)
        backbone = nothing() if start is None else start.model.backbone
    return head_node(task.head(backbone), to_plain(config.model.head))


def read_labelled(config: Config, task: FinetuneTask) -> Labelled:
    """Read the rows and check them all, before there is a run that could be left half done.

    Raises:
        DataError: what is wrong with them.
    """
    corpus = construct(config.data, Source).load(task.columns)
    corpus = with_repeated(corpus, (*task.inputs, *task.optional))
    rows = labelled_rows(corpus)
    task = task.fit(rows["train"])
    for split, some in rows.items():
        task.check(some, split)
    report.say_corpus(corpus, {})
    return Labelled(task=task, corpus=corpus, rows=rows)


def _with_budget(options: TrainerOptions, labelled: Labelled) -> TrainerOptions:
    """The options with as many steps as the rows ask for, and a word on it."""
    task, n_rows = labelled.task, len(labelled.rows["train"])
    options = with_budget(options, n_rows=n_rows, n_classes=task.n_classes, least_steps=task.least_steps)
    report.say("Budget", describe_budget(options, n_rows))
    return options


def _prepare(config: Config, labelled: Labelled, start: Bundle | None, tracked: Run) -> Parts:
    """Everything up to the model, each step said as it is done."""
    task, corpus, rows = labelled.task, labelled.corpus, labelled.rows
    if start is not None:
        tracked.use_bundle(start.folder)
    torch.manual_seed(config.seed)
    tokenizer, model, model_config = _build_model(config, task, corpus, start)
    asked = asked_vocab_size(config) if start is None else None
    report.say("Tokenizer", report.describe_tokenizer(tokenizer, asked))
    report.say("Model", report.describe_model(model))
    features = {
        split: _features(task, rows[split], tokenizer, model.backbone) for split in ("train", "validation")
    }
    report.say("Examples", report.describe_features(features["train"], features["validation"]))
    for split in rows:
        tracked.log_dataset(_dataset(corpus, tokenizer, split, rows[split]), split)  # type: ignore[arg-type]
    return Parts(
        task=task,
        corpus=corpus,
        rows=rows,
        tokenizer=tokenizer,
        features=features,
        model=model,
        model_config=model_config,
    )


def labelled_rows(corpus: Corpus) -> dict[str, SplitRows]:
    """The rows of each split, in memory: train, validation and, where there is one, test.

    Raises:
        DataError: the corpus is a stream.
    """
    if corpus.n_train_rows is None:
        raise DataError(
            f"{corpus.name} is streamed", "labelled rows that fit in memory", "set data.streaming=false"
        )
    splits = {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}
    return {split: SplitRows(rows, numbers_of(rows)) for split, rows in splits.items() if rows is not None}


def _build_model(
    config: Config, task: FinetuneTask, corpus: Corpus, start: Bundle | None
) -> tuple[Tokenizer, Model, dict[str, Any]]:
    """The bundle's backbone with the task's head, or a new model with a new tokenizer."""
    node = to_plain(config.model)
    if start is not None:
        tokenizer, backbone = start.tokenizer, start.model.backbone
    else:
        tokenizer = _new_tokenizer(config, task, corpus)
        backbone = build_backbone(node["backbone"], tokenizer)
    model = Model(backbone, build_head(node["head"], backbone))
    initialize(model if start is None else model.head, node["init"])
    if start is not None and node["head"] == start.model_config["head"]:
        model.head.load_state_dict(start.model.head.state_dict())
    return tokenizer, model.train(), node


def _new_tokenizer(config: Config, task: FinetuneTask, corpus: Corpus) -> Tokenizer:
    """One for all texts of the task, or one for what is read with one for what is written."""
    read, *written = (
        build_tokenizer(
            config, corpus, (text for row in corpus.train for text in texts(row)), columns=columns
        )
        for columns, texts in task.vocabularies.items()
    )
    return read.with_target(*written) if written else read


def _features(
    task: FinetuneTask, rows: Sequence[Row], tokenizer: Tokenizer, backbone: Transformer
) -> Features:
    return Features.of(feature for row in rows for feature in task.features(row, tokenizer, backbone))


def _training(
    config: Config, options: TrainerOptions, parts: Parts, tracked: Run, trend: LossTrend
) -> Training:
    """What is trained, on what, and what is measured and shown on the way."""
    task, held_out = parts.task, parts.rows["validation"]
    data = FinetuneDataModule(
        parts.features["train"],
        parts.features["validation"],
        collate=task.collate,
        batch_size=options.batch_size,
        seed=config.seed,
        num_workers=options.num_workers,
        curriculum_batches=options.curriculum_batches,
    )
    predict = partial(task.fast().predict, parts.model, parts.tokenizer, batch_size=options.answer_batch_size)

    def measure() -> dict[str, float]:
        some = held_out[: options.score_rows]
        return {name: score.value for name, score in task.score(predict(some), some).items()}

    def samples() -> list[Sample]:
        some = held_out[:N_SAMPLES]
        return [task.sample(row, answer) for row, answer in zip(some, predict(some), strict=True)]

    def show(step: int, made: list[Sample]) -> None:
        if config.log_corpus_text:
            tracked.log_text(report.samples_markdown(made), f"samples/step-{step:06d}.md")

    freezing = construct(config.freezing, Freezing)
    return Training(
        model=parts.model,
        objective=task.objective(),
        data=data,
        rows_per_epoch=len(parts.features["train"]),
        samples=samples,
        show=show,
        monitor=f"val/{task.metric}",
        mode="max" if task.higher_is_better else "min",
        callbacks=[TaskMetrics(measure), trend, *freezing.callbacks(parts.model)],
    )


def _measure(config: Config, options: TrainerOptions, parts: Parts) -> tuple[Parts, Evaluation]:
    """Choose on validation rows what is chosen there, then answer the test rows, or else those same rows."""
    model, batch_size = parts.model.to(device_of(options)).eval(), options.answer_batch_size
    task, held_out = parts.task, parts.rows["validation"]
    if task.needs_calibration(held_out):
        answers = task.predict(model, parts.tokenizer, held_out, batch_size=batch_size)
        task = task.calibrated(answers, held_out)
    on = HeldOut(corpus=config.choices.data, split="validation", chose_weights=True)
    if "test" in parts.rows:
        on = HeldOut(corpus=config.choices.data, split="test")
    evaluation = evaluate_rows(
        task, model, parts.tokenizer, parts.rows[on.split], on=on, batch_size=batch_size
    )
    model.cpu()
    return replace(parts, task=task), evaluation


def _bundle_parts(parts: Parts, start: Bundle | None, evaluation: Evaluation) -> BundleParts:
    """What the bundles hold beside weights and metrics."""
    return BundleParts(
        model=parts.model,
        tokenizer=parts.tokenizer,
        model_config=parts.model_config,
        task_config=to_node(parts.task),
        provenance={
            "corpus": corpus_record(parts.corpus),
            "tokenizer": parts.tokenizer.digest,
            "parent": parent_of(start),
            "measured_on": {**asdict(evaluation.on), "rows": len(evaluation.rows)},
        },
    )


def _dataset(corpus: Corpus, tokenizer: Tokenizer, split: str, rows: Sequence[Row]) -> DatasetRecord:
    """The rows of a split as an input of the run."""
    return DatasetRecord(
        name=corpus.name,
        digest=cache_key(corpus=corpus.fingerprint, split=split, tokenizer=tokenizer.digest),
        source=corpus.uri,
        columns={name: type(value).__name__ for name, value in rows[0].items()},
        profile={"rows": len(rows), "corpus": corpus.fingerprint, "tokenizer": tokenizer.digest},
    )
