"""Standard streams whose failures never end a stage: output that cannot be written is dropped.

A terminal may be closed, `tee` may die first, the disk of a log may be full, and an encoding may lack a
character. None of that may end training or prevent a model from being saved.
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

#: Errors of writing to a pipe without a reader, or to a terminal that is gone.
GONE = (errno.EPIPE, errno.EIO)


class Note(logging.Formatter):
    """Formats log records of other libraries as notes that name the library; Prelude's are left unchanged."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, with its traceback if there is one."""
        text = super().format(record)
        return text if record.name.startswith("pipeline.") else f"note: {text} ({record.name})"


def show_logs_as_notes() -> None:
    """Show logged warnings in one format, and keep libraries from installing theirs.

    The handler is Python's last resort. It writes to the current standard error, and a root logger that has
    it counts as configured: `logging.warning` and `logging.basicConfig` then add no other handler.
    """
    assert logging.lastResort is not None
    logging.lastResort.setFormatter(Note())
    logging.getLogger().addHandler(logging.lastResort)


class SafeStream:
    """A text stream on which writing never fails; other attributes are those of the wrapped stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        #: The first error of writing.
        self.problem: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, as far as possible."""
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
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
        """Redirect what is buffered, and everything that follows, to the null device.

        Otherwise Python would try to flush again at exit, fail, and return 120; code that bypasses this
        object would fail too.
        """
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextmanager
def safe_streams() -> Iterator[SafeStream]:
    """Guard the standard streams until the end of the block; yield standard output."""
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
    """Print on standard error from within a signal handler.

    This bypasses `sys.stderr`, which may be in the middle of a write, and prints only if it would not block.
    """
    with suppress(OSError, ValueError):
        _, writable, _ = select.select([], [2], [], 0)
        if writable:
            os.write(2, text.encode())


def _open_closed() -> None:
    """Open the null device for each closed standard stream, so that no other file gets its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for good
