"""Hold rows out of training, and count held-out rows that are also in the training rows."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.corpus.as_text import label_text, text_array
from datamodules.corpus.columns import LABEL
from datamodules.corpus.rows import Corpus, Rows, rows_of, values
from datamodules.errors import DataError

_ROWS_AT_ONCE = 1 << 13
_BETWEEN = "\0"  # no text has it


def hold_out(rows: Rows, column: str, fraction: float, where: str) -> tuple[Rows, Rows]:
    """Hold out the rows with the smallest hashes of a column, in any order; equal rows stay together.

    A group of equal rows is skipped if it is larger than the number still to be held out, or if a class of
    the column `label` would have no rows left to train on. If that leaves nothing to hold out, the smallest
    group of equal rows that no class needs is held out.

    Raises:
        DataError: if there are no two different rows, or each class needs all of its rows.
    """
    wanted = max(1, round(len(rows) * fraction))
    hashes = _hashes(rows, column)
    labels = _Labels(rows[LABEL] if LABEL in rows.column_names else [])
    held_out: list[int] = []
    for group in _groups(hashes):
        n_rows = len(held_out) + len(group)
        if n_rows <= wanted and n_rows < len(rows) and labels.can_spare(group):
            labels.take(group)
            held_out += group.tolist()
            if len(held_out) == wanted:
                break
    if not held_out:
        spare = [group for group in _groups(hashes) if len(group) < len(rows) and labels.can_spare(group)]
        if not spare:
            raise too_little(where, by_class=bool(labels))
        held_out = min(spare, key=len).tolist()
    kept = np.setdiff1d(np.arange(len(rows)), held_out)
    return rows.select(kept.tolist()), rows.select(sorted(held_out))


class _Labels:
    """Counts how many rows of each class are left to train on."""

    def __init__(self, labels: Sequence[Any]) -> None:
        self._labels = [
            {label_text(one) for one in label} if isinstance(label, list) else {label_text(label)}
            for label in labels
        ]
        self._left = Counter(name for names in self._labels for name in names)

    def __bool__(self) -> bool:
        return bool(self._labels)

    def can_spare(self, group: Iterable[int]) -> bool:
        """Return whether every class keeps a row if these are taken."""
        return all(self._left[name] > count for name, count in self._count(group).items())

    def take(self, group: Iterable[int]) -> None:
        """Take these rows away."""
        self._left -= self._count(group)

    def _count(self, group: Iterable[int]) -> Counter[str]:
        return Counter(name for row in group for name in self._labels[row]) if self._labels else Counter()


def _hashes(rows: Rows, column: str) -> npt.NDArray[np.uint64]:
    return np.fromiter(map(_hash, values(rows, column)), np.uint64, len(rows))


def _hash(value: Any) -> int:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _groups(hashes: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the numbers of equal rows, in the order of their hashes."""
    order = np.argsort(hashes, kind="stable")
    _, starts = np.unique(hashes[order], return_index=True)
    for first, end in pairwise([*starts.tolist(), len(order)]):
        yield order[first:end]


def too_little(where: str, *, by_class: bool = False) -> DataError:
    """Return the error for rows of which none can be held out."""
    return DataError(
        f"{where} is too small to hold out a part for validation",
        "a class with at least two different rows" if by_class else "at least two different rows or lines",
        "set data.validation=PATH",
    )


def with_repeated(corpus: Corpus, columns: Sequence[str]) -> Corpus:
    """Add the counts of held-out rows that are also in an earlier split, compared by their `columns`.

    A stream is returned unchanged.
    """
    if corpus.n_train_rows is None:
        return corpus
    splits = {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}
    splits = {split: rows for split, rows in splits.items() if rows is not None}
    counts = {
        f"{split} in {other}": n_also_in(splits[split], splits[other], columns)
        for other, split in combinations(splits, 2)
    }
    return replace(corpus, repeated={pair: count for pair, count in counts.items() if count})


def n_also_in(rows: Rows, train: Rows, columns: Sequence[str]) -> int:
    """Return how many rows are also in `train`, compared by the columns that both have.

    This needs memory for `rows`, but not for `train`.
    """
    common = [name for name in columns if name in rows.column_names and name in train.column_names]
    keys = _one_array(_keys(rows, common))
    wanted = keys.unique()
    # Each batch is compared with all that are wanted, so it is as large as they are.
    batches = _keys(train, common, least_bytes=wanted.nbytes)
    found = (some.filter(pc.is_in(some, value_set=wanted)).unique() for some in batches)
    return int(pc.sum(pc.is_in(keys, value_set=_one_array(found))).as_py() or 0)


def _one_array(texts: Iterable[pa.Array]) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.large_string()), *texts])


def _keys(rows: Rows, columns: Sequence[str], *, least_bytes: int = 0) -> Iterator[pa.Array]:
    """Yield arrays of texts that combine the columns of each row, in batches of rows."""
    chosen = rows.select_columns(list(columns)).with_format("arrow")
    for table in chosen.iter(rows_of(chosen, most=_ROWS_AT_ONCE, least_bytes=least_bytes)):
        texts = [_texts(column.combine_chunks()) for column in table.columns]
        yield pc.binary_join_element_wise(*texts, pa.scalar(_BETWEEN, pa.large_string()))


def _texts(column: pa.Array) -> pa.Array:
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    array = column.cast(pa.large_string()) if text else text_array(column.to_pylist())
    return array.fill_null("")
