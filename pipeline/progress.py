"""Show how much of a long computation is done, on standard error."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

from tqdm import tqdm

from pipeline.words import clock

Batch = TypeVar("Batch", bound=Sized)

#: A bar is drawn only if the computation takes longer than this.
BAR_AFTER_S = 2.0
LINE_EVERY_S = 10.0

#: The description of the predictions that are shown; None: none are, as while a server answers.
_shown: ContextVar[str | None] = ContextVar("shown", default=None)


class Progress:
    """A bar on a terminal; elsewhere, a line every 10 seconds. Short computations show nothing.

    Args:
        description: the text before the numbers, such as `evaluate`.
        total: the number of items.
        unit: what the items are, in the plural.
        stream: the stream to write to; None: standard error.
    """

    def __init__(self, description: str, *, total: int, unit: str, stream: TextIO | None = None) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._stream = stream if stream is not None else sys.stderr
        self._done = 0
        self._started = self._shown_at = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total,
                desc=description,
                unit=f" {unit}",
                file=self._stream,
                leave=False,
                delay=BAR_AFTER_S,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, n_items: int) -> None:
        """Count items that are done, and show it when it is time."""
        self._done += n_items
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(n_items)
        elif now - self._shown_at >= LINE_EVERY_S and self._done < self._total:
            self._shown_at = now
            left_s = (now - self._started) / self._done * (self._total - self._done)
            print(
                f"{self._description}: {self._done:,} of {self._total:,} {self._unit} "
                f"({self._done / self._total:.0%}), {clock(left_s)} left",
                file=self._stream,
                flush=True,
            )


@contextmanager
def showing(description: str) -> Iterator[None]:
    """Show the progress of predictions within the block, each as `description`."""
    before = _shown.set(description)
    try:
        yield
    finally:
        _shown.reset(before)


def batches(given: Iterable[Batch], total: int) -> Iterator[Batch]:
    """Yield batches of `total` texts; within `showing`, show how many are done."""
    description = _shown.get()
    if description is None:
        yield from given
        return
    with Progress(description, total=total, unit="texts") as progress:
        for batch in given:
            yield batch
            progress.advance(len(batch))
