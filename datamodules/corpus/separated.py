"""Tables with separators (.csv, .tsv) to Arrow tables of the wanted columns, or the line that is ragged."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from datamodules.corpus.columns import LABEL, Places
from datamodules.corpus.source_file import SourceFile, text_blocks
from datamodules.errors import DataError

_CSV_BLOCK_BYTES = 1 << 26
_WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"


def read_separated(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    """Read one file; labels that are whole numbers throughout are read as numbers.

    Raises:
        DataError: whatever is wrong in the file, with its line.
    """
    separator = separator_of(source)
    header = header_of(source)
    present = places.present(str(source.path), header, header)
    for name in present.values():
        if header.count(name) > 1:
            raise DataError(f"{source.path}: two columns are named '{name}'", "one", "rename one of them")
    written = dict.fromkeys(present.values(), pa.large_string())
    try:
        tables = (
            pa.Table.from_batches([batch]).select(list(present.values())).rename_columns(list(present))
            for batch in pa.csv.open_csv(
                pa.PythonFile(_BlockStream(block for _, block in text_blocks(source)), mode="r"),
                read_options=pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
                parse_options=pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(dict.fromkeys(present.values())),
                    column_types=written,
                    strings_can_be_null=False,
                ),
            )
        )
        yield from [_numbered(pa.concat_tables(tables))] if LABEL in present else tables
    except pa.ArrowInvalid as error:
        raise _what_is_ragged(source, separator, len(header), error) from error


def separator_of(source: SourceFile) -> str:
    """What stands between two fields."""
    return "\t" if source.kind == ".tsv" else ","


def header_of(source: SourceFile) -> list[str]:
    """The names of the columns."""
    return next(csv.reader(_lines(source), delimiter=separator_of(source)), [])


def _numbered(table: pa.Table) -> pa.Table:
    """Make labels numbers where all of a file's are: in CSV they are written like text."""
    labels = table.column(LABEL)
    if not pa.compute.all(pa.compute.match_substring_regex(labels, _WHOLE_NUMBER)).as_py():
        return table
    return table.set_column(table.column_names.index(LABEL), LABEL, labels.cast(pa.int64()))


def _what_is_ragged(source: SourceFile, separator: str, n_columns: int, error: pa.ArrowInvalid) -> DataError:
    """Find the line that the fast reader refused without saying which."""
    reader = csv.reader(_lines(source), delimiter=separator, strict=True)
    csv.field_size_limit(_CSV_BLOCK_BYTES)
    start = 1
    try:
        for fields in reader:
            if fields and len(fields) != n_columns:
                return DataError(
                    f"{source.path}, line {start}: {len(fields)} fields",
                    f"{n_columns}, as in the header",
                    "put fields that hold separators, quotes or line ends in double quotes",
                )
            start = reader.line_num + 1
    except csv.Error as reason:
        return DataError(
            f"{source.path}, line {start}: {reason}",
            "fields with closed quotes",
            'double each quote inside: ""',
        )
    return DataError(
        f"{source.path}: {' '.join(str(error).split())}", "a table with a header", "repair the file"
    )


def _lines(source: SourceFile) -> Iterator[str]:
    for _, block in text_blocks(source):
        yield from io.StringIO(block.decode("utf-8"), newline="")


class _BlockStream(io.RawIOBase):
    """Blocks as one readable file, so that a checked and unpacked file is read without a copy on disk."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as one block goes; 0 at the end."""
        self._rest = self._rest or next(self._blocks, b"")
        view = memoryview(buffer).cast("B")
        n_bytes = min(len(view), len(self._rest))
        view[:n_bytes] = self._rest[:n_bytes]
        self._rest = self._rest[n_bytes:]
        return n_bytes
