"""The stage `pretrain`: compose, prepare, train, evaluate, and write the bundles."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np

from datamodules.collate import RowBatch
from datamodules.datamodule import PretrainDataModule
from modules.generation import SamplingOptions
from modules.model import Model
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.config.tasks import pretraining_task
from pipeline.estimate.kept import Cost, cost_facts, cost_metrics, kept
from pipeline.evaluation.attention_picture import log_attention
from pipeline.evaluation.language import LanguageEvaluation, evaluate_language_model
from pipeline.evaluation.rows import HeldOut, keep_samples
from pipeline.machine.devices import check_device
from pipeline.machine.options import TrainerOptions
from pipeline.prepare import VALIDATION_SEED
from pipeline.runs.bundle import Bundle
from pipeline.runs.inputs import inputs_of
from pipeline.runs.rates import with_fitting_rates
from pipeline.runs.start import completed, load_same_architecture
from pipeline.stages.following import after_pretraining
from pipeline.stages.pretrain.prepare import Pretraining, prepare
from pipeline.tasks.base import GAP, Sample
from pipeline.training.export import export
from pipeline.training.fit import Training, train
from pipeline.training.label import label_of
from pipeline.training.states import Composed, Trained, start


def pretrain(config: Config) -> StageResult:
    """Train from scratch, or continue from a bundle (`init_from`) or an unfinished run (`resume`)."""
    with ready(config) as (prepared, training):
        trained = train(prepared, training)
        evaluation = _evaluate(trained)
        bundle = _export(trained, evaluation)
        samples = _samples(prepared, bundle.model)
        cost, estimated = Cost(step_s=trained.step_s, peak_bytes=trained.peak_bytes), kept(prepared.config)
        _record(prepared, samples, bundle)
        costs = cost_metrics(cost, estimated)
        if costs:
            prepared.tracked.log_metrics(costs, step=prepared.options.n_steps)
        prepared.tracked.end("FINISHED", bundle.metrics)
        _summarise(trained, samples, bundle, cost_facts(cost, estimated))
    return StageResult(
        stage="pretrain",
        run_id=prepared.tracked.run_id,
        bundle=str(bundle.folder),
        metrics={**bundle.metrics, **costs},
    )


@contextmanager
def ready(config: Config) -> Iterator[tuple[Pretraining, Training]]:
    """Start a run that is ready to train, and close it when the block ends."""
    with start(_compose(config)) as started:
        prepared = prepare(started)
        yield prepared, _training(prepared)


def _compose(config: Config) -> Composed:
    """Find the bundle to continue from, if one is requested, and complete the configuration."""
    check_device(construct(config.trainer, TrainerOptions))
    pretraining_task(config)
    bundle = None if config.init_from is None else load_same_architecture(config)
    config = with_fitting_rates(config, None if bundle is None else bundle.provenance)
    inputs = inputs_of(config, used=None if bundle is None else bundle.folder)
    complete = config if bundle is None else completed(config, bundle, model=bundle.model_config)
    return Composed(config=complete, label=label_of(complete), inputs=inputs, bundle=bundle)


def _training(prepared: Pretraining) -> Training:
    """Return the objective, the batches, and what is shown during training."""
    config, options, task, tokenizer = prepared.config, prepared.options, prepared.task, prepared.tokenizer
    data = PretrainDataModule(
        prepared.train_rows,
        prepared.validation_rows,
        collate=task.collator(tokenizer, seed=config.seed),
        validation_collate=task.collator(tokenizer, seed=VALIDATION_SEED),
        batch_size=options.batch_size,
        validation_batch_size=options.batch_size,
        seed=config.seed,
        num_workers=options.num_workers,
    )

    def show(step: int, samples: list[Sample]) -> None:
        if _may_be_shown(config, samples):
            prepared.tracked.log_text(report.samples_markdown(samples), f"samples/step-{step:06d}.md")

    return Training(
        objective=task.objective(tokenizer),
        data=data,
        samples=partial(_samples, prepared, prepared.model),
        show=show,
    )


def _evaluate(trained: Trained[Pretraining]) -> LanguageEvaluation:
    """Evaluate the best weights on all validation rows, row by row."""
    prepared = trained.prepared
    evaluation = evaluate_language_model(
        prepared.task,
        prepared.model,
        prepared.tokenizer,
        prepared.validation_rows,
        prepared.options,
        on=HeldOut(corpus=prepared.config.choices.data, split="validation", chose_weights=True),
    )
    prepared.model.cpu()
    return evaluation


def _export(trained: Trained[Pretraining], evaluation: LanguageEvaluation) -> Bundle:
    """Write the evaluation and the bundles."""
    prepared = trained.prepared
    evaluation.save(prepared.run.path)
    return export(
        trained,
        task_config=to_plain(prepared.config.task),
        provenance={
            "tokenizer_run": prepared.tokenizer_run,
            "train_rows": prepared.train_rows.manifest["sha256"],
            "validation_rows": prepared.validation_rows.manifest["sha256"],
        },
        metrics=evaluation.metrics,
    )


def _samples(prepared: Pretraining, model: Model) -> list[Sample]:
    """Return samples from the prompts, or from validation texts, no longer than the model's context."""
    config, task, tokenizer = prepared.config, prepared.task, prepared.tokenizer
    prompts = [prompt for prompt in config.prompts or [] if (GAP in prompt) == task.fills_gaps]
    options = construct(config.sampling, SamplingOptions)
    longest = max((len(tokenizer.encode(prompt)) for prompt in prompts), default=0)
    room = max(1, model.backbone.max_seq_len - 1 - longest)
    options = replace(options, max_new_tokens=min(options.max_new_tokens, room))
    return task.samples(model, tokenizer, prompts=prompts, texts=prepared.texts, options=options)


