"""How many rows to read at once: documents may be as short as a sentence, or as long as a book."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

#: The bytes of text, or the characters, after which a batch ends.
SIZE_AT_ONCE = 1 << 22


def rows_at_once(n_rows: int, n_bytes: int, *, most: int, least_bytes: int = 0) -> int:
    """Return how many rows of a table to read at once: at most `most`, fewer if its rows are long on average.

    They have about `SIZE_AT_ONCE` bytes, or `least_bytes` if that is more.
    """
    return max(1, min(most, max(SIZE_AT_ONCE, least_bytes) * n_rows // max(1, n_bytes)))


def in_batches(items: Iterable[T], size: Callable[[T], int], *, most: int) -> Iterator[list[T]]:
    """Yield at most `most` items at once, fewer as soon as the sum of their sizes reaches `SIZE_AT_ONCE`."""
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
