"""Read each kind of file as Arrow tables of the requested columns."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from datamodules.corpus.arrow import class_names_of, column_at, in_schema
from datamodules.corpus.batches import rows_at_once
from datamodules.corpus.checked_rows import CheckedRows
from datamodules.corpus.columns import Places, has, root_of
from datamodules.corpus.forms import (
    check_column,
    only_text,
)
from datamodules.corpus.objects import is_document, json_objects, objects_of_document, objects_of_lines
from datamodules.corpus.proposals import SAMPLE_ROWS, Sample
from datamodules.corpus.rows import TEXT
from datamodules.corpus.separated import header_of, read_separated, sample_of, where_of
from datamodules.corpus.source_file import SourceFile, text_blocks
from datamodules.errors import DataError

_PARQUET_ROWS = 8192


def read_tables(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    """Yield a file as tables of the requested columns, under the names that they have in the rows.

    Raises:
        DataError: if the file is invalid; the error names the line or the row.
    """
    for table in _READERS[source.kind](source, places):
        for position, name in enumerate(table.column_names):
            if only_text(name):
                table = table.set_column(position, name, table.column(name).cast(pa.large_string()))  # noqa: PLW2901
        yield table


@dataclass(frozen=True)
class Heading:
    """The columns and first rows of a file.

    Args:
        where: the file, for error messages.
        names: the names of its columns.
        has: returns whether it has a path.
        sample: returns its first rows.
    """

    where: str
    names: list[str]
    has: Callable[[str], bool]
    sample: Callable[[], Sample]


def heading(source: SourceFile, wanted: Collection[str]) -> Heading:
    """Return the heading of a file; for JSON, the columns are those of its first object.

    The `wanted` columns help to find the separator of a .csv file.

    Raises:
        DataError: if the file cannot be read as the kind that its name says.
    """
    where = str(source.path)
    if source.kind == ".txt":
        return Heading(where, [TEXT], lambda path: path == TEXT, tuple)
    if source.kind == ".parquet":
        file = parquet_file(source)
        schema = file.schema_arrow
        return Heading(where, schema.names, lambda path: in_schema(schema, path), lambda: first_rows(file))
    if source.kind in (".csv", ".tsv"):
        separator, names = header_of(source, wanted)
        return Heading(
            where_of(source, separator),
            names,
            lambda path: path in names,
            lambda: sample_of(source, separator, names),
        )
    some = [row for _, row in islice(json_objects(source), SAMPLE_ROWS) if isinstance(row, dict)]
    first = some[0] if some else {}
    return Heading(where, list(first), lambda path: has(first, path), lambda: some)


def first_rows(file: pa.parquet.ParquetFile) -> list[dict[str, Any]]:
    """Return the first rows of a Parquet file."""
    for batch in file.iter_batches(batch_size=SAMPLE_ROWS):
        return batch.to_pylist()  # type: ignore[no-any-return]
    return []


def parquet_rows_at_once(file: pa.parquet.ParquetFile, columns: Collection[str] | None = None) -> int:
    """Return how many rows of some columns of a Parquet file to read at once; by default of all columns.

    Their size is that in the file before compression, which is smaller than in memory where texts repeat.
    """
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    n_bytes = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if columns is None or chunk.path_in_schema in columns or chunk.path_in_schema.split(".")[0] in columns
    )
    return rows_at_once(file.metadata.num_rows, n_bytes, most=_PARQUET_ROWS)


def parquet_file(source: SourceFile) -> pa.parquet.ParquetFile:
    """Open a Parquet file.

    Raises:
        DataError: if it is not a Parquet file.
    """
    try:
        return pa.parquet.ParquetFile(source.path)
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(source, error) from error


def _read_txt(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    present = places.present(str(source.path), [TEXT], [TEXT])
    content = b"".join(block for _, block in text_blocks(source))
    if content.strip():
        text = pa.array([content], pa.large_binary()).cast(pa.large_string())
        yield pa.table(dict.fromkeys(present, text))


def _read_json_lines(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    rows = CheckedRows(places)
    for first_line, block in text_blocks(source):
        # With further columns, the fast reader would guess types: a title "2020-01-01" would become a time.
        table = _json_lines_at_once(block, places.required[TEXT]) if places.text_only else None
        if table is None:
            table = rows.table(source, objects_of_lines(source, first_line, block))
        if table.num_rows:
            yield table


def _json_lines_at_once(block: bytes, column: str) -> pa.Table | None:
    """Read the text of every line with the fast reader; return None if anything is unusual."""
    schema = pa.schema([(column, pa.large_string())])
    try:
        table = pa.json.read_json(
            pa.BufferReader(block),
            read_options=pa.json.ReadOptions(block_size=len(block) + 1, use_threads=False),
            parse_options=pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    n_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    whole = table.num_rows == n_lines and not table.column(column).null_count
    return table.rename_columns([TEXT]) if whole else None


def _read_conll(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    table = CheckedRows(places).table(source, json_objects(source))
    if table.num_rows:
        yield table


def _read_json(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    """Read a list of objects, one object that contains rows, or else JSON Lines."""
    if not is_document(source):
        yield from _read_json_lines(source, places)
        return
    rows = list(objects_of_document(source))
    if rows:
        yield CheckedRows(places).table(source, iter(rows))


def _read_parquet(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    where = str(source.path)
    try:
        file = pa.parquet.ParquetFile(source.path)
        schema = file.schema_arrow
        there = [path for path in places.paths if in_schema(schema, path)]
        present = places.present(where, there, schema.names, lambda: first_rows(file))
        roots = list(dict.fromkeys(root_of(path, schema.names) for path in present.values()))
        class_names = class_names_of(schema)
        n_rows = 0
        for batch in file.iter_batches(batch_size=parquet_rows_at_once(file, roots), columns=roots):
            read = pa.Table.from_batches([batch])
            table = pa.table(
                {name: column_at(read, path, class_names, where) for name, path in present.items()}
            )
            for name, path in present.items():
                check_column(name, table.column(name), where, path, n_rows)
            n_rows += table.num_rows
            yield table
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(source, error) from error


def _no_parquet(source: SourceFile, error: Exception) -> DataError:
    return DataError(
        f"{source.path} cannot be read as Parquet: {' '.join(str(error).split())}",
        "a complete Parquet file",
        "copy or download it again",
    )


_READERS: dict[str, Callable[[SourceFile, Places], Iterator[pa.Table]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": read_separated,
    ".tsv": read_separated,
    ".conll": _read_conll,
    ".parquet": _read_parquet,
}
