"""Checks of rows with words and tags."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.words import joined, word_spans
from pipeline.tasks.finetuning import Row, number_of, type_words

_TAG = re.compile(r"O|[BI]-\S.*")
_COLUMN = "name the right column with data.columns.{}=..., or correct the row"


def text_and_spans(row: Row) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of a row, and the characters [start, end) of each word in it.

    A row of words is joined to a text; a row that is a text is split into words.
    """
    tokens = row["tokens"]
    if isinstance(tokens, str):
        return tokens, word_spans(tokens)
    return joined(tokens)


def check_tokens(row: Row, where: str) -> None:
    """Check that a row has words.

    Raises:
        DataError: names the row, and what is wrong with its words.
    """
    tokens = row.get("tokens")
    if isinstance(tokens, str):
        if not word_spans(tokens):
            raise DataError(f"{where}: tokens is empty", "at least one word", "leave out the row")
        return
    if not isinstance(tokens, list | tuple | np.ndarray):
        raise DataError(
            f"{where}: tokens is {type_words(tokens)}", "a list of words", _COLUMN.format("tokens")
        )
    if not len(tokens):
        raise DataError(f"{where}: tokens is empty", "at least one word", "leave out the row")
    for place, token in enumerate(tokens):
        if not isinstance(token, str) or not token.strip():
            raise DataError(f"{where}: word {place + 1} is {token!r}", "text", "correct or leave out the row")


def check_rows(rows: Sequence[Row], split: str, types: Sequence[str] | None) -> None:
    """Check that rows have words, and one legal tag of a known type for each word.

    Raises:
        DataError: names the split, the row, and what is wrong.
    """
    for number, row in enumerate(rows):
        where = f"row {number_of(rows, number)} of {split}"
        check_tokens(row, where)
        tokens, tags = row["tokens"], row.get("tags")
        if isinstance(tokens, str):
            raise DataError(f"{where}: tokens is one text", "a list of words", "split it into words")
        if not isinstance(tags, list | tuple | np.ndarray):
            raise DataError(f"{where}: tags is {type_words(tags)}", "a list of tags", _COLUMN.format("tags"))
        if len(tags) != len(tokens):
            raise DataError(
                f"{where}: there are {len(tokens):,} words, but {len(tags):,} tags",
                "a tag for each word",
                "correct the row",
            )
        for token, tag in zip(tokens, tags, strict=True):
            _check_tag(tag, f"{where}: the tag of {token!r}", types)


def _check_tag(tag: Any, what: str, types: Sequence[str] | None) -> None:
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        remedy = "convert the tags to the BIO scheme (from IOBES, S- becomes B- and E- becomes I-)"
        if isinstance(tag, int):
            remedy = "write the names of the tags instead of their numbers"
        raise DataError(f"{what} is {tag!r}", "O, B-TYPE or I-TYPE", remedy)
    if types is not None and tag != "O" and tag[2:] not in types:
        raise DataError(
            f"{what} is {tag!r}, but no training row has this type",
            f"one of the types {', '.join(types)}",
            "add training rows of each type, or set task.entity_types",
        )
