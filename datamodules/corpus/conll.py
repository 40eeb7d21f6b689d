"""Read the column format of the CoNLL shared tasks: a word per line, a blank line after each sentence."""

import re
from collections.abc import Iterator
from typing import Any

from datamodules.corpus.source_file import SourceFile, text_blocks
from datamodules.errors import DataError

_DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"O|[BI]-\S.*")
_SEPARATOR = re.compile(r"[ \t]+")


def sentences(source: SourceFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each sentence as `tokens` and `tags`, with the line where it begins.

    The first column is the word, and the last one its tag; a file with one column has no tags. Columns are
    separated by tabs, or else by spaces. Lines that begin with -DOCSTART- separate documents.

    Raises:
        DataError: if a line has a different number of columns than the first line, or a tag is not O, B-TYPE
            or I-TYPE.

    Source: Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task", section 2.3.
    """
    first: list[str] = []
    tokens: list[str] = []
    tags: list[str] = []
    where = ""
    for number, line in _lines(source):
        fields = _fields(line)
        if not fields or fields[0] == _DOCUMENT:
            if tokens:
                yield where, _row(tokens, tags)
            tokens, tags = [], []
            continue
        here = f"{source.path}, line {number}"
        first = first or fields
        _check(fields, first, here)
        where = where if tokens else here
        tokens.append(fields[0])
        tags += fields[1:][-1:]
    if tokens:
        yield where, _row(tokens, tags)


def _row(tokens: list[str], tags: list[str]) -> dict[str, Any]:
    return {"tokens": tokens, "tags": tags} if tags else {"tokens": tokens}


def _lines(source: SourceFile) -> Iterator[tuple[int, str]]:
    for first_line, block in text_blocks(source):
        yield from enumerate(block.decode().removesuffix("\n").split("\n"), first_line)


def _fields(line: str) -> list[str]:
    bare = line.strip(" \t\r")
    if not bare:
        return []
    return bare.split("\t") if "\t" in bare else _SEPARATOR.split(bare)


def _check(fields: list[str], first: list[str], where: str) -> None:
    if len(fields) != len(first):
        raise DataError(
            f"{where}: {len(fields)} columns, but the first line has {len(first)}",
            "a word and its tag (and the same number of columns between them) on every line",
            "repair the line; sentences are separated by a blank line",
        )
    if len(fields) > 1 and not _TAG.fullmatch(fields[-1]):
        raise DataError(
            f"{where}: the tag of {fields[0]!r} is {fields[-1]!r}",
            "O, B-TYPE or I-TYPE in the last column",
            "convert the tags to the BIO scheme (from IOBES: S- becomes B-, and E- becomes I-)",
        )
