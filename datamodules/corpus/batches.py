"""How many rows to read at once: memory must not grow with the length of the documents."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

#: The bytes of text, or the characters, that are read at once; a longer document is read alone.
SIZE_AT_ONCE = 1 << 22


def rows_at_once(n_rows: int, n_bytes: int, *, most: int) -> int:
    """Return how many rows of a table to read at once: at most `most`, fewer if its rows are long."""
    return max(1, min(most, SIZE_AT_ONCE * n_rows // max(1, n_bytes)))


def in_batches(items: Iterable[T], size: Callable[[T], int], *, most: int) -> Iterator[list[T]]:
    """Yield at most `most` items at once, fewer if the sum of their sizes reaches `SIZE_AT_ONCE`."""
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if len(batch) == most or total >= SIZE_AT_ONCE:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
