"""Read rows to predict: the columns that the model reads are checked, and others are passed through."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.corpus.arrow import ClassNames, class_names_of, column_at
from datamodules.corpus.columns import Columns, Places, has, value_at
from datamodules.corpus.formats import heading, parquet_file, parquet_rows_at_once
from datamodules.corpus.forms import check_value
from datamodules.corpus.notes import notes_on
from datamodules.corpus.objects import json_objects
from datamodules.corpus.proposals import missing_column
from datamodules.corpus.rows import TEXT, Row
from datamodules.corpus.separated import read_separated
from datamodules.corpus.source_file import SourceFile, find_files, text_blocks
from datamodules.errors import DataError

Numbered = Iterator[tuple[str, dict[str, Any]]]
"""The position of a row, and its values by path."""

_KEY = "columns"


def read_rows(
    path: str | Path,
    names: Mapping[str, str],
    columns: Columns,
    *,
    carried: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> list[Row]:
    """Read rows to predict.

    Args:
        path: a file or a glob pattern.
        names: name of a column of the rows -> its name in the file, as in `Files`.
        columns: the columns that the task reads.
        carried: further columns, such as targets and ids, which a row keeps if it has them; their types may
            differ between rows. Those in `names` must be present.
        say: called with notes on how the file was read.

    Raises:
        DataError: if the file is invalid; the error names the line.
    """
    sources = find_files(str(path), "input")
    wanted = {*columns.possible_names(names), *carried}
    if say is not None:
        for note in notes_on({"input": str(path)}, {"input": sources}, wanted):
            say(note)
    rows = [row for source in sources for row in _rows(source, names, columns, carried)]
    if not rows:
        raise DataError(
            f"{sources[0].path} contains no rows", "at least one row", "check how the file was written"
        )
    for name in carried:
        if name in names and not any(name in row for row in rows):
            header = heading(sources[0], names.values())
            raise missing_column(
                header.where, names[name], header.names, name=name, key=_KEY, sample=header.sample()
            )
    return rows


def given_rows(rows: Sequence[Row], columns: Columns) -> list[Row]:
    """Return the columns that the task reads of rows in memory, checked like those of a file.

    Raises:
        DataError: if a row is not a mapping, lacks a column, or has a value that the column may not contain.
    """
    if isinstance(rows, Mapping | str):
        raise DataError(
            f"the rows are one {type(rows).__name__}", "a list of rows", "put brackets around it: [row]"
        )
    return [_given(row, columns, f"row {number}") for number, row in enumerate(rows, 1)]


def _given(row: Row, columns: Columns, where: str) -> Row:
    if not isinstance(row, Mapping):
        raise DataError(
            f"{where} is a {type(row).__name__}, not a mapping",
            "a mapping such as " + str(dict.fromkeys(columns.required, "...")),
            "give each row's columns by name",
        )
    places = Places.of(columns, columns.found_names({}, lambda path: has(row, path)))
    if missing := [name for name, path in places.required.items() if not has(row, path)]:
        raise DataError(
            f"{where} has no column '{missing[0]}', only {', '.join(map(str, row)) or 'nothing'}",
            f"the columns {', '.join(columns.required)}",
            "give each row its columns by these names",
        )
    read = places.present(where, [path for path in places.paths if has(row, path)], list(row))
    for name, path in read.items():
        check_value(name, value_at(row, path), where, path)
    return {name: value_at(row, path) for name, path in read.items()}


def _rows(
    source: SourceFile, names: Mapping[str, str], columns: Columns, carried: Sequence[str]
) -> Iterator[Row]:
    header = heading(source, {*columns.possible_names(names), *carried})
    there = header.has
    places = Places.of(columns, columns.found_names(names, there), key=_KEY)
    read = places.present(header.where, filter(there, places.paths), header.names, header.sample)
    kept = {name: names.get(name, name) for name in carried if name not in read}
    paths = dict.fromkeys(path for path in (*read.values(), *kept.values()) if there(path))
    for where, row in _READERS[source.kind](source, list(paths)):
        for name, path in read.items():
            if not has(row, path):
                raise DataError(
                    f"{where}: the key '{path}' is missing",
                    "this key in every row",
                    "correct or remove the row",
                )
            check_value(name, value_at(row, path), where, path)
        yield {name: value_at(row, path) for name, path in (read | kept).items() if has(row, path)}


def _read_txt(source: SourceFile, paths: Sequence[str]) -> Numbered:
    content = b"".join(block for _, block in text_blocks(source)).decode("utf-8")
    if content.strip():
        yield str(source.path), {TEXT: content}


def _read_json(source: SourceFile, paths: Sequence[str]) -> Numbered:
    for where, row in json_objects(source):
        if not isinstance(row, dict):
            raise DataError(
                f"{where}: not an object", 'an object such as {"text": "..."}', "correct or remove the line"
            )
        yield where, row


def _read_separated(source: SourceFile, paths: Sequence[str]) -> Numbered:
    # With column names that no task reads, values remain text as they are written.
    places = Places({f"column {number}": path for number, path in enumerate(paths)}, {})
    return _numbered(source, paths, read_separated(source, places))


def _read_parquet(source: SourceFile, paths: Sequence[str]) -> Numbered:
    file = parquet_file(source)
    class_names = class_names_of(file.schema_arrow)
    n_rows = parquet_rows_at_once(file)
    batches = (pa.Table.from_batches([batch]) for batch in file.iter_batches(batch_size=n_rows))
    picked = ([_column(batch, path, class_names) for path in paths] for batch in batches)
    return _numbered(source, paths, (pa.table(columns, list(paths)) for columns in picked))


def _column(table: pa.Table, path: str, class_names: ClassNames) -> pa.ChunkedArray:
    """Return a column with classes as names, or as numbers if a row has no class (secret test labels)."""
    try:
        return column_at(table, path, class_names, path)
    except DataError:
        return column_at(table, path, {}, path)


def _numbered(source: SourceFile, paths: Sequence[str], tables: Iterator[pa.Table]) -> Numbered:
    number = 0
    for table in tables:
        for row in table.rename_columns(list(paths)).to_pylist():
            number += 1
            yield f"{source.path}, row {number}", row


_READERS: dict[str, Callable[[SourceFile, Sequence[str]], Numbered]] = {
    ".txt": _read_txt,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".conll": _read_json,
    ".parquet": _read_parquet,
}
