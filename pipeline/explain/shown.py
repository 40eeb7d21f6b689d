"""Explanations as people see them: pieces of text with a colour, for the page and for the pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.explain.explanation import Attributed, Explanation, WrittenToken
from pipeline.explain.words import Word
from pipeline.tasks.finetuning import FinetuneTask

#: Words that are listed with their numbers.
N_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class ExplainedRow:
    """An explanation, and the row that it is of.

    Args:
        number: of the row, from 1.
        columns: its texts; empty where they may not be shown.
        target: what the row says, where it may be shown.
        explanation: of the answer.
    """

    number: int
    columns: Mapping[str, str]
    target: str | None
    explanation: Explanation

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        row = {"columns": dict(self.columns)} if self.columns else {}
        return {"row": self.number, **row, "target": self.target, **self.explanation.record()}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a text; its weight, from -1 to 1, is its colour; None for what lies between words."""

    text: str
    weight: float | None = None
    note: str = ""


def coloured(decision: Attributed, columns: Mapping[str, str]) -> dict[str, list[Piece]]:
    """The texts of a decision by column, as words and what lies between them."""
    largest = max((abs(word.attribution) for word in decision.words), default=0) or 1
    found: dict[str, list[Piece]] = {}
    ends: dict[str, int] = {}
    for word in decision.words:
        pieces, text = found.setdefault(word.column, []), columns.get(word.column)
        between = " " if text is None else text[ends.get(word.column, 0) : word.start]
        if between:
            pieces.append(Piece(text=between))
        pieces.append(
            Piece(text=word.title, weight=word.attribution / largest, note=f"{word.attribution:+.4f}")
        )
        ends[word.column] = word.end
    for column, text in columns.items():
        if column in found and text[ends[column] :]:
            found[column].append(Piece(text=text[ends[column] :]))
    return found


def coloured_tokens(written: Sequence[WrittenToken]) -> list[Piece]:
    """What was written; the less likely a token was, the more colour it has."""
    return [
        Piece(text=token.text or f"#{number}", weight=token.probability - 1, note=_odds(token))
        for number, token in enumerate(written)
    ]


def listed(decision: Attributed) -> list[Word]:
    """The words with the largest attributions for or against, in the order of the text."""
    largest = sorted(decision.words, key=lambda word: -abs(word.attribution))[:N_LISTED]
    return sorted(largest, key=lambda word: word.first_token)


def texts_of(task: Any, row: Mapping[str, Any], explanation: Explanation) -> dict[str, str]:
    """The columns that words were found in; of a text that was written, all that are text."""
    read = {word.column for decision in explanation.decisions for word in decision.words}
    return {
        column: text
        for column, text in (task.as_text(row) if isinstance(task, FinetuneTask) else row).items()
        if isinstance(text, str) and (column in read or not explanation.decisions)
    }


def target_of(task: Any, row: Mapping[str, Any]) -> str | None:
    """What the row says should be answered, where it says so."""
    columns: Sequence[str] = task.targets if isinstance(task, FinetuneTask) else ()
    found = [row[column] for column in columns if row.get(column) is not None]
    texts = [one["text"] if isinstance(one, Mapping) and "text" in one else one for one in found]
    return ", ".join(", ".join(map(str, one)) if isinstance(one, list) else str(one) for one in texts) or None


def _odds(token: WrittenToken) -> str:
    others = ", ".join(f"{text} {share:.3f}" for text, share in token.alternatives)
    return f"{token.probability:.3f}" + (f" (likeliest: {others})" if others else "")
