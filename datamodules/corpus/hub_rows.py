"""The rows of a data set of the hub as ours: the wanted columns, checked; lines joined to documents."""

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
    """Join the rows from one that matches `start` up to the next; other columns than `text` are dropped."""
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
    """The wanted columns of a data set, out of objects and with names for classes where these are wanted."""
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
    """Do the same with a stream; classes keep their numbers."""
    if all(path in (rows.column_names or [path]) for path in present.values()):
        rows = rows.select_columns(list(present.values()))
        return rows.rename_columns({path: name for name, path in present.items() if name != path})
    drop = [name for name in rows.column_names if name not in present]
    return rows.map(_picked_row, fn_kwargs={"present": present}, remove_columns=drop)


def _picked_row(row: dict[str, Any], present: Present) -> dict[str, Any]:
    return {name: value_at(row, path) for name, path in present.items()}


def checked_row(row: dict[str, Any], number: int, where: str) -> dict[str, Any]:
    """Refuse a row of a stream that holds what its columns may not.

    Raises:
        DataError: the row and what it holds.
    """
    for name, value in row.items():
        check_form(name, form_of(value), f"{where}, row {number + 1}", name)
    return row


def check_table(table: pa.Table, where: str, places: Places) -> None:
    """Refuse columns that hold what they may not, and rows without any text.

    Raises:
        DataError: what is wrong.
    """
    for name in table.column_names:
        check_column(name, table.column(name), where, name)
    if places.text_only and not pa.compute.sum(pa.compute.binary_length(table.column(TEXT))).as_py():
        raise DataError(f"{where} holds no text", "at least one row with text", "choose another split")
