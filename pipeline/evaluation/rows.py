"""Evaluate a fine-tuned model on rows: predictions, metrics, samples and the worst errors."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from datamodules.tokenizer import Tokenizer
from modules.model import Model
from pipeline import progress, report
from pipeline.output import write_whole
from pipeline.tasks.base import Sample
from pipeline.tasks.finetuning import FinetuneTask, Prediction, Row, Score
from pipeline.tracking import Run

#: The number of predictions in a summary, and of the worst predictions in the table of errors.
N_SAMPLES = 5
N_ERRORS = 50

#: Files in a run's folder: the score of each row; samples and the worst predictions, with their texts.
EVALUATION = "evaluation.json"
SAMPLES, ERRORS = "samples.md", "errors.md"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The rows that a model was measured on, and whether its weights were selected on them."""

    corpus: str
    split: Literal["validation", "test"]
    chose_weights: bool = False

    @property
    def prefix(self) -> str:
        """The prefix of the names of metrics."""
        return "val" if self.split == "validation" else "test"

    def in_words(self, n_rows: int) -> str:
        """Describe the rows, for example as `1,000 test rows of reviews`."""
        what = f"{n_rows:,} {self.split} {'row' if n_rows == 1 else 'rows'} of {self.corpus}"
        return f"{what}, on which the weights were selected" if self.chose_weights else what


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Predictions and their metrics with confidence intervals."""

    task: FinetuneTask
    on: HeldOut
    rows: Sequence[Row]
    predictions: Sequence[Prediction]
    scores: Mapping[str, Score]

    @property
    def samples(self) -> list[Sample]:
        """The predictions for the first rows."""
        pairs = zip(self.rows[:N_SAMPLES], self.predictions[:N_SAMPLES], strict=True)
        return [self.task.sample(row, prediction) for row, prediction in pairs]

    @property
    def worst(self) -> list[tuple[int, float]]:
        """The worst predictions, as row number (from 0) and score; the most confident mistakes come first."""
        quality = self.task.row_scores(self.predictions, self.rows)
        sure = np.array([prediction.confidence or 0.0 for prediction in self.predictions])
        worst = np.lexsort((-sure, quality))[:N_ERRORS]
        return [(int(i), float(quality[i])) for i in worst if quality[i] < 1]

    @property
    def metrics(self) -> dict[str, float]:
        """The values and the bounds of intervals, as they are recorded."""
        return recorded(self.scores, self.on.prefix)

    @property
    def cautions(self) -> list[str]:
        """Warnings for the readers of the metrics."""
        own = {name: score for name, score in self.scores.items() if name.startswith(self.task.metric)}
        empty = [name for name, score in own.items() if self.task.higher_is_better and score.value == 0]
        return [
            *(f"{name} is 0 on all rows, so it cannot distinguish models here" for name in empty),
            *self.task.cautions(self.predictions),
        ]


def recorded(scores: Mapping[str, Score], prefix: str) -> dict[str, float]:
    """Return the metrics as they are recorded, with the bounds of intervals as `NAME_low` and `NAME_high`."""
    values: dict[str, float] = {}
    for name, score in scores.items():
        values[f"{prefix}/{name}"] = score.value
        if score.low is not None and score.high is not None:
            values[f"{prefix}/{name}_low"], values[f"{prefix}/{name}_high"] = score.low, score.high
    return values


def evaluate_rows(
    task: FinetuneTask,
    model: Model,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    *,
    on: HeldOut,
    batch_size: int,
) -> Evaluation:
    """Predict all rows and score the predictions, with confidence intervals."""
    with progress.showing("evaluate"):
        predictions = task.predict(model, tokenizer, rows, batch_size=batch_size)
    scores = task.score(predictions, rows, intervals=True)
    return Evaluation(task=task, on=on, rows=rows, predictions=predictions, scores=scores)


def log_evaluation(tracked: Run, evaluation: Evaluation, folder: Path, *, show_text: bool) -> None:
    """Record plots, notes, samples and errors in MLflow; texts stay in `folder` unless `show_text`."""
    notes = evaluation.task.notes(evaluation.predictions, evaluation.rows)
    tracked.set_tags({f"metric.{name}": note for name, note in notes.items()})
    with TemporaryDirectory() as drafts:
        for name, figure in evaluation.task.figures(evaluation.predictions, evaluation.rows).items():
            file = Path(drafts) / f"{name}.png"
            figure.savefig(file, dpi=150, bbox_inches="tight")
            tracked.log_file(file, f"plots/{name}.png")
    artifact = f"samples/{evaluation.on.split}.md"
    keep_samples(tracked, evaluation.samples, folder, artifact, show_text=show_text)
    write_whole(folder / ERRORS, errors_markdown(evaluation, show_text=True))
    tracked.log_text(errors_markdown(evaluation, show_text=show_text), ERRORS)


def keep_samples(
    tracked: Run, samples: Sequence[Sample], folder: Path, artifact: str, *, show_text: bool
) -> None:
    """Save samples in the run's `folder` and, if `show_text`, record them in MLflow."""
    text = report.samples_markdown(samples)
    write_whole(folder / SAMPLES, text)
    if show_text:
        tracked.log_text(text, artifact)