def _may_be_shown(config: Config, samples: list[Sample]) -> bool:
    """Return whether samples contain no text of the corpus, or the user allows it."""
    return config.log_corpus_text or all(sample.target is None for sample in samples)


def _record(prepared: Pretraining, samples: list[Sample], bundle: Bundle) -> None:
    """Record the samples, and the attention to the first validation row, in MLflow."""
    config, run, tracked, tokenizer = prepared.config, prepared.run, prepared.tracked, prepared.tokenizer
    show_text = _may_be_shown(config, samples)
    keep_samples(tracked, samples, run.path, "samples/best.md", show_text=show_text)
    rows = RowBatch(*prepared.validation_rows.take([0]), np.zeros(1, np.int64))
    first = prepared.task.collator(tokenizer, seed=VALIDATION_SEED)(rows)
    log_attention(tracked, bundle.model, tokenizer, first, show_text=config.log_corpus_text)


def _summarise(
    trained: Trained[Pretraining], samples: list[Sample], bundle: Bundle, costs: Mapping[str, str]
) -> None:
    """Print the summary."""
    prepared, metrics = trained.prepared, dict(bundle.metrics)
    if prepared.optimum_bits_per_byte is not None and "val/bits_per_byte" in metrics:
        metrics["optimum_bits_per_byte"] = prepared.optimum_bits_per_byte
    vocab_size = prepared.tokenizer.vocab_size
    facts = {
        "loss by chance": f"{math.log(vocab_size):.4f} (all {vocab_size:,} tokens equally likely)",
        "bundle": report.short(bundle.folder),
        "best step": f"{bundle.provenance['step']:,}",
        "training": trained.pace,
        **costs,
    }
    report.summary(
        f"{prepared.run.name}: done",
        metrics=metrics,
        facts=facts,
        samples=samples,
        next_commands=after_pretraining(prepared.run, prepared.task, type(prepared.model.backbone)),
        address=prepared.tracked.url,
    )
