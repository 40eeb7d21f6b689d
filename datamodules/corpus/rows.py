"""The corpus that every source returns: training and held-out rows, and their fingerprint."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpus.batches import rows_at_once

Row = Mapping[str, Any]
Rows = Any
"""A `datasets.Dataset` or `IterableDataset`; not used as a type, since the import takes over a second."""

TEXT = "text"

_VERSION = 1
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Corpus:
    """Rows in two or three splits, with the fingerprint that identifies them in caches and lineage.

    Args:
        name: short name, shown in runs.
        train: rows with the requested columns: a `datasets.Dataset`, or a `datasets.IterableDataset` when
            streaming. It can be iterated any number of times, always in the same order.
        validation: rows with the same columns; never streamed.
        fingerprint: sha256 in hexadecimal of the rows or, for a stream, of the arguments and the revision;
            independent of paths.
        sources: one dict for each file or hub split, for lineage: `uri`, `sha256`, `n_bytes`, `split`.
        test: rows with the same columns that are used neither for training nor to select a model; never
            streamed.
        notes: notes for the user on how the files were read.
        repeated: how many rows of a split are also in another split, by names such as `test in train`.
    """

    name: str
    train: Iterable[Row]
    validation: Iterable[Row]
    fingerprint: str
    sources: list[dict[str, str | int]] = field(default_factory=list)
    test: Iterable[Row] | None = None
    notes: list[str] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The URI of its first source, or its name if it has no sources."""
        return str(self.sources[0]["uri"]) if self.sources else self.name

    @property
    def n_train_rows(self) -> int | None:
        """Number of rows in `train`; None for a stream."""
        return len(self.train) if isinstance(self.train, Sized) else None

    @property
    def n_validation_rows(self) -> int | None:
        """Number of rows in `validation`; None for a stream."""
        return len(self.validation) if isinstance(self.validation, Sized) else None

    @property
    def n_test_rows(self) -> int | None:
        """Number of rows in `test`; None if there is no such split."""
        return len(self.test) if isinstance(self.test, Sized) else None


class LazyRows:
    """Rows whose number is known, and which are read on first use."""

    def __init__(self, n_rows: int, read: Callable[[], Iterable[Row]]) -> None:
        self._n_rows = n_rows
        self._read = read

    def __len__(self) -> int:
        return self._n_rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.read())

    def read(self) -> Iterable[Row]:
        """Read the rows."""
        return self._read()


def texts(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the text of each row, in order; a `datasets.Dataset` is read in batches, which is much faster."""
    import datasets

    if isinstance(rows, LazyRows):
        rows = rows.read()
    if not isinstance(rows, datasets.Dataset):
        yield from (row[TEXT] for row in rows)
        return
    yield from values(rows, TEXT)


def values(rows: Rows, column: str) -> Iterator[Any]:
    """Yield the values of a column of a `datasets.Dataset`, in order."""
    chosen = rows.select_columns([column])
    for batch in chosen.iter(rows_of(chosen, most=_ROWS_AT_ONCE)):
        yield from batch[column]


def rows_of(rows: Rows, *, most: int, least_bytes: int = 0) -> int:
    """Return `rows_at_once` for a `datasets.Dataset`."""
    return rows_at_once(rows.data.num_rows, rows.data.nbytes, most=most, least_bytes=least_bytes)


def numbers_of(rows: Rows) -> list[int]:
    """Return the number of each row, from 1, in its source, before rows were held out."""
    indices = getattr(rows, "_indices", None)  # the library has no public name for it
    return [number + 1 for number in (range(len(rows)) if indices is None else indices.column(0).to_pylist())]


def fingerprint_of(**parts: Any) -> str:
    """Return a hash of plain values, which does not depend on the order of keys."""
    canonical = json.dumps({"version": _VERSION, **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def rows_digest(table: pa.Table) -> str:
    """Return the sha256 of the values in a table, which does not depend on chunks or integer types."""
    parts: dict[str, Any] = {"n_rows": table.num_rows}
    for name in sorted(table.column_names):
        column = table.column(name)
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        parts[name] = _text_digest(column) if text else _value_digest(column)
    return fingerprint_of(**parts)


def _text_digest(column: pa.ChunkedArray) -> list[str]:
    """Return hashes of all lengths and of all bytes, which together identify the texts."""
    lengths, characters = hashlib.sha256(), hashlib.sha256()
    for chunk in column.chunks:
        large = chunk.cast(pa.large_string())
        lengths.update(memoryview(pc.fill_null(pc.binary_length(large), -1).to_numpy(zero_copy_only=False)))
        if len(large):
            offsets = memoryview(large.buffers()[1]).cast("B").cast("q")
            first, last = offsets[large.offset], offsets[large.offset + len(large)]
            characters.update(memoryview(large.buffers()[2] or b"")[first:last])
    return [lengths.hexdigest(), characters.hexdigest()]


def _value_digest(column: pa.ChunkedArray) -> str:
    digest = hashlib.sha256()
    for chunk in column.chunks:
        for value in chunk.to_pylist():
            digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()
