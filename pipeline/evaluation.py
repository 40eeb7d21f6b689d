"""A fine-tuned model's answers to rows, what they score, and what people look at."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from datamodules.tokenizer import Tokenizer
from modules.model import Model
from pipeline import report
from pipeline.output import write_whole
from pipeline.tasks.base import Sample
from pipeline.tasks.finetuning import FinetuneTask, Prediction, Row, Score
from pipeline.tracking import Run

#: Answers that a summary shows, and the worst answers that the error table lists.
N_SAMPLES = 5
N_ERRORS = 50

#: The file of a run's folder that says how each row was answered.
EVALUATION = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Answers to rows, and their scores with intervals."""

    task: FinetuneTask
    rows: Sequence[Row]
    predictions: Sequence[Prediction]
    scores: Mapping[str, Score]

    @property
    def samples(self) -> list[Sample]:
        """Answers to the first rows."""
        pairs = zip(self.rows[:N_SAMPLES], self.predictions[:N_SAMPLES], strict=True)
        return [self.task.sample(row, prediction) for row, prediction in pairs]

    @property
    def errors(self) -> list[tuple[int, Sample, float]]:
        """The worst answers: number of the row, answer and its score, the surest mistakes first."""
        quality = self.task.row_scores(self.predictions, self.rows)
        sure = np.array([prediction.confidence or 0.0 for prediction in self.predictions])
        worst = np.lexsort((-sure, quality))[:N_ERRORS]
        return [
            (int(i), self.task.sample(self.rows[i], self.predictions[i]), float(quality[i]))
            for i in worst
            if quality[i] < 1
        ]

    def metrics(self, prefix: str) -> dict[str, float]:
        """Values, and the ends of intervals, as they are recorded."""
        return recorded(self.scores, prefix)


def recorded(scores: Mapping[str, Score], prefix: str) -> dict[str, float]:
    """Values, and where there are intervals their ends as `NAME_low` and `NAME_high`."""
    values: dict[str, float] = {}
    for name, score in scores.items():
        values[f"{prefix}/{name}"] = score.value
        if score.low is not None and score.high is not None:
            values[f"{prefix}/{name}_low"], values[f"{prefix}/{name}_high"] = score.low, score.high
    return values


def evaluate_rows(
    task: FinetuneTask, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
) -> Evaluation:
    """Answer all rows and score the answers, with intervals."""
    predictions = task.predict(model, tokenizer, rows, batch_size=batch_size)
    scores = task.score(predictions, rows, intervals=True)
    return Evaluation(task=task, rows=rows, predictions=predictions, scores=scores)


def log_evaluation(tracked: Run, evaluation: Evaluation, *, show_text: bool) -> None:
    """Record plots, notes on the metrics and, where text may be shown, samples and errors."""
    notes = evaluation.task.notes(evaluation.predictions, evaluation.rows)
    tracked.set_tags({f"metric.{name}": note for name, note in notes.items()})
    with TemporaryDirectory() as folder:
        for name, figure in evaluation.task.figures(evaluation.predictions, evaluation.rows).items():
            file = Path(folder) / f"{name}.png"
            figure.savefig(file, dpi=150, bbox_inches="tight")
            tracked.log_file(file, f"plots/{name}.png")
    if show_text:
        tracked.log_text(report.samples_markdown(evaluation.samples), "samples/test.md")
        tracked.log_text(errors_markdown(evaluation.errors), "errors.md")


def errors_markdown(errors: Sequence[tuple[int, Sample, float]]) -> str:
    """The worst answers as a table."""
    lines = ["| row | score | given | made | truth |", "|---:|---:|---|---|---|"]
    for number, sample, quality in errors:
        cells = (_cell(text) for text in (sample.given, sample.output, sample.truth or ""))
        lines.append(f"| {number} | {quality:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def save_evaluation(folder: Path, evaluation: Evaluation, *, corpus: str, split: str) -> None:
    """Keep in a run's folder what each row scored, for `compare` to pair with another run's; no text."""
    task = evaluation.task
    scores = task.row_scores(evaluation.predictions, evaluation.rows)
    mean = float(scores.mean())
    same = [name for name, score in evaluation.scores.items() if abs(score.value - mean) < 1e-9]
    record = {
        "task": type(task).__name__,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "corpus": corpus,
        "split": split,
        "metrics": {name: asdict(score) for name, score in evaluation.scores.items()},
        "row_metric": task.metric if task.metric in same else next(iter(same), None),
        "rows": [row_digest(row) for row in evaluation.rows],
        "row_scores": scores.tolist(),
    }
    write_whole(folder / EVALUATION, json.dumps(record))


def row_digest(row: Row) -> str:
    """Sha256 of a row's canonical JSON: half of it, which is enough to tell rows apart."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def as_record(row: Row, prediction: Prediction) -> dict[str, Any]:
    """A row with its answer, as `make predict-TASK` writes it."""
    answer = {"text": prediction.text, "confidence": prediction.confidence, **prediction.details}
    return {**row, "prediction": answer}