def errors_markdown(evaluation: Evaluation, *, show_text: bool) -> str:
    """Format the worst predictions as a Markdown table; without `show_text`, it contains only class names."""
    lines = [_error(evaluation, *one, show_text=show_text) for one in evaluation.worst]
    if not lines:
        return "Every prediction is correct.\n"
    table = [list(lines[0]), ["---"] * len(lines[0]), *(list(line.values()) for line in lines)]
    about = "Rows are numbered from 0."
    if not show_text:
        about += f" Their texts are only in `{ERRORS}` of the run's folder (log_corpus_text=false)."
    return "\n".join([about, "", *(f"| {' | '.join(cells)} |" for cells in table)]) + "\n"


def _error(evaluation: Evaluation, number: int, score: float, *, show_text: bool) -> dict[str, str]:
    """Return one line of the table, by column."""
    task, row, prediction = evaluation.task, evaluation.rows[number], evaluation.predictions[number]
    sure = "" if prediction.confidence is None else f"{prediction.confidence:.3f}"
    line = {"row": str(number), "score": f"{score:.3f}", "confidence": sure}
    if show_text:
        sample = task.sample(row, prediction)
        line |= {"input": sample.input, "prediction": sample.output, "target": sample.target or ""}
    elif (labels := task.labels(row, prediction)) is not None:
        line |= dict(zip(("prediction", "target"), labels, strict=True))
    return {column: _cell(text) for column, text in line.items()}


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def save_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Save the score of each row in a run's folder, so that `compare` can pair them; no text is saved."""
    task = evaluation.task
    scores = task.row_scores(evaluation.predictions, evaluation.rows)
    mean = float(scores.mean())
    same = [name for name, score in evaluation.scores.items() if abs(score.value - mean) < 1e-9]
    record = {
        "task": type(task).__name__,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        **asdict(evaluation.on),
        "prefix": evaluation.on.prefix,
        "metrics": {name: asdict(score) for name, score in evaluation.scores.items()},
        "row_metric": task.metric if task.metric in same else next(iter(same), None),
        "rows": [row_digest(row) for row in evaluation.rows],
        "row_scores": scores.tolist(),
    }
    write_whole(folder / EVALUATION, json.dumps(record))


def row_digest(row: Row) -> str:
    """Return half of the sha256 of a row's canonical JSON, which identifies the row."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def as_record(row: Row, prediction: Prediction) -> dict[str, Any]:
    """Return a row with its prediction, as `make predict-TASK` writes it."""
    answer = {"text": prediction.text, "confidence": prediction.confidence, **prediction.details}
    return {**row, "prediction": answer}
