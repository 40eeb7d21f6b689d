"""Files that a user asked for: writable before the work begins, and written whole."""

import errno
import os
from pathlib import Path

from pipeline import files
from pipeline.errors import RunError


def check_writable(target: Path) -> None:
    """Prove that `target` can be written.

    Raises:
        RunError: it cannot; nothing is left behind.
    """
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with files.draft_of(target):
            pass
    except OSError as error:
        raise _cannot_write(target, error) from error


def write_whole(target: Path, text: str) -> None:
    """Put `text` in the place of what `target` holds.

    Raises:
        RunError: it cannot be written; the old file is whole.
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
