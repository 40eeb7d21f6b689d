"""Token rows on disk: named by a hash of their inputs, built once under a lock, and read row by row."""

import hashlib
import json
import mmap
import os
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from filelock import FileLock, Timeout

from datamodules.errors import CacheError, DataError
from datamodules.files import sha256_of, write_whole

DATA_FILE = "data.arrow"
MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1

Rows = tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.uint16]]


def cache_key(**parts: Any) -> str:
    """Return the key of something made from `parts` (plain values): the sha256 of their canonical JSON.

    Raises:
        TypeError, ValueError: if a part is not a plain value.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class _HashingFile:
    """A file for writing that keeps the hash and the size of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.n_bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.digest.update(view)
        done = 0
        while done < len(view):
            # The file is unbuffered, so that a full disk raises here and not at close; a write may then be
            # partial.
            done += self.file.write(view[done:])
        self.n_bytes += done
        return done

    def tell(self) -> int:
        return self.n_bytes

    def flush(self) -> None:
        self.file.flush()


class RowWriter:
    """Appends chunks of rows, as packing yields them, to the data file."""

    def __init__(self, file: BinaryIO, *, vocab_size: int) -> None:
        self.dtype: npt.DTypeLike = np.uint16 if vocab_size < 2**16 else np.uint32
        self.row_tokens = 0
        self.n_rows = 0
        self.sink = _HashingFile(file)
        self._writer: pa.RecordBatchFileWriter | None = None

    def write(self, ids: npt.NDArray[np.integer], segment_ids: npt.NDArray[np.integer]) -> None:
        """Append rows: ids (n, L) and segment ids (n, L); L is that of the first call.

        Raises:
            CacheError: if the disk is full or cannot be written.
        """
        if ids.shape != segment_ids.shape or ids.ndim != 2 or self.row_tokens not in (0, ids.shape[1]):
            raise ValueError(f"ids {ids.shape}, segment_ids {segment_ids.shape}; expected (n, row_tokens)")
        if not len(ids):
            return
        self.row_tokens = ids.shape[1]
        batch = pa.record_batch(
            [_column(ids, self.dtype), _column(segment_ids, np.uint16)], names=["ids", "segment_ids"]
        )
        with _disk_errors():
            if self._writer is None:
                self._writer = pa.ipc.new_file(pa.PythonFile(self.sink, mode="w"), batch.schema)
            self._writer.write_batch(batch)
        self.n_rows += len(ids)

    def finish(self) -> None:
        """Write the footer of the file; called by the cache, not by the code that writes rows."""
        with _disk_errors():
            if self._writer is not None:
                self._writer.close()


def _column(rows: npt.NDArray[Any], dtype: npt.DTypeLike) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(rows, dtype).reshape(-1)), rows.shape[1]
    )


