"""Read the objects of JSON files (JSON Lines, a list, or one document), and the sentences of CoNLL files."""

import json
from collections.abc import Iterator
from typing import Any

from datamodules.corpus import conll
from datamodules.corpus.nested import rows_of_document
from datamodules.corpus.source_file import SourceFile, text_blocks
from datamodules.errors import DataError


def json_objects(source: SourceFile) -> Iterator[tuple[str, Any]]:
    """Yield each object of a JSON file, or sentence of a CoNLL file, with its position.

    Raises:
        DataError: if the JSON or the CoNLL columns are invalid; the error names the line.
    """
    if source.kind == ".conll":
        yield from conll.sentences(source)
        return
    if source.kind == ".json" and is_document(source):
        yield from objects_of_document(source)
        return
    for first_line, block in text_blocks(source):
        yield from objects_of_lines(source, first_line, block)


def objects_of_lines(source: SourceFile, first_line: int, block: bytes) -> Iterator[tuple[str, Any]]:
    """Yield each object of a block of JSON Lines.

    Raises:
        DataError: if the JSON is invalid; the error names the line.
    """
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        if not line.strip():
            continue
        where = f"{source.path}, line {number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: invalid JSON at character {error.colno}: {error.msg}",
                "one complete JSON object per line",
                "correct or remove the line",
            ) from error


def is_document(source: SourceFile) -> bool:
    """Return whether a file is a list, or one object that contains rows, and not JSON Lines."""
    _, head = next(text_blocks(source), (1, b""))
    text = head.lstrip()
    if not text.startswith(b"{"):
        return text.startswith(b"[")
    first, _, rest = text.partition(b"\n")
    try:
        row = json.loads(first)
    except json.JSONDecodeError:
        return first.strip() == b"{" or not rest.lstrip().startswith(b"{")
    return not rest.strip() and isinstance(row.get("data"), list)


def objects_of_document(source: SourceFile) -> Iterator[tuple[str, Any]]:
    """Yield each row of a file that is one JSON document.

    Raises:
        DataError: if the JSON is invalid; the error names the line.
    """
    try:
        document = json.loads(b"".join(block for _, block in text_blocks(source)))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{source.path}, line {error.lineno}: invalid JSON at character {error.colno}: {error.msg}",
            "one list of objects",
            "correct the file",
        ) from error
    if isinstance(document, list):
        yield from ((f"{source.path}, object {number}", row) for number, row in enumerate(document, start=1))
    else:
        yield from rows_of_document(document, str(source.path))
