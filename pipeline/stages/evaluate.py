"""Evaluate a bundle on the held-out rows of a corpus."""

from typing import Literal

from datamodules.cache import cache_key
from datamodules.corpus import TEXT_ONLY, Corpus
from datamodules.corpus.held_out import with_repeated
from datamodules.source import Source
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.evaluation.language import LanguageEvaluation, evaluate_language_model
from pipeline.evaluation.rows import (
    EVALUATION,
    Evaluation,
    HeldOut,
    evaluate_rows,
    log_evaluation,
    save_evaluation,
)
from pipeline.machine.devices import check_device
from pipeline.machine.options import TrainerOptions
from pipeline.prepare import build_validation_rows, load_corpus, optimum_bits_per_byte
from pipeline.runs.bundle import Bundle
from pipeline.runs.finetuned import asked_task, load_asked, with_trained_names
from pipeline.runs.inputs import inputs_of
from pipeline.runs.start import check_has_head
from pipeline.tasks.finetuning import FinetuneTask
from pipeline.tracking import DatasetRecord, Run
from pipeline.training.states import Composed, Started, start

#: The metric for the entropy of the corpus, a lower bound on bits per byte, if it is known.
OPTIMUM = "optimum_bits_per_byte"


def evaluate(config: Config) -> StageResult:
    """Evaluate a language model (loss, bits per byte) or a fine-tuned model (its metrics) on any corpus."""
    check_device(construct(config.trainer, TrainerOptions))
    bundle = load_asked(config)
    check_has_head(bundle)
    with start(_compose(config, bundle)) as started:
        run, tracked = started.run, started.tracked
        evaluation: Evaluation | LanguageEvaluation
        if isinstance(bundle.task, FinetuneTask):
            evaluation = _evaluate_task(started, bundle)
            metrics, samples = evaluation.metrics, evaluation.samples
            save_evaluation(run.path, evaluation)
        else:
            evaluation, optimum = _evaluate_language_model(started, bundle)
            metrics, samples = evaluation.metrics | optimum, []
            evaluation.save(run.path)
        run.keep(run.path / EVALUATION)
        facts = {
            "bundle": report.short(bundle.folder),
            "measured on": evaluation.on.in_words(len(evaluation.rows)),
        }
        tracked.describe(_about(bundle, facts["measured on"]))
        if evaluation.cautions:
            facts["caution"] = "; ".join(evaluation.cautions)
        tracked.end("FINISHED", metrics)
        report.summary(
            f"{run.name}: done",
            metrics={key: value for key, value in metrics.items() if key == OPTIMUM},
            scores=evaluation.scores,
            facts=facts,
            samples=samples,
            next_commands={"make ui": "compare runs in MLflow"},
            address=tracked.url,
        )
    return StageResult(stage="evaluate", run_id=tracked.run_id, bundle=str(bundle.folder), metrics=metrics)


def _compose(config: Config, bundle: Bundle) -> Composed:
    """Return the run of the evaluation; it records the bundle's folder, since `latest` changes with time."""
    return Composed(
        config=Config({**config, "bundle": str(bundle.folder)}),
        label=f"evaluate-{bundle.provenance['run']}-on-{config.choices.data}",
        inputs=inputs_of(config, used=bundle.folder),
        bundle=bundle,
        is_report=True,
    )


def _about(bundle: Bundle, rows: str) -> str:
    """Describe the evaluation in Markdown."""
    model = f"{type(bundle.task).__name__} on {type(bundle.model.backbone).__name__}"
    made = f"run `{bundle.provenance['run']}`, step {bundle.provenance['step']:,}"
    return f"The bundle `{report.short(bundle.folder)}` ({model}; {made}), measured on {rows}."


def _evaluate_task(started: Started, bundle: Bundle) -> Evaluation:
    """Predict the test rows, or the validation rows if there are none, and score the predictions."""
    config, tracked = started.config, started.tracked
    task = asked_task(config, bundle)
    corpus = construct(config.data, Source).load(with_trained_names(task.scored_columns, bundle))
    corpus = with_repeated(corpus, (*task.inputs, *task.optional))
    report.say_corpus(corpus, {})
    on = _held_out(config, bundle, corpus, "validation" if corpus.test is None else "test")
    rows = list(corpus.validation if corpus.test is None else corpus.test)
    task.check(rows, on.split)
    _log_rows(tracked, corpus, cache_key(corpus=corpus.fingerprint, split=on.split), on)
    evaluation = evaluate_rows(
        task, bundle.model, bundle.tokenizer, rows, on=on, batch_size=started.options.answer_batch_size
    )
    log_evaluation(tracked, evaluation, started.run.path, show_text=config.log_corpus_text)
    return evaluation


def _evaluate_language_model(started: Started, bundle: Bundle) -> tuple[LanguageEvaluation, dict[str, float]]:
    """Evaluate on the validation rows; also return the entropy of the corpus as a metric, if known."""
    config, options, tokenizer = started.config, started.options, bundle.tokenizer
    corpus, cleaned = load_corpus(config, with_trained_names(TEXT_ONLY, bundle))
    report.say_corpus(corpus, cleaned)
    limit = bundle.model.backbone.max_seq_len
    rows = build_validation_rows(config, options, corpus, tokenizer, bundle.task, max_seq_len=limit)
    on = _held_out(config, bundle, corpus, "validation")
    _log_rows(started.tracked, corpus, rows.manifest["sha256"], on)
    evaluation = evaluate_language_model(bundle.task, bundle.model, tokenizer, rows, options, on=on)
    optimum = optimum_bits_per_byte(corpus)
    if optimum is None or "bits_per_byte" not in evaluation.values:
        return evaluation, {}
    return evaluation, {OPTIMUM: optimum}


def _held_out(
    config: Config, bundle: Bundle, corpus: Corpus, split: Literal["validation", "test"]
) -> HeldOut:
    """Describe the held-out rows, including whether the bundle's weights were selected on them."""
    is_own = corpus.fingerprint == (bundle.provenance.get("corpus") or {}).get("fingerprint")
    return HeldOut(corpus=config.choices.data, split=split, chose_weights=split == "validation" and is_own)


def _log_rows(tracked: Run, corpus: Corpus, digest: str, on: HeldOut) -> None:
    tracked.log_dataset(DatasetRecord(name=corpus.name, digest=digest, source=corpus.uri), on.split)
