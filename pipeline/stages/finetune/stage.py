"""The stage `finetune`: compose, prepare, train, evaluate, and write the bundles."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

from datamodules.datamodule import FinetuneDataModule
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.config.tasks import to_node
from pipeline.evaluation.attention_picture import log_attention
from pipeline.evaluation.rows import (
    N_SAMPLES,
    Evaluation,
    HeldOut,
    evaluate_rows,
    log_evaluation,
    save_evaluation,
)
from pipeline.explain.worst import log_worst
from pipeline.machine.devices import device_of
from pipeline.runs.bundle import Bundle
from pipeline.stages.finetune.compose import compose
from pipeline.stages.finetune.facts import Baseline, baseline_metrics, compare_baselines
from pipeline.stages.finetune.prepare import Finetuning, prepare
from pipeline.stages.finetune.summary import summarise
from pipeline.tasks.base import Sample
from pipeline.training.callbacks.freezing import Freezing
from pipeline.training.callbacks.task_metrics import TaskMetrics
from pipeline.training.export import export
from pipeline.training.fit import Training, train
from pipeline.training.states import Trained, start


def finetune(config: Config) -> StageResult:
    """Fine-tune a bundle, or train from scratch, on labelled rows."""
    with ready(config) as (prepared, training):
        trained = train(prepared, training)
        evaluation = _evaluate(trained)
        bundle = _export(trained, evaluation)
        baselines = compare_baselines(evaluation, prepared.rows["train"])
        _record(prepared, evaluation, bundle, baselines)
        prepared.tracked.end("FINISHED", bundle.metrics)
        summarise(trained, evaluation, bundle, baselines)
    return StageResult(
        stage="finetune", run_id=prepared.tracked.run_id, bundle=str(bundle.folder), metrics=bundle.metrics
    )


@contextmanager
def ready(config: Config) -> Iterator[tuple[Finetuning, Training]]:
    """Start a run that is ready to train, and close it when the block ends."""
    composed, labelled = compose(config)
    with start(composed) as started:
        prepared = prepare(started, labelled)
        yield prepared, _training(prepared)


def _training(prepared: Finetuning) -> Training:
    """Return the objective, the batches, and what is measured and shown during training."""
    config, options, task = prepared.config, prepared.options, prepared.task
    held_out = prepared.rows["validation"]
    data = FinetuneDataModule(
        prepared.features["train"],
        prepared.features["validation"],
        collate=task.collate,
        batch_size=options.batch_size,
        seed=config.seed,
        num_workers=options.num_workers,
        curriculum_batches=options.curriculum_batches,
    )
    predict = partial(
        task.fast().predict, prepared.model, prepared.tokenizer, batch_size=options.answer_batch_size
    )

    def measure() -> dict[str, float]:
        some = held_out[: options.score_rows]
        return {name: score.value for name, score in task.score(predict(some), some).items()}

    def samples() -> list[Sample]:
        some = held_out[:N_SAMPLES]
        return [task.sample(row, answer) for row, answer in zip(some, predict(some), strict=True)]

    def show(step: int, made: list[Sample]) -> None:
        if config.log_corpus_text:
            prepared.tracked.log_text(report.samples_markdown(made), f"samples/step-{step:06d}.md")

    freezing = construct(config.freezing, Freezing)
    return Training(
        objective=task.objective(),
        data=data,
        samples=samples,
        show=show,
        monitor=f"val/{task.metric}",
        mode="max" if task.higher_is_better else "min",
        callbacks=[TaskMetrics(measure), *freezing.callbacks(prepared.model)],
    )


def _evaluate(trained: Trained[Finetuning]) -> Evaluation:
    """Calibrate the task on the validation rows, then evaluate on the test rows or, without any, the former.

    The task of the evaluation is the calibrated one.
    """
    prepared = trained.prepared
    options, tokenizer, task = prepared.options, prepared.tokenizer, prepared.task
    model, held_out = prepared.model.to(device_of(options)).eval(), prepared.rows["validation"]
    if task.needs_calibration(held_out):
        answers = task.predict(model, tokenizer, held_out, batch_size=options.answer_batch_size)
        task = task.calibrated(answers, held_out)
    on = HeldOut(corpus=prepared.config.choices.data, split="validation", chose_weights=True)
    if "test" in prepared.rows:
        on = HeldOut(corpus=prepared.config.choices.data, split="test")
    rows = prepared.rows[on.split]
    evaluation = evaluate_rows(task, model, tokenizer, rows, on=on, batch_size=options.answer_batch_size)
    model.cpu()
    return evaluation


def _export(trained: Trained[Finetuning], evaluation: Evaluation) -> Bundle:
    """Write the evaluation, and the bundles with the calibrated task."""
    save_evaluation(trained.prepared.run.path, evaluation)
    return export(
        trained,
        task_config=to_node(evaluation.task),
        provenance={
            "measured_on": {**asdict(evaluation.on), "rows": len(evaluation.rows)},
            "notes": evaluation.task.notes(evaluation.predictions, evaluation.rows),
            "cautions": evaluation.cautions,
        },
        metrics=evaluation.metrics,
    )


def _record(
    prepared: Finetuning, evaluation: Evaluation, bundle: Bundle, baselines: Mapping[str, Baseline]
) -> None:
    """Record the evaluation, the baselines, and the attention to the first validation row in MLflow."""
    task, tracked, show_text = prepared.task, prepared.tracked, prepared.config.log_corpus_text
    tracked.describe(f"Measured on {evaluation.on.in_words(len(evaluation.rows))}.")
    log_evaluation(tracked, evaluation, prepared.run.path, show_text=show_text)
    first = task.collate(prepared.features["validation"].take([0]))
    log_attention(tracked, bundle.model, prepared.tokenizer, first, show_text=show_text)
    log_worst(tracked, evaluation, bundle.model, prepared.tokenizer, show_text=show_text, say=report.say)
    tracked.log_metrics(baseline_metrics(baselines, task.metric), 0)
