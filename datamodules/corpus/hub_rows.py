"""Convert the rows of a data set on the Hub: select and check columns, and join lines to documents."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute

from datamodules.corpus.arrow import class_names_of, column_at
from datamodules.corpus.columns import Places, Present, value_at
from datamodules.corpus.forms import check_column, check_form, form_of
from datamodules.corpus.rows import TEXT, Rows
from datamodules.errors import DataError


def joined(rows: Iterable[Mapping[str, Any]], start: str) -> Iterator[dict[str, str]]:
    """Join the rows from one that matches `start` up to the next; columns other than `text` are dropped."""
    pattern = re.compile(start)
    lines: list[str] = []
    for row in rows:
        if pattern.match(row[TEXT]) and "".join(lines).strip():
            yield {TEXT: "".join(lines)}
            lines = []
        lines.append(row[TEXT])
    if "".join(lines).strip():
        yield {TEXT: "".join(lines)}


def picked(rows: Rows, present: Present, where: str) -> Rows:
    """Select the requested columns of a data set, with fields of objects, and classes as names."""
    import datasets

    schema = rows.features.arrow_schema
    class_names = class_names_of(schema)
    if all(path in rows.column_names and path not in class_names for path in present.values()):
        rows = rows.select_columns(list(present.values()))
        return rows.rename_columns({path: name for name, path in present.items() if name != path})
    table = rows.with_format("arrow")[:]
    columns = {name: column_at(table, path, class_names, where) for name, path in present.items()}
    return datasets.Dataset(pa.table(columns))


def picked_stream(rows: Rows, present: Present) -> Rows:
    """Select the requested columns of a stream; classes remain numbers."""
    if all(path in (rows.column_names or [path]) for path in present.values()):
        rows = rows.select_columns(list(present.values()))
        return rows.rename_columns({path: name for name, path in present.items() if name != path})
    drop = [name for name in rows.column_names if name not in present]
    return rows.map(_picked_row, fn_kwargs={"present": present}, remove_columns=drop)


def _picked_row(row: dict[str, Any], present: Present) -> dict[str, Any]:
    return {name: value_at(row, path) for name, path in present.items()}


def checked_row(row: dict[str, Any], number: int, where: str) -> dict[str, Any]:
    """Reject a row of a stream with values that its columns may not contain.

    Raises:
        DataError: if a value is not allowed; the error names the row.
    """
    for name, value in row.items():
        check_form(name, form_of(value), f"{where}, row {number + 1}", name)
    return row


def check_table(table: pa.Table, where: str, places: Places) -> None:
    """Reject columns with values that they may not contain, and rows without any text.

    Raises:
        DataError: if a column is invalid, or there is no text.
    """
    for name in table.column_names:
        check_column(name, table.column(name), where, name)
    if places.text_only and not pa.compute.sum(pa.compute.binary_length(table.column(TEXT))).as_py():
        raise DataError(f"{where} contains no text", "at least one row with text", "choose another split")
