"""Measure a bundle on the held-out rows of a corpus."""

from collections.abc import Mapping

from omegaconf import DictConfig

from datamodules.cache import TokenRows, cache_key
from datamodules.corpus import Corpus
from datamodules.datamodule import PretrainDataModule
from modules.lit_module import LitModule
from modules.optim import AdamW
from modules.schedules import Constant
from pipeline import build, report
from pipeline.bundle import Bundle
from pipeline.evaluation import (
    EVALUATION,
    Evaluation,
    evaluate_rows,
    log_evaluation,
    save_evaluation,
    save_metrics,
)
from pipeline.finetuned import asked_task, load_asked
from pipeline.plan.inputs import inputs_of
from pipeline.runs import open_run
from pipeline.stages.result import StageResult
from pipeline.tasks.finetuning import FinetuneTask
from pipeline.tracking import DatasetRecord, Run
from pipeline.trainer import TrainerOptions, build_trainer, describe_device
from pipeline.training import track


def evaluate(config: DictConfig) -> StageResult:
    """A language model's loss and bits per byte, or a fine-tuned model's own metrics, on any corpus."""
    options: TrainerOptions = build.construct(config.trainer)
    bundle = load_asked(config)
    inputs = inputs_of(config, used=bundle.folder)
    label = f"evaluate-{bundle.provenance['run']}-on-{config.choices.data}"
    with open_run(config, label=label, inputs=inputs) as run, track(config, run) as tracked:
        tracked.use_bundle(bundle.folder)
        report.say("Run", f"{report.short(run.path)}, {describe_device(options)}")
        evaluation: Evaluation | None = None
        metrics: Mapping[str, float]
        if isinstance(bundle.task, FinetuneTask):
            evaluation = _evaluate_task(config, options, bundle, tracked)
            metrics, n_rows = evaluation.metrics("test"), len(evaluation.rows)
            save_evaluation(run.path, evaluation, corpus=config.choices.data, split="test")
        else:
            metrics, n_rows = _evaluate_language_model(config, options, bundle, tracked)
            save_metrics(run.path, metrics, task=bundle.task, corpus=config.choices.data, split="test")
        run.keep(run.path / EVALUATION)
        tracked.log_metrics(metrics, int(bundle.provenance["step"]))
        tracked.end("FINISHED", metrics)
        report.summary(
            f"{run.name}: done",
            metrics={} if evaluation else metrics,
            scores=evaluation.scores if evaluation else None,
            facts={"bundle": report.short(bundle.folder), "rows": f"{n_rows:,} of {config.choices.data}"},
            samples=evaluation.samples if evaluation else [],
            next_commands={"make ui": "compare runs in MLflow"},
            address=tracked.url,
        )
    return StageResult(stage="evaluate", run_id=tracked.run_id, bundle=str(bundle.folder), metrics=metrics)


def _evaluate_task(config: DictConfig, options: TrainerOptions, bundle: Bundle, tracked: Run) -> Evaluation:
    """Answer the test rows, or else the validation rows, and score the answers."""
    task = asked_task(config, bundle)
    corpus = build.construct(config.data).load(task.columns)
    report.say("Corpus", report.describe_corpus(corpus, {}))
    rows = list(corpus.validation if corpus.test is None else corpus.test)
    task.check(rows, "test")
    _log_rows(tracked, corpus, cache_key(corpus=corpus.fingerprint, split="test"))
    evaluation = evaluate_rows(task, bundle.model, bundle.tokenizer, rows, batch_size=options.batch_size)
    log_evaluation(tracked, evaluation, show_text=config.log_corpus_text)
    return evaluation


def _evaluate_language_model(
    config: DictConfig, options: TrainerOptions, bundle: Bundle, tracked: Run
) -> tuple[Mapping[str, float], int]:
    """Loss, perplexity, accuracy and bits per byte on the validation rows, and how many rows they were."""
    corpus, cleaned = build.load_corpus(config)
    report.say("Corpus", report.describe_corpus(corpus, cleaned))
    limit = bundle.model.backbone.max_seq_len
    rows = build.build_validation_rows(config, corpus, bundle.tokenizer, bundle.task, max_seq_len=limit)
    _log_rows(tracked, corpus, rows.manifest["sha256"])
    metrics = _measure(config, options, bundle, rows)
    optimum = build.optimum_bits_per_byte(corpus)
    if optimum is not None and "test/bits_per_byte" in metrics:
        metrics["optimum_bits_per_byte"] = optimum
    return metrics, len(rows)


def _log_rows(tracked: Run, corpus: Corpus, digest: str) -> None:
    tracked.log_dataset(DatasetRecord(name=corpus.name, digest=digest, source=corpus.uri), "test")


def _measure(
    config: DictConfig, options: TrainerOptions, bundle: Bundle, rows: TokenRows
) -> dict[str, float]:
    """Every row once, corrupted, where the task corrupts, as in every other validation."""
    collate = bundle.task.collator(bundle.tokenizer, seed=build.VALIDATION_SEED)
    data = PretrainDataModule(
        rows,
        rows,
        collate=collate,
        validation_collate=collate,
        batch_size=options.batch_size,
        validation_batch_size=options.batch_size,
        seed=config.seed,
        num_workers=options.num_workers,
    )
    # Nothing is trained, so the optimizer is never built.
    module = LitModule(
        bundle.model,
        bundle.task.objective(bundle.tokenizer),
        optimizer=AdamW(),
        schedule=Constant(),
        max_steps=1,
    )
    (values,) = build_trainer(options).test(module, data.val_dataloader(), verbose=False)
    return dict(values)
