"""Summarization: a text, summarized in one or a few sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.tasks.finetuning import Prediction, Row, Score
from pipeline.tasks.scoring import mean_score
from pipeline.tasks.scripts import has_unspaced
from pipeline.tasks.showing import Showing
from pipeline.tasks.text_scores import rouge
from pipeline.tasks.text_to_text import TextToText


@dataclass(frozen=True, kw_only=True)
class Summarisation(TextToText):
    """Generate the `summary` of `text`; a row may have a list of several summaries, all used for training.

    Scores are those of rouge_score, from 0 to 1; of several summaries, the most similar one counts.
    """

    inputs: ClassVar[tuple[str, ...]] = ("text",)
    targets: ClassVar[tuple[str, ...]] = ("summary",)
    metric: ClassVar[str] = "rouge_l"
    hub_task: ClassVar[str | None] = "summarization"
    showing: ClassVar[Showing] = Showing(
        title={"en": "Summarize", "zh": "摘要"},
        about={
            "en": "Summarizes a text in one or a few sentences.",
            "zh": "用一两句话概括一段文字。",
        },
        columns={
            "text": {"en": "Text", "zh": "文本"},
        },
        view="summarize",
    )

    def source(self, row: Row) -> str:
        """Return the text."""
        return str(row["text"])

    def references(self, row: Row) -> list[str]:
        """Return the summaries."""
        summary = row.get("summary")
        if summary is None:
            return []
        return [summary] if isinstance(summary, str) else [str(text) for text in summary]

    def target_values(self, value: Any) -> list[Any]:
        """Return one summary, or the items of a list."""
        return value if isinstance(value, list) and value else [value]

    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """Return the means of ROUGE-1, ROUGE-2 and ROUGE-L over rows."""
        scores = self._rouge(predictions, rows)
        return {name: mean_score(values, intervals=intervals) for name, values in scores.items()}

    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """Return the ROUGE-L of each summary."""
        return self._rouge(predictions, rows)["rouge_l"]

    def notes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, str]:
        """Return how ROUGE was computed."""
        from importlib.metadata import version

        unspaced = any(has_unspaced(target) for row in rows for target in self.references(row))
        tokens = "words+characters" if unspaced else "words"
        return {"rouge": f"measure:f1|stem:no|refs:max|tok:{tokens}|rouge_score:{version('rouge_score')}"}

    def _rouge(
        self, predictions: Sequence[Prediction], rows: Sequence[Row]
    ) -> dict[str, npt.NDArray[np.float64]]:
        return rouge([prediction.text for prediction in predictions], [self.references(row) for row in rows])
