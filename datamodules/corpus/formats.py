"""Each kind of file to Arrow tables of the wanted columns, with a precise word for what is wrong in it."""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from datamodules.corpus import conll
from datamodules.corpus.arrow import class_names_of, column_at, in_schema
from datamodules.corpus.columns import Places, Present, has, root_of, value_at
from datamodules.corpus.forms import (
    agree,
    check_column,
    check_value,
    form_of,
    in_one_form,
    only_text,
    read_fields,
    wrong_form,
)
from datamodules.corpus.nested import rows_of_document
from datamodules.corpus.proposals import SAMPLE_ROWS, Sample
from datamodules.corpus.rows import TEXT
from datamodules.corpus.separated import header_of, read_separated, sample_of, where_of
from datamodules.corpus.source_file import SourceFile, text_blocks
from datamodules.errors import DataError

_PARQUET_ROWS = 8192


def read_tables(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    """Read one file as tables of the wanted columns, under the names that rows have.

    Raises:
        DataError: whatever is wrong in the file, with its line or row.
    """
    for table in _READERS[source.kind](source, places):
        for position, name in enumerate(table.column_names):
            if only_text(name):
                table = table.set_column(position, name, table.column(name).cast(pa.large_string()))  # noqa: PLW2901
        yield table


@dataclass(frozen=True)
class Heading:
    """What a file begins with.

    Args:
        where: the file, for errors.
        names: of its columns.
        has: whether it has a place.
        sample: gives its first rows.
    """

    where: str
    names: list[str]
    has: Callable[[str], bool]
    sample: Callable[[], Sample]


def heading(source: SourceFile, wanted: Collection[str]) -> Heading:
    """The columns of a file, of which some are `wanted`; of JSON as its first object has them.

    Raises:
        DataError: the file cannot be read as what its name says.
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
    """Some rows of a Parquet file."""
    for batch in file.iter_batches(batch_size=SAMPLE_ROWS):
        return batch.to_pylist()  # type: ignore[no-any-return]
    return []


def json_objects(source: SourceFile) -> Iterator[tuple[str, Any]]:
    """Each object of JSON lines or of a JSON list, or sentence of a CoNLL file, with its place.

    Raises:
        DataError: broken JSON or CoNLL columns, with the line.
    """
    if source.kind == ".conll":
        yield from conll.sentences(source)
        return
    if source.kind == ".json" and _is_document(source):
        yield from _objects_of_document(source)
        return
    for first_line, block in text_blocks(source):
        yield from _json_objects(source, first_line, block)


def parquet_file(source: SourceFile) -> pa.parquet.ParquetFile:
    """The file, opened.

    Raises:
        DataError: it is no Parquet file.
    """
    try:
        return pa.parquet.ParquetFile(source.path)
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(source, error) from error


def mixed_types(where: str, reason: str) -> DataError:
    """Say that a column is of one type here and of another before."""
    return DataError(
        f"{where}: a column changes its type: {' '.join(reason.split())}",
        "the same types in every row",
        "repair the file",
    )


def _read_txt(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    present = places.present(str(source.path), [TEXT], [TEXT])
    content = b"".join(block for _, block in text_blocks(source))
    if content.strip():
        text = pa.array([content], pa.large_binary()).cast(pa.large_string())
        yield pa.table(dict.fromkeys(present, text))


def _read_json_lines(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    rows = _CheckedRows(places)
    for first_line, block in text_blocks(source):
        # With further columns the fast reader would guess types: a title "2020-01-01" would be a time.
        table = _json_lines_at_once(block, places.required[TEXT]) if places.text_only else None
        if table is None:
            table = rows.table(source, _json_objects(source, first_line, block))
        if table.num_rows:
            yield table


def _json_lines_at_once(block: bytes, column: str) -> pa.Table | None:
    """Read the text of every line fast; None where anything is unusual."""
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


def _json_objects(source: SourceFile, first_line: int, block: bytes) -> Iterator[tuple[str, Any]]:
    """Do the same slowly, line by line: what the fast reader refused is read, or its line is named."""
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        if not line.strip():
            continue
        where = f"{source.path}, line {number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: broken JSON at character {error.colno}: {error.msg}",
                "one whole JSON object a line",
                "repair or drop the line",
            ) from error


def _read_conll(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    table = _CheckedRows(places).table(source, json_objects(source))
    if table.num_rows:
        yield table


def _read_json(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    """Read a list of objects, or one object that holds rows; else the file is read as JSON lines."""
    if not _is_document(source):
        yield from _read_json_lines(source, places)
        return
    rows = list(_objects_of_document(source))
    if rows:
        yield _CheckedRows(places).table(source, iter(rows))


def _is_document(source: SourceFile) -> bool:
    """Whether a file is a list, or one object that holds rows, and has not an object a line."""
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


def _objects_of_document(source: SourceFile) -> Iterator[tuple[str, Any]]:
    try:
        document = json.loads(b"".join(block for _, block in text_blocks(source)))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{source.path}, line {error.lineno}: broken JSON at character {error.colno}: {error.msg}",
            "one list of objects",
            "repair the file",
        ) from error
    if isinstance(document, list):
        yield from ((f"{source.path}, object {number}", row) for number, row in enumerate(document, start=1))
    else:
        yield from rows_of_document(document, str(source.path))


_UNFIT = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError)


def _array(name: str, values: list[Any]) -> pa.Array:
    return pa.array(in_one_form(values), pa.large_string() if only_text(name) else None)


def _first_unfit(name: str, values: list[Any]) -> int:
    """The first value that makes no array with those before it."""
    fits, unfit = 0, len(values)
    while unfit - fits > 1:
        middle = (fits + unfit) // 2
        try:
            _array(name, values[:middle])
            fits = middle
        except _UNFIT:
            unfit = middle
    return unfit - 1


class _CheckedRows:
    """Takes the wanted columns out of objects, and holds all of a file to the form of its first."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._present: Present | None = None
        self._forms: dict[str, str] = {}
        self._sample: list[dict[str, Any]] = []

    def table(self, source: SourceFile, rows: Iterator[tuple[str, Any]]) -> pa.Table:
        """Make a table of (where it stands, object)."""
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
                'an object as {"text": "..."}',
                "repair the file",
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
                    "repair or drop the row",
                )
            values[name] = read_fields(name, value_at(row, path))
            self._check_value(name, values[name], where, path)
        for name in self._places.optional.keys() - self._present.keys():
            if has(row, self._places.optional[name]):
                raise DataError(
                    f"{where}: the key '{self._places.optional[name]}' is not in the first row",
                    "the same keys in every row",
                    "give it to every row or to none",
                )
        return values

    def _check_value(self, name: str, value: Any, where: str, path: str) -> None:
        form = check_value(name, value, where, path)
        first = self._forms.setdefault(name, form)
        if not agree(first, form):
            raise wrong_form(where, path, form, f"{first}, as before,")
        if first in ("null", "an empty list"):
            self._forms[name] = form


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
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=roots):
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
        "a whole Parquet file",
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
