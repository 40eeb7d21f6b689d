"""Files that a user asked for: writable before the work begins, and written whole."""

import errno
import os
from pathlib import Path

from pipeline.errors import RunError


def check_writable(target: Path) -> None:
    """Prove that `target` can be written.

    Raises:
        RunError: it cannot; nothing is left behind.
    """
    draft = _draft_of(target)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise _cannot_write(target, error) from error


def write_whole(target: Path, text: str) -> None:
    """Put `text` in the place of what `target` holds.

    Raises:
        RunError: it cannot be written; the old file is whole.
    """
    draft = _draft_of(target)
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _draft_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.draft")


def _cannot_write(target: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write {target} ({error.strerror})",
        "a file in a folder that can be written",
        "give OUTPUT=PATH, or make room",
    )
