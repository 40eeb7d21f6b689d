"""Output files that a user requests: checked before the work begins, and written atomically."""

import errno
import os
from pathlib import Path

from pipeline import files
from pipeline.errors import RunError


def check_writable(target: Path) -> None:
    """Check that `target` can be written, leaving nothing behind.

    Raises:
        RunError: if it cannot.
    """
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with files.draft_of(target):
            pass
    except OSError as error:
        raise _cannot_write(target, error) from error


def write_whole(target: Path, text: str) -> None:
    """Replace the content of `target` with `text`.

    Raises:
        RunError: if it cannot be written; the old file is then unchanged.
    """
    try:
        files.write_whole(target, text)
    except OSError as error:
        raise _cannot_write(target, error) from error


def _cannot_write(target: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write {target} ({error.strerror})",
        "a file in a writable folder",
        "give OUTPUT=PATH, or free some space",
    )
