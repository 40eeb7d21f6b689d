"""Read tables with separators (.csv, .tsv), in which every cell is text exactly as it is written.

CSV follows RFC 4180: a cell in double quotes may contain separators, line breaks, and doubled quotes. TSV has
no quoting: a tab ends a cell, a line break ends a row, and every other character is literal. An empty cell is
an empty text. Empty lines are skipped.

*Source:* RFC 4180; IANA, text/tab-separated-values.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator
from itertools import islice

import pyarrow as pa

from datamodules.corpus.batches import in_batches
from datamodules.corpus.columns import Places
from datamodules.corpus.proposals import SAMPLE_ROWS
from datamodules.corpus.source_file import SourceFile, text_blocks
from datamodules.errors import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

_RAGGED = {
    ".csv": "put fields that contain separators, quotes or line breaks in double quotes",
    ".tsv": "replace tabs and line breaks in texts by spaces (TSV has no quoting), or write the file as .csv",
}
_NAMES_SEPARATOR = re.compile(r"sep=.\s*", re.IGNORECASE)
_MOST_CHARACTERS = 1 << 26
_ROWS_AT_ONCE = 1 << 13

Record = tuple[int, list[str]]
"""The number of its first line, and its cells."""


def read_separated(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    """Yield the requested columns of a file as tables.

    Raises:
        DataError: if the file is invalid; the error names the line.
    """
    separator, header = header_of(source, places.paths)
    present = places.present(
        where_of(source, separator), header, header, lambda: sample_of(source, separator, header)
    )
    for name in present.values():
        if header.count(name) > 1:
            raise DataError(
                f"{source.path}: two columns are named '{name}'", "unique names", "rename one of the columns"
            )
    wanted = [header.index(path) for path in present.values()]
    rows = (cells for _, cells in _checked(source, separator, len(header)))
    for some in in_batches(rows, lambda cells: sum(map(len, cells)), most=_ROWS_AT_ONCE):
        columns = [pa.array([cells[number] for cells in some], pa.large_string()) for number in wanted]
        yield pa.table(columns, list(present))


def header_of(source: SourceFile, wanted: Collection[str]) -> tuple[str, list[str]]:
    """Return the separator of a file, and the names in its first line.

    For a .csv file, it is the separator with which most of the `wanted` columns are found, then the one with
    most columns, then the comma.
    """
    if source.kind == ".tsv":
        return "\t", next(_tab_separated(source), (1, [""]))[1]
    headers = {separator: _first(source, separator) for separator in SEPARATORS}
    return max(headers.items(), key=lambda item: (len({*item[1]} & {*wanted}), len(item[1])))


def where_of(source: SourceFile, separator: str) -> str:
    """Return the file, with its separator if that is not a comma, for error messages."""
    if separator == ",":
        return str(source.path)
    return f"{source.path} (separated by {SEPARATORS[separator]})"


def _first(source: SourceFile, separator: str) -> list[str]:
    """Return the first record, without checking quotes, which are invalid with a wrong separator."""
    reader = csv.reader(_lines(source), delimiter=separator)
    try:
        return next((cells for cells in reader if cells), [])
    except csv.Error:
        return []


def sample_of(source: SourceFile, separator: str, header: list[str]) -> list[dict[str, str]]:
    """Return the first rows, from which to guess columns; empty if they cannot be read."""
    try:
        some = list(islice(_records(source, separator), 1, 1 + SAMPLE_ROWS))
    except DataError:
        return []
    return [dict(zip(header, cells, strict=False)) for _, cells in some]


def _checked(source: SourceFile, separator: str, n_columns: int) -> Iterator[Record]:
    """Yield all records after the header.

    Raises:
        DataError: if a record has a different number of fields.
    """
    for line, cells in islice(_records(source, separator), 1, None):
        if len(cells) != n_columns:
            raise DataError(
                f"{source.path}, line {line}: {len(cells)} {'field' if len(cells) == 1 else 'fields'}",
                f"{n_columns}, as in the header",
                _RAGGED[source.kind],
            )
        yield line, cells


def _records(source: SourceFile, separator: str) -> Iterator[Record]:
    return _tab_separated(source) if source.kind == ".tsv" else _quoted(source, separator)


def _tab_separated(source: SourceFile) -> Iterator[Record]:
    for first, block in text_blocks(source):
        for number, line in enumerate(block.decode().split("\n"), start=first):
            if row := line.removesuffix("\r"):
                yield number, row.split("\t")


def _quoted(source: SourceFile, separator: str) -> Iterator[Record]:
    csv.field_size_limit(_MOST_CHARACTERS)
    reader = csv.reader(_lines(source), delimiter=separator, strict=True)
    start = 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as reason:
        raise DataError(
            f"{source.path}, line {start}: {reason}",
            "fields with closed quotes",
            'double each quote inside: ""',
        ) from reason


def _lines(source: SourceFile) -> Iterator[str]:
    """Yield lines with their line breaks; a first line that names the separator (Excel) becomes blank."""
    for number, block in text_blocks(source):
        lines = io.StringIO(block.decode(), newline="")
        if number == 1:
            first = next(lines, "")
            yield "\n" if _NAMES_SEPARATOR.fullmatch(first) else first
        yield from lines
