"""Write files atomically, and hash them."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def write_whole(target: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace the content of a file atomically, text as UTF-8; a crash leaves the old or the new content.

    Without `durable`, the content is not forced to the disk, so that a crash of the machine may leave the
    file empty.

    Raises:
        OSError: if the file cannot be written; the old one is unchanged, and nothing else is left behind.
    """
    with draft_of(target) as file:
        # A lone surrogate has no encoding in UTF-8 and is written as \udc80.
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
        put_in_place(file, target, durable=durable)


@contextmanager
def draft_of(target: Path) -> Iterator[IO[bytes]]:
    """Create a temporary file next to `target`; it is removed at the end unless `put_in_place` renamed it.

    Its name is random, and the file is created, never opened, so that no existing symbolic link is followed.

    Raises:
        OSError: if the folder cannot be written.
    """
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".draft", delete=False
    ) as file:
        try:
            yield file
        finally:
            with suppress(OSError):  # the original error is reported; this may fail for the same reason
                os.unlink(file.name)


def put_in_place(draft: IO[bytes], target: Path, *, durable: bool = True) -> None:
    """Force a draft to the disk and rename it to `target`, replacing a symbolic link there."""
    draft.flush()
    give_usual_mode(draft.fileno())
    if durable:
        os.fsync(draft.fileno())
    os.replace(draft.name, target)
    if durable:
        sync(target.parent)


def give_usual_mode(file: Path | int) -> None:
    """Set the permissions of a file according to the umask, whatever the library that wrote it chose."""
    os.chmod(file, 0o666 & ~_umask())


def open_to_append(path: Path) -> IO[bytes]:
    """Open a file for appending, creating it if necessary, without following a symbolic link.

    Raises:
        OSError: if it cannot be opened, or is a symbolic link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o666), "ab")


def sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, as `sha256sum` prints it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    """Return the umask of the process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
