"""Something that is not as it should be, and how it is put right."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

#: What is younger may be somebody's work of this moment.
OLD_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Args:
        what: the thing, and what is wrong with it.
        remedy: what puts it right.
        mend: does so, and says what it did; None where only the user can.
    """

    what: str
    remedy: str
    mend: Callable[[], str] | None = None


def is_held(lock: Path) -> bool:
    """Whether a living process holds this lock; one whose holder has died is free."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, OSError):
        return True


@contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Hold a lock while something is put right; False where somebody else has it."""
    try:
        with FileLock(lock, timeout=0):
            yield True
    except Timeout:
        yield False


def is_old(path: Path) -> bool:
    """Whether nobody has written it for a while."""
    try:
        return time.time() - path.lstat().st_mtime > OLD_S
    except OSError:  # it has gone meanwhile
        return False
