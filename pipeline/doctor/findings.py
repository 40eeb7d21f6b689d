"""A problem and its fix."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

#: The age in seconds below which a file may be in use by another process.
OLD_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem and its fix.

    Args:
        what: the problem.
        remedy: how to fix it.
        fix: a function that fixes it and returns what it did; None if only the user can.
    """

    what: str
    remedy: str
    fix: Callable[[], str] | None = None


def is_held(lock: Path) -> bool:
    """Return whether a running process has this lock; a process that dies releases it."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, OSError):
        return True


@contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Acquire a lock for the block; yield False if another process has it."""
    try:
        with FileLock(lock, timeout=0):
            yield True
    except Timeout:
        yield False


def is_old(path: Path) -> bool:
    """Return whether a file has not been written for `OLD_S` seconds."""
    try:
        return time.time() - path.lstat().st_mtime > OLD_S
    except OSError:  # deleted meanwhile
        return False
