"""Find data files, hash and decompress them, and check that text is UTF-8, block by block."""

import codecs
import difflib
import glob
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from datamodules.corpus.folder import KINDS_TEXT, files_in, kind_of
from datamodules.errors import DataError

_BLOCK_BYTES = 1 << 23
_WIDE_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_FOREIGN = {
    b"\x1f\x8b": "gzip-compressed, but its name does not end in .gz",
    b"PAR1": "a Parquet file, but its name does not end in .parquet",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
}


@dataclass(frozen=True)
class SourceFile:
    """An existing file of a known kind.

    Args:
        path: the path, as the user gave it.
        kind: one of `KINDS`.
        packed: whether it is gzip-compressed.
        sha256: the hash of the bytes on disk, as `sha256sum` prints it.
        n_bytes: its size on disk.
    """

    path: Path
    kind: str
    packed: bool
    sha256: str
    n_bytes: int


def find_files(patterns: str | list[str], key: str) -> list[SourceFile]:
    """Resolve paths and glob patterns to files, in sorted order for each pattern, and hash them.

    Args:
        patterns: a path, a folder, a glob pattern such as `texts/*.jsonl.gz`, or a list of these.
        key: the configuration key (`data.train`), for error messages.

    Raises:
        DataError: if there are no files, or a file is empty, cannot be read, or is of an unknown kind.
    """
    found: list[SourceFile] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found += [_open(path, key) for path in _matches(pattern, key)]
    if not found:
        raise DataError(f"{key} is empty", "at least one path", f"set {key}=PATH")
    return found


def _matches(pattern: str, key: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        return files_in(path, key)
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        files = [match for match in matches if match.is_file()]
        if files:
            return files
        raise DataError(
            f"{key}={pattern} matches no file", "a pattern that matches files", "check the pattern"
        )
    raise DataError(f"{key}={pattern}: there is no such file", "an existing file", _suggestion(path))


def _suggestion(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either: check the path"
    near = difflib.get_close_matches(path.name, sorted(other.name for other in path.parent.iterdir()), n=1)
    return f"did you mean {path.parent / near[0]}?" if near else "check the path"


def _open(path: Path, key: str) -> SourceFile:
    kind, packed = kind_of(path)
    if kind is None:
        raise DataError(f"{key}={path} is of an unknown kind", KINDS_TEXT, "rename or convert the file")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            n_bytes = file.tell()
    except OSError as error:
        raise DataError(
            f"{key}={path}: {error.strerror}", "a file that can be read", "check its permissions"
        ) from error
    if n_bytes == 0:
        raise DataError(f"{key}={path} is empty", "text", "check how the file was written")
    return SourceFile(path, kind, packed, sha256, n_bytes)


def text_blocks(source: SourceFile) -> Iterator[tuple[int, bytes]]:
    """Yield a file as blocks of whole lines of valid UTF-8, each with the number of its first line.

    A UTF-8 byte-order mark is dropped. Line breaks are unchanged.

    Raises:
        DataError: if the file is damaged, binary, or not UTF-8; the error names the line and the byte.
    """
    line, n_seen, carry = 1, 0, [b""]
    for block in _unpacked(source):
        if n_seen == 0:
            _check_first(source, block)
        n_seen += len(block)
        cut = block.rfind(b"\n") + 1
        if not cut:
            carry.append(block)
            continue
        whole = b"".join([*carry, block[:cut]])
        carry = [block[cut:]]
        yield line, _checked(source, whole, line)
        line += whole.count(b"\n")
    rest = b"".join(carry)
    if rest:
        yield line, _checked(source, rest, line)


def _unpacked(source: SourceFile) -> Iterator[bytes]:
    try:
        with source.path.open("rb") as raw:
            file: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if source.packed else raw
            while block := file.read(_BLOCK_BYTES):
                yield block
    except EOFError as error:
        raise DataError(
            f"{source.path} is incomplete: its gzip data ends too early",
            "the complete file",
            "copy or download it again",
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{source.path} is not valid gzip: {error}",
            "a gzip file, according to its name",
            "copy or download it again",
        ) from error
    except OSError as error:
        raise DataError(
            f"{source.path}: {error.strerror}", "a file that can be read", "check the disk"
        ) from error


def _check_first(source: SourceFile, block: bytes) -> None:
    if block.startswith(_WIDE_MARKS):
        wide = "UTF-32" if block.startswith(_WIDE_MARKS[:2]) else "UTF-16"
        raise DataError(
            f"{source.path} is {wide} text",
            "UTF-8",
            f"convert it: iconv -f {wide} -t UTF-8 {source.path} > NEW",
        )
    what = next((what for mark, what in _FOREIGN.items() if block.startswith(mark)), None)
    if what is not None:
        raise DataError(f"{source.path} is {what}", "UTF-8 text", "rename, unpack or convert the file")


def _checked(source: SourceFile, block: bytes, line: int) -> bytes:
    """Check that a block is UTF-8 text, and return it without a byte-order mark."""
    zero = block.find(b"\0")
    if zero >= 0:
        at = line + block.count(b"\n", 0, zero)
        raise DataError(
            f"{source.path}, line {at}, has a NUL byte, so this is a binary file or UTF-16",
            "UTF-8 text",
            "convert it to UTF-8, or choose another file",
        )
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = error.start
        at = line + block.count(b"\n", 0, wrong)
        column = wrong - (block.rfind(b"\n", 0, wrong) + 1) + 1
        raise DataError(
            f"{source.path}, line {at}, byte {column} of the line: 0x{block[wrong]:02x} is not UTF-8",
            "UTF-8 text",
            f"convert it: iconv -f LATIN1 (or GB18030, ...) -t UTF-8 {source.path} > NEW",
        ) from error
    return block.removeprefix(codecs.BOM_UTF8) if line == 1 else block