class TokenRows:
    """Packed rows (N, L) in a file: opening them is fast, and only the rows that are taken are read.

    They are read instead of memory-mapped, because 64 kB around each row would be mapped: over a training,
    the memory of the process would grow by the size of the file.

    Raises:
        CacheError: if the folder is incomplete, or its data file is not the one that was written.
    """

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        _check_data(folder, self.manifest, verify)
        self.row_tokens = int(self.manifest["row_tokens"])
        with _damage(folder):
            self._file = os.open(folder / DATA_FILE, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            ids_dtype, chunks = _chunks_in(folder / DATA_FILE)
        self._dtypes = ids_dtype, np.dtype(np.uint16)
        # The number of each chunk's first row, and where its ids and its segment ids begin in the file.
        self._first_rows = np.cumsum([0, *(chunk.n_rows for chunk in chunks)])
        self._places = np.array([chunk.places for chunk in chunks])
        if self._first_rows[-1] != self.manifest["n_rows"]:
            raise _damaged(folder, f"contains {self._first_rows[-1]} rows, not {self.manifest['n_rows']}")

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def __reduce__(self) -> tuple[type["TokenRows"], tuple[Path]]:
        return type(self), (self.folder,)

    def chunks(self) -> Iterator[Rows]:
        """Yield all rows in order, as views of the memory-mapped file, for statistics."""
        mapped = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        for n_rows, places in zip(np.diff(self._first_rows), self._places, strict=True):
            ids, segments = (
                np.frombuffer(mapped, dtype, n_rows * self.row_tokens, place).reshape(n_rows, self.row_tokens)
                for dtype, place in zip(self._dtypes, places, strict=True)
            )
            yield ids, segments

    def take(self, indices: npt.ArrayLike) -> Rows:
        """Return the rows with these numbers: ids (n, L) and segment ids (n, L).

        Raises:
            IndexError: if a number is not from 0 to the number of rows minus 1.
            CacheError: if the file cannot be read, or is shorter than it was.
        """
        rows = np.asarray(indices, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        chunk_of = np.searchsorted(self._first_rows, rows, side="right") - 1
        before = rows - self._first_rows[chunk_of]
        taken = []
        with _damage(self.folder):
            for dtype, places in zip(self._dtypes, self._places[chunk_of].T, strict=True):
                column = np.empty((len(rows), self.row_tokens), dtype)
                row_bytes = self.row_tokens * dtype.itemsize
                for row, place in zip(column, (places + before * row_bytes).tolist(), strict=True):
                    n_read = os.preadv(self._file, [row.data], place)
                    if n_read < row_bytes:
                        self._read_rest(row.view(np.uint8), place, n_read)
                taken.append(column)
        return taken[0], taken[1]

    def _read_rest(self, row: npt.NDArray[np.uint8], place: int, n_read: int) -> None:
        """Read the bytes of a row after the first `n_read`: network file systems may return fewer at once."""
        while n_read < len(row):
            n_more = os.preadv(self._file, [row[n_read:].data], place + n_read)
            if not n_more:
                raise _damaged(self.folder, f"has a data file that ends before byte {place + len(row)}")
            n_read += n_more


class _Chunk(NamedTuple):
    """The number of its rows, and where its ids and its segment ids begin in the file, in bytes."""

    n_rows: int
    places: tuple[int, int]


def _chunks_in(path: Path) -> tuple[np.dtype[Any], list[_Chunk]]:
    """Return the type of the ids in an Arrow file, and its chunks."""
    buffer = pa.memory_map(str(path)).read_buffer()
    table = pa.ipc.open_file(buffer).read_all()
    return np.dtype(table.schema.field("ids").type.value_type.to_pandas_dtype()), [
        _Chunk(len(ids), (_address(ids) - buffer.address, _address(segments) - buffer.address))
        for ids, segments in zip(table.column("ids").chunks, table.column("segment_ids").chunks, strict=True)
    ]


def _address(chunk: pa.FixedSizeListArray) -> int:
    # Not `to_numpy`, which imports pandas.
    return int(np.from_dlpack(chunk.flatten()).ctypes.data)


class TokenCache:
    """A folder of token rows with one subfolder per key, which is complete once its manifest exists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_or_build(
        self,
        key: str,
        parts: dict[str, Any],
        build: Callable[[RowWriter], dict[str, Any]],
        *,
        vocab_size: int,
    ) -> TokenRows:
        """Return the rows of `key`: open them, or let one process build them while others wait.

        Args:
            parts: the parts of the key (plain values), for the manifest.
            build: writes the rows, and returns counts (plain values) for the manifest.
            vocab_size: determines whether ids are stored in 16 or 32 bits.

        Raises:
            CacheError: if the folder cannot be written, the disk is full, or the rows there are damaged.
            DataError: if `build` wrote no rows. Exceptions of `build` are passed on; nothing is left behind
                then.
        """
        place = self.folder / key
        if (place / MANIFEST_FILE).exists():
            return TokenRows(place)
        with self._lock(key):
            if not (place / MANIFEST_FILE).exists():
                self._build(place, key, parts, build, vocab_size)
        return TokenRows(place)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Acquire the lock of a key; the operating system releases it if the process dies."""
        with _disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"waiting for another process that is building {self.folder / key}", file=sys.stderr)
                lock.acquire(poll_interval=0.1)
        try:
            yield
        finally:
            lock.release()

    def _build(
        self,
        place: Path,
        key: str,
        parts: dict[str, Any],
        build: Callable[[RowWriter], dict[str, Any]],
        vocab_size: int,
    ) -> None:
        try:
            with _disk_errors(self.folder):
                # With the lock held, a folder without a manifest was left by a killed process.
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                file = (place / DATA_FILE).open("wb", buffering=0)
            with file:
                writer = RowWriter(file, vocab_size=vocab_size)
                counts = build(writer)
                writer.finish()
                with _disk_errors(self.folder):
                    os.fsync(file.fileno())
            if not writer.n_rows:
                raise DataError("the corpus has no tokens", "a document with text", "check the data files")
            with _disk_errors(self.folder):
                manifest = _manifest(key, parts, counts, writer)
                text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True)
                write_whole(place / MANIFEST_FILE, text)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise


def _manifest(key: str, parts: dict[str, Any], counts: dict[str, Any], writer: RowWriter) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "key": key,
        "parts": parts,
        "counts": counts,
        "n_rows": writer.n_rows,
        "row_tokens": writer.row_tokens,
        "dtype": np.dtype(writer.dtype).name,
        "n_bytes": writer.sink.n_bytes,
        "sha256": writer.sink.digest.hexdigest(),
    }


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CacheError(
            f"{folder} has no {MANIFEST_FILE}", "a complete token cache", "run the stage again to build it"
        ) from None
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"has an unreadable manifest ({error})") from error
    if manifest.get("format") != FORMAT_VERSION or manifest.get("key") != folder.name:
        raise _damaged(folder, "has a manifest with another format or key")
    return manifest


def _check_data(folder: Path, manifest: dict[str, Any], verify: bool) -> None:
    with _damage(folder):
        size = (folder / DATA_FILE).stat().st_size
        if size != manifest["n_bytes"]:
            raise _damaged(folder, f"has a data file of {size} bytes, not {manifest['n_bytes']}")
        if verify:
            digest = sha256_of(folder / DATA_FILE)
            if digest != manifest["sha256"]:
                raise _damaged(folder, f"has a data file of sha256 {digest}, not {manifest['sha256']}")


def _damaged(folder: Path, how: str) -> CacheError:
    return CacheError(
        f"the token cache {folder} {how}",
        "the file as it was written",
        "delete the folder, and run the command again",
    )


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _damaged(folder, f"cannot be read ({error})") from error


@contextmanager
def _disk_errors(folder: Path | None = None) -> Iterator[None]:
    """Convert errors of the disk; not used around `build`, whose OSErrors concern other files."""
    try:
        yield
    # filelock raises NotImplementedError on file systems without locks.
    except (OSError, NotImplementedError, pa.ArrowException) as error:
        where = f" {folder}" if folder else ""
        raise CacheError(
            f"the token cache{where} cannot be written ({error})",
            "a writable folder with enough free space",
            "free some space or choose another folder",
        ) from error
