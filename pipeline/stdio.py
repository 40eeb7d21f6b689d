"""Standard streams that never decide about a stage: what cannot be written is dropped.

A terminal may be closed, `tee` may die first, a log's disk may be full, and an encoding may lack a letter.
None of that may end a training, or keep it from being saved.
"""

import errno
import io
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

#: What writing to a pipe without a reader, or to a terminal that is gone, is answered with.
GONE = (errno.EPIPE, errno.EIO)


class Note(logging.Formatter):
    """What other libraries log, as a note that names the library; what this project logs stays as it is."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, and the trace if there is one."""
        text = super().format(record)
        return text if record.name.startswith("pipeline.") else f"note: {text} ({record.name})"


def show_logs_as_notes() -> None:
    """Show warnings that are logged in one form, and keep libraries from showing them in theirs.

    The handler is the one that Python falls back to. It writes to what is standard error at the time, and a
    root logger that has it is configured: `logging.warning` and `logging.basicConfig` add no other.
    """
    assert logging.lastResort is not None
    logging.lastResort.setFormatter(Note())
    logging.getLogger().addHandler(logging.lastResort)


class SafeStream:
    """A text stream whose writing never fails; what is not defined here is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        #: Why something could not be written, the first time.
        self.problem: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as far as that is possible."""
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what is held back."""
        with self._guarded():
            self._stream.flush()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problem = self.problem or error
            if error.errno in GONE:
                self.discard()

    def discard(self) -> None:
        """Send what is held back, and all that follows, to the null device.

        Python would try again at its end, and exit with 120; and so would whatever writes past this object.
        """
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextmanager
def safe_streams() -> Iterator[SafeStream]:
    """Guard the standard streams until the end of the block; gives the one of the results."""
    _open_closed()
    previous = sys.stdout, sys.stderr
    for stream, errors in ((sys.stdin, "replace"), *((each, "backslashreplace") for each in previous)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    results, talk = (SafeStream(stream) for stream in previous)
    sys.stdout, sys.stderr = cast("TextIO", results), cast("TextIO", talk)
    try:
        yield results
    finally:
        for stream in (results, talk):
            stream.flush()
            if stream.problem is not None:
                stream.discard()
        sys.stdout, sys.stderr = previous


def tell_at_once(text: str) -> None:
    """Say something on standard error from within the answer to a signal.

    Not through `sys.stderr`, which may be in the middle of a write; and only where nobody has to wait for it.
    """
    with suppress(OSError, ValueError):
        _, writable, _ = select.select([], [2], [], 0)
        if writable:
            os.write(2, text.encode())


def _open_closed() -> None:
    """Put the null device where a standard stream was closed, lest a file of ours gets its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for good
