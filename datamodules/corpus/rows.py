"""What every source of text gives: rows to train on, rows to validate on, and proof of what they are."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

Row = Mapping[str, Any]
Rows = Any
"""A `datasets.Dataset` or `IterableDataset`; not named as a type, for its import takes more than a second."""

TEXT = "text"

_VERSION = 1
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Corpus:
    """Rows in two or three splits, with the fingerprint that caches and lineage are keyed by.

    Args:
        name: short name, shown in runs.
        train: rows with the columns that were asked for: a `datasets.Dataset`, or a
            `datasets.IterableDataset` when streaming. It can be iterated any number of times, in one order.
        validation: rows of the same columns; never streamed.
        fingerprint: sha256 in hexadecimal: of the rows themselves, or for a stream of the arguments and
            the revision that they come from. No paths in it.
        sources: for lineage, one dict for each file or hub split: `uri`, `sha256`, `n_bytes`, `split`.
        test: rows of the same columns that neither train nor choose a model; never streamed; None: none.
        notes: what was decided in reading that a user should know.
        repeated: how many rows of a split stand in another one too, by their names: `test in train`.
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
        """Where its first source is; its name, where no source is known."""
        return str(self.sources[0]["uri"]) if self.sources else self.name

    @property
    def n_train_rows(self) -> int | None:
        """Rows in `train`; None when it is a stream."""
        return len(self.train) if isinstance(self.train, Sized) else None

    @property
    def n_validation_rows(self) -> int | None:
        """Rows in `validation`; None when it is a stream."""
        return len(self.validation) if isinstance(self.validation, Sized) else None

    @property
    def n_test_rows(self) -> int | None:
        """Rows in `test`; None when there is none."""
        return len(self.test) if isinstance(self.test, Sized) else None


class LazyRows:
    """Rows whose number is known, and which are read when somebody asks for the first of them."""

    def __init__(self, n_rows: int, read: Callable[[], Iterable[Row]]) -> None:
        self._n_rows = n_rows
        self._read = read

    def __len__(self) -> int:
        return self._n_rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.read())

    def read(self) -> Iterable[Row]:
        """The rows themselves."""
        return self._read()


def texts(rows: Iterable[Row]) -> Iterator[str]:
    """Give the text of each row, in order; of a `datasets.Dataset` many at a time, which is far faster."""
    import datasets

    if isinstance(rows, LazyRows):
        rows = rows.read()
    if not isinstance(rows, datasets.Dataset):
        yield from (row[TEXT] for row in rows)
        return
    for batch in rows.select_columns([TEXT]).iter(_ROWS_AT_ONCE):
        yield from batch[TEXT]


def numbers_of(rows: Rows) -> list[int]:
    """The number, from 1, that each row has in what it was read from, whatever was held out of that."""
    indices = getattr(rows, "_indices", None)  # the library has no public name for it
    return [number + 1 for number in (range(len(rows)) if indices is None else indices.column(0).to_pylist())]


def fingerprint_of(**parts: Any) -> str:
    """Hash plain values; equal values give equal fingerprints, in any order of the keys."""
    canonical = json.dumps({"version": _VERSION, **parts}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def rows_digest(table: pa.Table) -> str:
    """Sha256 of the rows of a table: of what they hold, not of how the table is cut into chunks or typed."""
    parts: dict[str, Any] = {"n_rows": table.num_rows}
    for name in sorted(table.column_names):
        column = table.column(name)
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        parts[name] = _text_digest(column) if text else _value_digest(column)
    return fingerprint_of(**parts)


def _text_digest(column: pa.ChunkedArray) -> list[str]:
    """Hash all lengths, and all bytes one after the other: together they are the texts."""
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
