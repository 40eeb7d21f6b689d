"""Guess which column of a file a missing one is, by its name or else by its values."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from datamodules.errors import DataError

#: Common names of each column in files, in lower case, with only letters and digits.
_OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "text": (
        *("sentence", "sentence1", "premise", "content", "review", "body", "message", "comment", "tweet"),
        *("document", "article", "dialogue", "story", "paragraph", "utterance"),
    ),
    "text_pair": ("sentence2", "text2", "hypothesis", "pair"),
    "label": ("labels", "class", "category", "sentiment", "target", "intent", "topic", "rating", "tag", "y"),
    "context": ("passage", "paragraph", "document", "article", "text"),
    "question": ("query", "q"),
    "answers": ("answer",),
    "source": ("src", "input", "english", "en"),
    "target": ("tgt", "trg", "output", "translation", "reference", "german", "chinese", "de", "zh"),
    "target_language": ("lang", "language", "tgtlang"),
    "summary": ("highlights", "abstract", "headline", "tldr", "target"),
    "tokens": ("words", "token", "word"),
    "tags": ("nertags", "ner", "labels", "entities", "label"),
    "turns": ("dialog", "dialogue", "messages", "conversation", "conversations", "utterances"),
}

_MOST_CLASSES = 0.5
_LABEL_CHARACTERS = 40
_TEXT_CHARACTERS = 8
_HEADER_CHARACTERS = 60
_PLAIN = re.compile(r"[^\W\d][\w.-]*")
_NUMBER = re.compile(r"[-+]?[\d.,]+")

#: The number of rows that are examined.
SAMPLE_ROWS = 100

Sample = Sequence[Mapping[str, Any]]


def missing_column(
    where: str,
    wanted: str,
    present: Sequence[str],
    *,
    name: str,
    key: str,
    taken: Sequence[str] = (),
    sample: Sample = (),
) -> DataError:
    """Return the error for a missing column, with the columns that exist and a guess which of them it is.

    Args:
        where: the file.
        wanted: the name or path that is missing.
        present: the columns of the file.
        name: the name of the column in rows.
        key: the configuration key for the names of columns: `data.columns` or `columns`.
        taken: columns that are already used.
        sample: some rows.
    """
    shown = ", ".join(map(_shown, present)) or "none"
    problem, expected = f"{where}: there is no column '{wanted}'", f"one of the columns present: {shown}"
    if any(len(one) > _HEADER_CHARACTERS or _NUMBER.fullmatch(one) for one in present):
        remedy = "write the names of the columns in the first line, if they are missing"
        return DataError(problem, expected, remedy)
    free = [path for path in _with_fields(name, present, sample) if path not in taken]
    like = _by_name(name, wanted, free) or _by_content(name, free, sample)
    if like is None:
        return DataError(
            problem, expected, f"give the file such a column, or name it with {key}.{name}=COLUMN"
        )
    return DataError(problem, expected, f"set {key}.{name}={_quoted(like)}")


def _shown(name: str) -> str:
    """Return a name on one line, shortened, since a file may have a whole text in its place."""
    line = " ".join(name.split())
    return line if len(line) <= _HEADER_CHARACTERS else f"{line[: _HEADER_CHARACTERS - 1]}…"


def _quoted(name: str) -> str:
    """Quote a name so that it can be pasted into a command."""
    if _PLAIN.fullmatch(name):
        return name
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _with_fields(name: str, present: Sequence[str], sample: Sample) -> list[str]:
    """Return the columns, with paths of fields in place of objects unless an object is wanted."""
    paths: list[str] = []
    for column in present:
        first = next((row[column] for row in sample if row.get(column) is not None), None)
        if isinstance(first, Mapping) and name != "answers":
            paths += [f"{column}.{key}" for key in first]
        else:
            paths.append(column)
    return paths


def _by_name(name: str, wanted: str, free: Sequence[str]) -> str | None:
    folded = {_folded(path.rpartition(".")[2]): path for path in reversed(free)}
    names = [_folded(wanted), _folded(name), *_OTHER_NAMES.get(name, ())]
    known = next((folded[other] for other in names if other in folded), None)
    near = difflib.get_close_matches(_folded(wanted), folded, n=1, cutoff=0.8)
    return known or (folded[near[0]] if near else None)


def _folded(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _by_content(name: str, free: Sequence[str], sample: Sample) -> str | None:
    """Return the column whose values are most similar to those of `name`, or None."""
    judge = _JUDGES.get(name)
    if judge is None:
        return None
    scores = {
        path: judge([value for row in sample if (value := _at(row, path)) is not None]) for path in free
    }
    best = max(scores, key=lambda path: scores[path], default=None)
    return best if best is not None and scores[best] > 0 else None


def _at(row: Mapping[str, Any], path: str) -> Any:
    root, _, field = path.partition(".")
    if path in row or not isinstance(row.get(root), Mapping):
        return row.get(path)
    return row[root].get(field)


def _textual(values: Sequence[Any]) -> float:
    """Return the mean length of prose, or 0 if the values are not prose."""
    if not values or not all(isinstance(value, str) for value in values):
        return 0
    prose = any(" " in value or not value.isascii() for value in values)
    length = fmean(map(len, values))
    return length if prose or (length > _TEXT_CHARACTERS and not all(map(_NUMBER.fullmatch, values))) else 0


def _label(values: Sequence[Any]) -> float:
    """Return a score for few, short, repeated values."""
    texts = [str(value) for value in values if isinstance(value, str | int | bool)]
    share = len(set(texts)) / max(len(texts), 1)
    if len(texts) < len(values) or share > _MOST_CLASSES or fmean(map(len, texts)) > _LABEL_CHARACTERS:
        return 0
    return (1 - share) * (len(set(texts)) > 1)


def _question(values: Sequence[Any]) -> float:
    return fmean(str(value).rstrip().endswith(("?", "？", "؟")) for value in values) if values else 0


def _answers(values: Sequence[Any]) -> float:
    return float(bool(values) and all(isinstance(value, Mapping) and "text" in value for value in values))


def _turns(values: Sequence[Any]) -> float:
    return float(bool(values) and all(isinstance(value, list) and value for value in values))


_JUDGES: dict[str, Callable[[Sequence[Any]], float]] = {
    "text": _textual,
    "text_pair": _textual,
    "label": _label,
    "context": _textual,
    "question": _question,
    "answers": _answers,
    "summary": _textual,
    "source": _textual,
    "target": _textual,
    "turns": _turns,
}
