"""The one way to write a file whole, and to hash one."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def write_whole(target: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Put `content` in the place of what `target` holds, text as UTF-8; a crash leaves the old or the new.

    Not `durable`: it is not forced to the disk, and a crash of the whole machine may leave it empty.

    Raises:
        OSError: it cannot be written; the old file is whole, and nothing is left beside it.
    """
    with draft_of(target) as file:
        # Half of a surrogate pair has no bytes in UTF-8 and is written as \udc80; all else is kept.
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
        put_in_place(file, target, durable=durable)


@contextmanager
def draft_of(target: Path) -> Iterator[IO[bytes]]:
    """A new file beside `target`, open for writing, which is removed at the end unless it was put in place.

    Its name is drawn at random, and it is created, never opened: no link that lies there already is followed.

    Raises:
        OSError: the folder cannot be written.
    """
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".draft", delete=False
    ) as file:
        try:
            yield file
        finally:
            with suppress(OSError):  # what stopped the writing is reported; this may fail for the same reason
                os.unlink(file.name)


def put_in_place(draft: IO[bytes], target: Path, *, durable: bool = True) -> None:
    """Force a draft to the disk and give it the name `target`; a link there is replaced, not followed."""
    draft.flush()
    give_usual_mode(draft.fileno())
    if durable:
        os.fsync(draft.fileno())
    os.replace(draft.name, target)
    if durable:
        sync(target.parent)


def give_usual_mode(file: Path | int) -> None:
    """Give a file the permissions that the user's umask asks for, whatever the library did that wrote it."""
    os.chmod(file, 0o666 & ~_umask())


def open_to_append(path: Path) -> IO[bytes]:
    """A file to append to, made if it is not there; a link in its place is not followed.

    Raises:
        OSError: it cannot be opened, or is a link.
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
    """The hash of a file, as `sha256sum` prints it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    """The permissions that the user denies new files; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
