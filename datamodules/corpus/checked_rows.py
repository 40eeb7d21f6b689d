"""Extract columns of objects, and check that their types are the same in all rows."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from datamodules.corpus.columns import Places, Present, has, value_at
from datamodules.corpus.forms import (
    agree,
    check_value,
    form_of,
    in_one_form,
    only_text,
    read_fields,
    wrong_form,
)
from datamodules.corpus.proposals import SAMPLE_ROWS
from datamodules.corpus.source_file import SourceFile
from datamodules.errors import DataError

_UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)


def _array(name: str, values: list[Any]) -> pa.Array:
    return pa.array(in_one_form(values), pa.large_string() if only_text(name) else None)


def _first_unfit(name: str, values: list[Any]) -> int:
    """Return the index of the first value that does not fit into an array with those before it."""
    fits, unfit = 0, len(values)
    while unfit - fits > 1:
        middle = (fits + unfit) // 2
        try:
            _array(name, values[:middle])
            fits = middle
        except _UNFIT:
            unfit = middle
    return unfit - 1


class CheckedRows:
    """Extracts the requested columns of objects, and checks that all objects have the types of the first."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._present: Present | None = None
        self._forms: dict[str, str] = {}
        self._sample: list[dict[str, Any]] = []

    def table(self, source: SourceFile, rows: Iterator[tuple[str, Any]]) -> pa.Table:
        """Return a table of the objects, which are given with their positions."""
        if self._present is None:
            head = list(islice(rows, SAMPLE_ROWS))
            self._sample = [row for _, row in head if isinstance(row, dict)]
            rows = chain(head, rows)
        values: dict[str, list[Any]] = {}
        places: list[str] = []
        for where, row in rows:
            places.append(where)
            for name, value in self._checked(row, where).items():
                values.setdefault(name, []).append(value)
        arrays = {}
        for name, column in values.items():
            try:
                arrays[name] = _array(name, column)
            except _UNFIT as error:
                where = places[_first_unfit(name, column)]
                raise mixed_types(where, f"'{name}': {error}") from error
        return pa.table(arrays)

    def _checked(self, row: Any, where: str) -> dict[str, Any]:
        if not isinstance(row, dict):
            raise DataError(
                f"{where}: {form_of(row).split(' of ')[0]}, not an object",
                'an object such as {"text": "..."}',
                "correct the file",
            )
        if self._present is None:
            there = [path for path in self._places.paths if has(row, path)]
            self._present = self._places.present(where, there, list(row), lambda: self._sample)
        values = {}
        for name, path in self._present.items():
            if not has(row, path):
                raise DataError(
                    f"{where}: the key '{path}' is missing",
                    "the same keys in every row",
                    "correct or remove the row",
                )
            values[name] = read_fields(name, value_at(row, path))
            self._check_value(name, values[name], where, path)
        for name in self._places.optional.keys() - self._present.keys():
            if has(row, self._places.optional[name]):
                raise DataError(
                    f"{where}: the key '{self._places.optional[name]}' is not in the first row",
                    "the same keys in every row",
                    "add it to every row, or remove it",
                )
        return values

    def _check_value(self, name: str, value: Any, where: str, path: str) -> None:
        form = check_value(name, value, where, path)
        first = self._forms.setdefault(name, form)
        if not agree(first, form):
            raise wrong_form(where, path, form, f"{first}, as before,")
        if first in ("null", "an empty list"):
            self._forms[name] = form


def mixed_types(where: str, reason: str) -> DataError:
    """Return the error for a column whose type changes."""
    return DataError(
        f"{where}: a column changes its type: {' '.join(reason.split())}",
        "the same types in every row",
        "correct the file",
    )
