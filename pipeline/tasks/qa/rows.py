"""Checks of rows with a question, a context and answers."""

from collections.abc import Mapping, Sequence

from datamodules.errors import DataError
from pipeline.tasks.finetuning import Row, number_of, type_words
from pipeline.words import shorten

#: The maximum length of a text in an error message, and of the context shown around an answer.
_SHOWN = 40
_AROUND = 300
_FORM = '{"text": [...], "answer_start": [...]}, both empty where there is no answer'


def check_rows(rows: Sequence[Row], split: str) -> None:
    """Check that rows have a question and a context, and that each answer starts where the row says.

    Raises:
        DataError: names the split, the first such row, its values, and the number of such rows.
    """
    wrong: list[tuple[int, str, int]] = []
    for place, row in enumerate(rows):
        where = f"{split}, row {number_of(rows, place)}"
        context = _text(row, "context", where)
        _text(row, "question", where)
        for text, start in _answers(row, where):
            if context[start : start + len(text)] != text or start < 0:
                wrong.append((place, text, start))
                break
    if wrong:
        _refuse_offset(rows, wrong, split)


def references(row: Row) -> list[str]:
    """Return the texts of a row's answers; empty if the question has no answer."""
    return list(row["answers"]["text"])


def excerpt(row: Row) -> str:
    """Return the context around the first target answer; its beginning if there is none."""
    context, starts = row["context"], (row.get("answers") or {}).get("answer_start") or [0]
    first = max(0, min(starts[0] - _AROUND // 2, len(context) - _AROUND))
    before, after = ("…" if cut else "" for cut in (first > 0, first + _AROUND < len(context)))
    return f"{before}{' '.join(context[first : first + _AROUND].split())}{after}"


def _text(row: Row, column: str, where: str) -> str:
    value = row.get(column)
    if isinstance(value, str) and value and not value.isspace():
        return value
    found = "empty" if isinstance(value, str) else type_words(value)
    raise DataError(
        f"{where}: '{column}' is {found}",
        "text",
        f"drop the row, or name the right column with data.columns.{column}=...",
    )


def _answers(row: Row, where: str) -> list[tuple[str, int]]:
    answers = row.get("answers")
    if not isinstance(answers, Mapping):
        raise DataError(
            f"{where}: 'answers' is {type_words(answers)}", _FORM, "convert the answers to this form"
        )
    texts, starts = answers.get("text"), answers.get("answer_start")
    if not isinstance(texts, list | tuple) or not isinstance(starts, list | tuple):
        raise DataError(
            f"{where}: 'answers' has no lists 'text' and 'answer_start'",
            _FORM,
            "convert the answers to this form",
        )
    if len(texts) != len(starts):
        raise DataError(
            f"{where}: there are {len(texts)} answers, but {len(starts)} values of 'answer_start'",
            "one start for each answer",
            "give the position of each answer in the context, in characters from 0",
        )
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text or not isinstance(start, int):
            raise DataError(
                f"{where}: the answer {text!r} has the start {start!r}",
                "a non-empty text, and an integer",
                "drop the answer; use empty lists for a question without an answer",
            )
    return list(zip(texts, starts, strict=True))


def _refuse_offset(rows: Sequence[Row], wrong: Sequence[tuple[int, str, int]], split: str) -> None:
    place, text, start = wrong[0]
    number, context = number_of(rows, place), rows[place]["context"]
    others = f" ({len(wrong):,} such rows)" if len(wrong) > 1 else ""
    places = context.count(text)
    if places == 0:
        raise DataError(
            f"{split}, row {number}: the answer {_shown(text)} is not in its context{others}",
            "an exact substring of the context",
            "drop the row, or copy the answer exactly from the context",
        )
    there = context[max(start, 0) : max(start, 0) + len(text)]
    really = f"it starts at {context.index(text)}" if places == 1 else f"it occurs in {places} places"
    raise DataError(
        f"{split}, row {number}: the answer {_shown(text)} does not start at character {start}, "
        f"where the context has {_shown(there)}{others}",
        f"its position in the context, in characters from 0: {really}",
        "correct answer_start (positions in bytes or in a cleaned context differ)",
    )


def _shown(text: str) -> str:
    return repr(shorten(text, _SHOWN))
