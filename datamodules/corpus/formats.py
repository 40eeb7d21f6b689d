"""Each kind of file to Arrow tables of the wanted columns, with a precise word for what is wrong in it."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from datamodules.corpus.rows import TEXT
from datamodules.corpus.source_file import SourceFile, text_blocks
from datamodules.errors import DataError

Columns = Mapping[str, str]
"""Column of the rows -> column of the file."""

_CSV_BLOCK_BYTES = 1 << 26
_PARQUET_ROWS = 8192
_JSON_NAMES: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def read_tables(source: SourceFile, columns: Columns) -> Iterator[pa.Table]:
    """Read one file as tables with the columns of `columns`; `text` is text in every row.

    Raises:
        DataError: whatever is wrong in the file, with its line or row.
    """
    for table in _READERS[source.kind](source, columns):
        renamed = table.select(list(columns.values())).rename_columns(list(columns))
        position = renamed.schema.get_field_index(TEXT)
        yield renamed.set_column(position, TEXT, renamed.column(TEXT).cast(pa.large_string()))


def missing_column(where: str, wanted: str, present: list[str]) -> DataError:
    """Say which column is missing, and which there are."""
    names = ", ".join(present) or "none"
    like = present[0] if present else "NAME"
    return DataError(
        f"{where}: there is no column '{wanted}'",
        f"one of the columns present: {names}",
        f"set data.columns.text={like}",
    )


def no_text(where: str, column: str, found: str) -> DataError:
    """Say that one row holds something that is not text."""
    return DataError(
        f"{where}: column '{column}' holds {found}", "text in every row", "repair or drop the row"
    )


def mixed_types(source: SourceFile, reason: str) -> DataError:
    """Say that a column is of one type here and of another there."""
    return DataError(
        f"{source.path}: a column changes its type: {' '.join(reason.split())}",
        "the same types in every row",
        "repair the file",
    )


def _read_txt(source: SourceFile, columns: Columns) -> Iterator[pa.Table]:
    for name in columns.values():
        if name != TEXT:
            raise missing_column(str(source.path), name, [TEXT])
    content = b"".join(block for _, block in text_blocks(source))
    if content.strip():
        yield pa.table({TEXT: pa.array([content], pa.large_binary()).cast(pa.large_string())})


def _read_json_lines(source: SourceFile, columns: Columns) -> Iterator[pa.Table]:
    schema = pa.schema([(columns[TEXT], pa.large_string())])
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    for first_line, block in text_blocks(source):
        if list(columns) != [TEXT]:  # the fast reader would guess types: a title "2020-01-01" would be a time
            yield _json_lines_one_by_one(source, columns, first_line, block)
            continue
        try:
            table = pa.json.read_json(
                pa.BufferReader(block),
                read_options=pa.json.ReadOptions(block_size=len(block) + 1, use_threads=False),
                parse_options=options,
            )
        except pa.ArrowInvalid:
            yield _json_lines_one_by_one(source, columns, first_line, block)
            continue
        n_lines = block.count(b"\n") + (not block.endswith(b"\n"))
        if table.num_rows == n_lines and not table.column(columns[TEXT]).null_count:
            yield table
        else:
            yield _json_lines_one_by_one(source, columns, first_line, block)


def _json_lines_one_by_one(source: SourceFile, columns: Columns, first_line: int, block: bytes) -> pa.Table:
    """Do the same slowly, line by line: what the fast reader refused is read, or its line is named."""
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        if not line.strip():
            continue
        where = f"{source.path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: broken JSON at character {error.colno}: {error.msg}",
                "one whole JSON object a line",
                "repair or drop the line",
            ) from error
        rows.append(_checked_row(row, columns, where, is_first=not rows and first_line == 1))
    return _table_of(rows, columns, source)


def _read_json(source: SourceFile, columns: Columns) -> Iterator[pa.Table]:
    """Read a list of objects; a file that does not begin with a bracket is read as JSON lines."""
    blocks = text_blocks(source)
    _, head = next(blocks, (1, b""))
    if not head.lstrip().startswith(b"["):
        yield from _read_json_lines(source, columns)
        return
    try:
        rows = json.loads(b"".join([head, *(block for _, block in blocks)]))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{source.path}, line {error.lineno}: broken JSON at character {error.colno}: {error.msg}",
            "one list of objects",
            "repair the file",
        ) from error
    checked = [
        _checked_row(row, columns, f"{source.path}, object {number}", is_first=number == 1)
        for number, row in enumerate(rows, start=1)
    ]
    yield _table_of(checked, columns, source)


def _checked_row(row: Any, columns: Columns, where: str, *, is_first: bool) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: {_JSON_NAMES[type(row)]}, not an object",
            'an object as {"text": "..."}',
            "repair the file",
        )
    for name in columns.values():
        if name not in row:
            if is_first:
                raise missing_column(where, name, list(row))
            raise DataError(
                f"{where}: the key '{name}' is missing",
                "the same keys in every row",
                "repair or drop the row",
            )
    text = row[columns[TEXT]]
    if not isinstance(text, str):
        raise no_text(where, columns[TEXT], _JSON_NAMES[type(text)])
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise no_text(where, columns[TEXT], "half of a surrogate pair (\\ud800 to \\udfff)")
    return row


def _table_of(rows: list[Mapping[str, Any]], columns: Columns, source: SourceFile) -> pa.Table:
    arrays = {columns[TEXT]: pa.array([row[columns[TEXT]] for row in rows], pa.large_string())}
    for name in set(columns.values()) - {columns[TEXT]}:
        try:
            arrays[name] = pa.array([row[name] for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise mixed_types(source, f"'{name}': {error}") from error
    return pa.table(arrays)


def _read_separated(source: SourceFile, columns: Columns) -> Iterator[pa.Table]:
    separator = "\t" if source.kind == ".tsv" else ","
    header = next(csv.reader(_lines(source), delimiter=separator), [])
    for name in columns.values():
        if name not in header:
            raise missing_column(str(source.path), name, header)
        if header.count(name) > 1:
            raise DataError(f"{source.path}: two columns are named '{name}'", "one", "rename one of them")
    try:
        yield from (
            pa.Table.from_batches([batch])
            for batch in pa.csv.open_csv(
                pa.PythonFile(_BlockStream(block for _, block in text_blocks(source)), mode="r"),
                read_options=pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
                parse_options=pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(columns.values()),
                    column_types={columns[TEXT]: pa.large_string()},
                    strings_can_be_null=False,
                ),
            )
        )
    except pa.ArrowInvalid as error:
        raise _what_is_ragged(source, separator, len(header), error) from error


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


def _read_parquet(source: SourceFile, columns: Columns) -> Iterator[pa.Table]:
    try:
        file = pa.parquet.ParquetFile(source.path)
        for name in columns.values():
            if name not in file.schema_arrow.names:
                raise missing_column(str(source.path), name, file.schema_arrow.names)
        n_rows = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=list(columns.values())):
            table = pa.Table.from_batches([batch])
            _check_text_column(table.column(columns[TEXT]), str(source.path), columns[TEXT], n_rows)
            n_rows += table.num_rows
            yield table
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{source.path} cannot be read as Parquet: {' '.join(str(error).split())}",
            "a whole Parquet file",
            "copy or download it again",
        ) from error


def _check_text_column(column: pa.ChunkedArray, where: str, name: str, n_rows_before: int) -> None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise no_text(where, name, f"values of type {column.type}")
    column.validate(full=True)
    if column.null_count:
        first = column.is_null().index(True).as_py()
        raise no_text(f"{where}, row {n_rows_before + first + 1}", name, "null")


_READERS: dict[str, Callable[[SourceFile, Columns], Iterator[pa.Table]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".parquet": _read_parquet,
}
