"""Pretraining: corpus, tokenizer, token rows, model, training, bundles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from omegaconf import DictConfig, OmegaConf

from datamodules.cache import TokenRows
from datamodules.corpus import Corpus, texts
from datamodules.datamodule import PretrainDataModule
from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions
from modules.lit_module import LitModule
from modules.model import Model
from pipeline import build, processes, report
from pipeline.bundle import Bundle, load_bundle, save_bundle
from pipeline.callbacks.averaging import EMA
from pipeline.callbacks.guard import NonFiniteGuard
from pipeline.callbacks.limits import FinalValidation, TimeBudget
from pipeline.callbacks.preemption import Preemption
from pipeline.callbacks.samples import Samples
from pipeline.callbacks.seeding import StepSeed
from pipeline.callbacks.throughput import Throughput
from pipeline.checkpoint import AtomicCheckpointIO, Checkpoints
from pipeline.config import BUNDLE_KEYS, config_hash, to_plain
from pipeline.errors import BundleError, RunInterrupted
from pipeline.progress import ProgressBar
from pipeline.runs import NOT_IDENTITY, RunFolder, find_bundle, open_run
from pipeline.stages.result import StageResult
from pipeline.tasks.base import GAP, PretrainingTask, Sample
from pipeline.tracking import DatasetRecord, Run, RunCard, start_run
from pipeline.tracking.logger import TrackingLogger
from pipeline.trainer import TrainerOptions, build_trainer, describe_device

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
    texts: list[str]
    optimum_bits_per_byte: float | None


def pretrain(config: DictConfig) -> StageResult:
    """Train from scratch, or go on from a bundle (`init_from`) or an unfinished run (`resume`)."""
    options: TrainerOptions = build.construct(config.trainer)
    device = describe_device(options)
    start = None
    if config.init_from is not None:
        start = load_bundle(find_bundle(config.init_from, Path(config.runs_dir)))
        config = _with_bundle(config, start)
    label = f"{config.choices.task}-{config.choices.size}-{config.choices.data}"
    with open_run(config, label=label) as run, _track(config, run) as tracked:
        report.say("Run", f"{report.short(run.path)}{' (resumed)' if run.resumed else ''}, {device}")
        parts = _prepare(config, start, tracked)
        try:
            checkpoints = _train(config, options, parts, run, tracked)
        except RunInterrupted:
            tracked.end("KILLED")
            raise
        if not processes.is_first():
            raise SystemExit(0)  # the first process goes on for all
        bundle = _export(config, parts, run, tracked, checkpoints)
        samples = _samples(config, parts, bundle.model)
        _log_samples(config, tracked, samples, "samples/best.md")
        tracked.end("FINISHED", bundle.metrics)
        _summarise(config, run, tracked, parts, bundle, samples)
    return StageResult(
        stage="pretrain", run_id=tracked.run_id, bundle=str(bundle.folder), metrics=bundle.metrics
    )


def _track(config: DictConfig, run: RunFolder) -> Run:
    return start_run(
        RunCard(
            stage=config.stage.name,
            name=run.name,
            config=to_plain(config),
            seed=config.seed,
            tags={key: str(value) for key, value in config.choices.items()},
        ),
        options=build.construct(config.tracking),
        run_folder=run.path,
        project_folder=Path.cwd(),
    )


def _prepare(config: DictConfig, start: Bundle | None, tracked: Run) -> Parts:
    """Everything up to the model, each step said as it is done."""
    task: PretrainingTask = build.construct(config.task)
    corpus, cleaned = build.load_corpus(config)
    report.say("Corpus", report.describe_corpus(corpus, cleaned))
    torch.manual_seed(config.seed)
    if start is None:
        tokenizer = build.build_tokenizer(config, corpus)
        model = build.build_model(to_plain(config.model), tokenizer)
    else:
        tokenizer, model = start.tokenizer, start.model.train()
        tracked.use_bundle(start.folder)
        report.say("Start", f"weights and tokenizer of {report.short(start.folder)}")
    report.say(
        "Tokenizer", f"{config.choices.tokenizer}, {tokenizer.vocab_size:,} tokens, {tokenizer.digest[:12]}"
    )
    limit = model.backbone.max_seq_len
    train_rows, validation_rows = build.build_rows(config, corpus, tokenizer, task, max_seq_len=limit)
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
        texts=list(islice(texts(corpus.validation), N_TEXTS)),
        optimum_bits_per_byte=build.optimum_bits_per_byte(corpus),
    )


def _train(
    config: DictConfig, options: TrainerOptions, parts: Parts, run: RunFolder, tracked: Run
) -> Checkpoints:
    """Fit; what came of it lies in the checkpoints."""
    checkpoints = Checkpoints(run.checkpoints, every_n_steps=options.checkpoint_interval_steps)
    callbacks = _callbacks(config, options, parts, tracked, checkpoints)
    trainer = build_trainer(options, callbacks=callbacks, logger=TrackingLogger(tracked))
    data = PretrainDataModule(
        parts.train_rows,
        parts.validation_rows,
        collate=parts.task.collator(parts.tokenizer, seed=config.seed),
        validation_collate=parts.task.collator(parts.tokenizer, seed=build.VALIDATION_SEED),
        batch_size=options.batch_size,
        validation_batch_size=options.batch_size,
        seed=config.seed,
        num_workers=options.num_workers,
    )
    module = LitModule(
        parts.model,
        parts.task.objective(parts.tokenizer),
        optimizer=build.construct(config.optimizer),
        schedule=build.construct(config.schedule),
        max_steps=options.max_steps,
        compile=options.compile,
    )
    trainer.fit(module, data, ckpt_path=run.last_checkpoint if run.resumed else None)
    return checkpoints


def _callbacks(
    config: DictConfig, options: TrainerOptions, parts: Parts, tracked: Run, checkpoints: Checkpoints
) -> list[Callback]:
    budget = TimeBudget(options.time_budget_s) if options.time_budget_s else None

    def show(step: int, samples: list[Sample]) -> None:
        _log_samples(config, tracked, samples, f"samples/step-{step:06d}.md")

    return [
        StepSeed(config.seed),
        *([EMA(options.ema_decay)] if options.ema_decay is not None else []),
        NonFiniteGuard(),
        Throughput(rows_per_epoch=len(parts.train_rows)),
        ProgressBar(f"{config.stage.name} {config.choices.task}", time_budget=budget),
        FinalValidation(),
        *([budget] if budget else []),
        *([EarlyStopping("val/loss", patience=options.patience)] if options.patience else []),
        Samples(partial(_samples, config, parts, parts.model), show),
        checkpoints,
        Preemption(checkpoints),
    ]


def _samples(config: DictConfig, parts: Parts, model: Model) -> list[Sample]:
    """What `model` makes of the prompts, or of validation texts; never longer than it was trained for."""
    prompts = [prompt for prompt in config.prompts or [] if (GAP in prompt) == parts.task.fills_gaps]
    options: SamplingOptions = build.construct(config.sampling)
    longest = max((len(parts.tokenizer.encode(prompt)) for prompt in prompts), default=0)
    room = max(1, model.backbone.max_seq_len - 1 - longest)
    return parts.task.samples(
        model,
        parts.tokenizer,
        prompts=prompts,
        texts=parts.texts,
        options=replace(options, max_new_tokens=min(options.max_new_tokens, room)),
    )


def _log_samples(config: DictConfig, tracked: Run, samples: list[Sample], artifact: str) -> None:
    """Record samples; those that show the corpus only where the corpus allows it."""
    if config.log_corpus_text or all(sample.truth is None for sample in samples):
        tracked.log_text(report.samples_markdown(samples), artifact)


def _export(
    config: DictConfig, parts: Parts, run: RunFolder, tracked: Run, checkpoints: Checkpoints
) -> Bundle:
    """Write the bundles `last` and `best` from their checkpoints, record them, and read the best one back."""
    for name, file in (("last", checkpoints.last_path), ("best", checkpoints.best_path)):
        state = AtomicCheckpointIO().load_checkpoint(file)
        prefix = "model."
        weights = {
            key.removeprefix(prefix): value
            for key, value in state["state_dict"].items()
            if key.startswith(prefix)
        }
        parts.model.load_state_dict(weights)
        metrics = checkpoints.best_metrics if name == "best" else checkpoints.last_metrics
        save_bundle(
            run.bundles / name,
            model=parts.model,
            tokenizer=parts.tokenizer,
            model_config=parts.model_config,
            task_config=to_plain(config.task),
            config=to_plain(config),
            provenance=_provenance(config, parts, run, tracked, step=int(state["global_step"])),
            metrics=metrics,
        )
        tracked.log_bundle(run.bundles / name, name=name, step=int(state["global_step"]), metrics=metrics)
    return load_bundle(run.bundles / "best")


def _provenance(
    config: DictConfig, parts: Parts, run: RunFolder, tracked: Run, *, step: int
) -> dict[str, Any]:
    """Where a bundle comes from: enough to make it again."""
    return {
        "run": run.name,
        "run_id": tracked.run_id,
        "step": step,
        "seed": config.seed,
        "config": config_hash(config, without=NOT_IDENTITY),
        "corpus": {
            "name": parts.corpus.name,
            "fingerprint": parts.corpus.fingerprint,
            "sources": parts.corpus.sources,
        },
        "tokenizer": parts.tokenizer.digest,
        "train_rows": parts.train_rows.manifest["sha256"],
        "validation_rows": parts.validation_rows.manifest["sha256"],
        "init_from": config.init_from,
        "code": dict(tracked.provenance),
    }


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


def _with_bundle(config: DictConfig, start: Bundle) -> DictConfig:
    """The configuration with the bundle's model and tokenizer for its own: what is recorded is true."""
    has, needs = (
        target.rpartition(".")[2]
        for target in (start.model_config["backbone"]["_target_"], config.model.backbone._target_)
    )
    if has != needs:
        raise BundleError(
            f"{start.folder} holds a {has}, and task={config.choices.task} trains a {needs}",
            "a bundle of the same arrangement",
            "name another bundle, or the task that this one was trained with",
        )
    theirs = {key: value for key, value in start.config.items() if key in BUNDLE_KEYS}
    choices = {key: value for key, value in start.config["choices"].items() if key in BUNDLE_KEYS}
    plain = {**to_plain(config), **theirs, "model": start.model_config}
    made = OmegaConf.create({**plain, "choices": {**plain["choices"], **choices}})
    OmegaConf.set_readonly(made, True)
    return made


def _summarise(
    config: DictConfig, run: RunFolder, tracked: Run, parts: Parts, bundle: Bundle, samples: list[Sample]
) -> None:
    metrics = dict(bundle.metrics)
    if parts.optimum_bits_per_byte is not None and "val/bits_per_byte" in metrics:
        metrics["optimum_bits_per_byte"] = parts.optimum_bits_per_byte
    facts = {"bundle": report.short(bundle.folder), "best step": f"{bundle.provenance['step']:,}"}
    report.summary(
        f"{run.name}: done",
        metrics=metrics,
        facts=facts,
        samples=samples,
        next_commands={
            'make generate PROMPT="..."': "write text with this model",
            "make evaluate DATA=...": "measure it on another corpus",
            "make ui": "compare runs in MLflow",
        },
        address=tracked.url,
    )
