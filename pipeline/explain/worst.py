"""Explain the worst predictions of an evaluation within a time limit, as artifacts of its run."""

import json
import time
from collections.abc import Callable

from datamodules.tokenizer import Tokenizer
from modules.model import Model
from pipeline.evaluation.rows import Evaluation
from pipeline.explain.explanation import explain_row
from pipeline.explain.page import render_explanations
from pipeline.explain.shown import ExplainedRow, target_of, texts_of
from pipeline.tracking import Run

#: Artifacts of a run.
PAGE, RECORDS = "explanations/worst.html", "explanations/worst.json"
#: The name of the metric for the largest gap of the sums of attributions.
GAP = "worst/completeness_gap"  # MLflow sorts groups by name, and the losses come first
N_WORST = 20
#: After this time no further row is started; the number of steps per row is limited too.
BUDGET_S = 20.0
_MOST_STEPS = 256


def log_worst(
    tracked: Run,
    evaluation: Evaluation,
    model: Model,
    tokenizer: Tokenizer,
    *,
    show_text: bool,
    say: Callable[[str, str], None],
) -> None:
    """Explain the worst predictions, and log a page, JSON and the largest gap; nothing if all are right.

    Without `show_text`, words are shown as token numbers and generated text is left out; class names stay. An
    untracked run has no artifacts. Failures are reported and not raised, because the model is already
    trained.
    """
    if tracked.run_id is None or not evaluation.worst:
        return
    try:
        rows = _explained(evaluation, model, tokenizer, show_text=show_text)
        notes = [] if show_text else ["Words are shown as token numbers (log_corpus_text=false)."]
        n_worst = min(N_WORST, len(evaluation.worst))
        if len(rows) < n_worst:
            notes.append(
                f"{len(rows)} of the {n_worst} worst answers: the time limit for explanations was reached."
            )
        tracked.log_text(render_explanations(rows, title="The worst answers explained", notes=notes), PAGE)
        tracked.log_text(json.dumps([row.record() for row in rows], ensure_ascii=False), RECORDS)
    except Exception as error:  # no failure here may lose the trained model
        say("Note", f"the worst answers could not be explained ({type(error).__name__}: {error})")
        return
    gaps = [row.explanation.gap for row in rows if row.explanation.gap is not None]
    if gaps:
        tracked.log_metrics({GAP: max(gaps)}, 0)


def _explained(
    evaluation: Evaluation, model: Model, tokenizer: Tokenizer, *, show_text: bool
) -> list[ExplainedRow]:
    """Explain as many of the worst predictions as time allows, without attention."""
    task, explained = evaluation.task, list[ExplainedRow]()
    end = time.monotonic() + BUDGET_S
    for number, _ in evaluation.worst[:N_WORST]:
        if explained and time.monotonic() > end:
            break
        row, prediction = evaluation.rows[number], evaluation.predictions[number]
        explanation = explain_row(
            task, model, tokenizer, row, prediction=prediction, most_steps=_MOST_STEPS, attention=False
        )
        names = task.labels(row, prediction)
        if not show_text:
            explanation = explanation.without_text(keep_answer=names is not None)
        explained.append(
            ExplainedRow(
                number=number,
                columns=texts_of(task, row, explanation) if show_text else {},
                target=names[1] if names else target_of(task, row) if show_text else None,
                explanation=explanation,
            )
        )
    return explained
