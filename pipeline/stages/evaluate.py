"""Measure a bundle on the validation rows of a corpus."""

from pathlib import Path

from omegaconf import DictConfig

from datamodules.cache import TokenRows
from datamodules.datamodule import PretrainDataModule
from modules.lit_module import LitModule
from modules.optim import AdamW
from modules.schedules import Constant
from pipeline import build, report
from pipeline.bundle import Bundle, load_bundle
from pipeline.config import to_plain
from pipeline.runs import find_bundle, open_run
from pipeline.stages.result import StageResult
from pipeline.tracking import DatasetRecord, RunCard, start_run
from pipeline.trainer import TrainerOptions, build_trainer, describe_device


def evaluate(config: DictConfig) -> StageResult:
    """Loss, perplexity, accuracy and bits per byte of a bundle on any corpus."""
    folder = find_bundle(config.bundle, Path(config.runs_dir))
    bundle = load_bundle(folder)
    options: TrainerOptions = build.construct(config.trainer)
    device = describe_device(options)
    label = f"evaluate-{bundle.provenance['run']}-on-{config.choices.data}"
    with open_run(config, label=label) as run:
        card = RunCard(stage="evaluate", name=run.name, config=to_plain(config), seed=config.seed)
        tracking = build.construct(config.tracking)
        with start_run(card, options=tracking, run_folder=run.path, project_folder=Path.cwd()) as tracked:
            tracked.use_bundle(folder)
            report.say("Run", f"{report.short(run.path)}, {device}")
            report.say("Bundle", report.short(folder))
            report.say("Model", report.describe_model(bundle.model))
            corpus, cleaned = build.load_corpus(config)
            report.say("Corpus", report.describe_corpus(corpus, cleaned))
            rows = build.build_validation_rows(
                config, corpus, bundle.tokenizer, bundle.task, max_seq_len=bundle.model.backbone.max_seq_len
            )
            tracked.log_dataset(
                DatasetRecord(
                    name=corpus.name,
                    digest=rows.manifest["sha256"],
                    source=corpus.uri,
                ),
                "test",
            )
            metrics = _measure(config, options, bundle, rows)
            optimum = build.optimum_bits_per_byte(corpus)
            if optimum is not None and "test/bits_per_byte" in metrics:
                metrics["optimum_bits_per_byte"] = optimum
            tracked.log_metrics(metrics, int(bundle.provenance["step"]))
            tracked.end("FINISHED", metrics)
        report.summary(
            f"{run.name}: done",
            metrics=metrics,
            facts={"bundle": report.short(folder), "rows": f"{len(rows):,} of {corpus.name}"},
            samples=[],
            next_commands={"make ui": "compare runs in MLflow"},
        )
    return StageResult(stage="evaluate", run_id=tracked.run_id, bundle=str(folder), metrics=metrics)


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
