"""Explanations as coloured pieces of text, for the page and for the pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.explain.explanation import Attributed, Explanation, WrittenToken
from pipeline.explain.words import Word
from pipeline.tasks.finetuning import FinetuneTask

#: The number of words that are listed with their attributions.
N_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class ExplainedRow:
    """An explanation with the row that it belongs to.

    Args:
        number: the number of the row, from 1.
        columns: the texts of the row; empty if they may not be shown.
        target: the target of the row, if it has one that may be shown.
        explanation: the explanation of the prediction.
    """

    number: int
    columns: Mapping[str, str]
    target: str | None
    explanation: Explanation

    def record(self) -> dict[str, Any]:
        """Return the row and its explanation as JSON values."""
        row = {"columns": dict(self.columns)} if self.columns else {}
        return {"row": self.number, **row, "target": self.target, **self.explanation.record()}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a text with a weight from -1 to 1, which sets its colour; None between words."""

    text: str
    weight: float | None = None
    note: str = ""


def coloured(decision: Attributed, columns: Mapping[str, str]) -> dict[str, list[Piece]]:
    """Return the texts of a decision by column, split into words and the text between them."""
    largest = max((abs(word.attribution) for word in decision.words), default=0) or 1
    by_column: dict[str, list[Piece]] = {}
    ends: dict[str, int] = {}
    for word in decision.words:
        pieces, text = by_column.setdefault(word.column, []), columns.get(word.column)
        between = " " if text is None else text[ends.get(word.column, 0) : word.start]
        if between:
            pieces.append(Piece(text=between))
        pieces.append(
            Piece(text=word.title, weight=word.attribution / largest, note=f"{word.attribution:+.4f}")
        )
        ends[word.column] = word.end
    for column, text in columns.items():
        if column in by_column and text[ends[column] :]:
            by_column[column].append(Piece(text=text[ends[column] :]))
    return by_column


def coloured_tokens(written: Sequence[WrittenToken]) -> list[Piece]:
    """Return the generated tokens, coloured more strongly the less likely they were."""
    return [
        Piece(text=token.text or f"#{number}", weight=token.probability - 1, note=_odds(token))
        for number, token in enumerate(written)
    ]


def listed(decision: Attributed) -> list[Word]:
    """Return the words with the largest absolute attributions, in the order of the text."""
    largest = sorted(decision.words, key=lambda word: -abs(word.attribution))[:N_LISTED]
    return sorted(largest, key=lambda word: word.first_token)


def texts_of(task: Any, row: Mapping[str, Any], explanation: Explanation) -> dict[str, str]:
    """Return the columns that contain the words of an explanation; for generated text, all text columns."""
    read = {word.column for decision in explanation.decisions for word in decision.words}
    return {
        column: text
        for column, text in (task.as_text(row) if isinstance(task, FinetuneTask) else row).items()
        if isinstance(text, str) and (column in read or not explanation.decisions)
    }


def target_of(task: Any, row: Mapping[str, Any]) -> str | None:
    """Return the target of a row as text; None if it has none."""
    columns: Sequence[str] = task.targets if isinstance(task, FinetuneTask) else ()
    values = [row[column] for column in columns if row.get(column) is not None]
    texts = [one["text"] if isinstance(one, Mapping) and "text" in one else one for one in values]
    return ", ".join(", ".join(map(str, one)) if isinstance(one, list) else str(one) for one in texts) or None


def _odds(token: WrittenToken) -> str:
    others = ", ".join(f"{text} {share:.3f}" for text, share in token.alternatives)
    return f"{token.probability:.3f}" + (f" (most likely: {others})" if others else "")
