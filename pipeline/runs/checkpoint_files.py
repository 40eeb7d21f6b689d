"""Checkpoint files, written atomically and verified when they are read."""

import hashlib
import pickle
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from pipeline.errors import CheckpointError
from pipeline.files import draft_of, put_in_place, sha256_of, write_whole
from pipeline.runs.shard_folders import SHARDS, discard_folders


def check_writable(folder: Path) -> None:
    """Create `folder` and check that it is writable.

    Raises:
        CheckpointError: if it is not writable.
    """
    probe = folder / ".probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(probe, b"probe")
        probe.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from error


class AtomicCheckpointIO(CheckpointIO):
    """Write a checkpoint next to the old one, make it durable, and only then replace the old one.

    The SHA-256 of the bytes is stored in a file next to it (`last.ckpt.sha256`, in the format of `sha256sum`)
    and checked when the checkpoint is read. While a checkpoint is being replaced, that file contains both the
    new and the old checksum, so that a crash at any moment leaves a matching pair.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object | None = None
    ) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            CheckpointError: if the file cannot be written; the old one is intact.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for left in target.parent.glob(f".{target.name}.*draft"):  # left by a killed save
                left.unlink(missing_ok=True)
            with draft_of(target) as draft:
                digest = _save_hashed(checkpoint, draft)
                _write_sums(target, [digest, *(_read_sums(target) if target.exists() else [])])
                put_in_place(draft, target)
            _write_sums(target, [digest])
            discard_folders(target, checkpoint)
        except OSError as error:
            raise cannot_write(target, error) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load the checkpoint at `path`, by default on the CPU, without running code from the file.

        Sharded tensors, written by several processes, are assembled from their folder.

        Raises:
            CheckpointError: a file is missing, damaged, or contains more than tensors and plain values.
        """
        checkpoint = self.load_file(path, map_location)
        if SHARDS not in checkpoint:
            return checkpoint
        from pipeline.runs.shards import whole_checkpoint  # a run in one process does not need it

        return whole_checkpoint(checkpoint, Path(path))

    def load_file(self, path: str | Path, map_location: Any | None = None) -> dict[str, Any]:
        """Load only the file at `path`, without the sharded tensors in the folder next to it.

        Raises:
            CheckpointError: if the file is missing or damaged, or contains more than tensors and plain
                values.
        """
        target = Path(path)
        self._verify(target)
        try:
            loaded = torch.load(target, map_location=map_location or "cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{target} is not a checkpoint of this project", "tensors and plain values", "start a new run"
            ) from error
        return dict(loaded)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the checkpoint at `path` and its checksum."""
        Path(path).unlink(missing_ok=True)
        _sums_of(Path(path)).unlink(missing_ok=True)

    def _verify(self, target: Path) -> None:
        if not target.is_file():
            raise CheckpointError(
                f"there is no checkpoint {target}", "a file", "start a new run, or name another checkpoint"
            )
        sums = _sums_of(target)
        if not sums.is_file():
            raise CheckpointError(
                f"{target} has no checksum", f"{sums.name} next to it", "copy both files, or start a new run"
            )
        digest = sha256_of(target)
        if digest not in _read_sums(target):
            raise CheckpointError(
                f"{target} is damaged (its SHA-256 is {digest[:12]}...)",
                "the bytes that were written",
                "restore it from a copy, or start a new run",
            )


class _HashingFile:
    """A file that hashes what is written to it, and keeps the OSError that torch would hide."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save_hashed(checkpoint: dict[str, Any], draft: IO[bytes]) -> str:
    hashing = _HashingFile(draft)
    try:
        torch.save(checkpoint, hashing)  # type: ignore[arg-type] # it only needs write and flush
    except RuntimeError:
        if hashing.error is not None:
            raise hashing.error from None
        raise
    return hashing.hash.hexdigest()


def _sums_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _read_sums(target: Path) -> list[str]:
    sums = _sums_of(target)
    return (
        [line.split()[0] for line in sums.read_text(encoding="utf-8").splitlines()] if sums.is_file() else []
    )


def _write_sums(target: Path, digests: list[str]) -> None:
    write_whole(_sums_of(target), "".join(f"{digest}  {target.name}\n" for digest in digests))


def cannot_write(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a checkpoint that cannot be written."""
    return CheckpointError(
        f"cannot write {path} ({error.strerror or error})",
        "a writable folder, with space for the checkpoint",
        "free some space or choose another folder; what was saved before is intact",
    )
