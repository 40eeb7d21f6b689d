"""Checkpoints for resuming: written whole or not at all, verified when read, `last` and `best`."""

import hashlib
import math
import pickle
from pathlib import Path
from typing import IO, Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from pipeline.errors import CheckpointError
from pipeline.files import draft_of, put_in_place, write_whole
from pipeline.training.callbacks.steps import ends_optimizer_step, validation_follows


def check_writable(folder: Path) -> None:
    """Make `folder` and prove that a file can be written there.

    Raises:
        CheckpointError: it cannot.
    """
    probe = folder / ".probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(probe, b"probe")
        probe.unlink()
    except OSError as error:
        raise _cannot_write(folder, error) from error


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside the old one, makes it durable, and only then puts it in the old one's place.

    The SHA-256 of the bytes lies in a file beside it (`last.ckpt.sha256`, as `sha256sum` writes it) and is
    checked when the checkpoint is read. While a checkpoint is being replaced, that file holds the new sum and
    the old one, so that a crash at any moment leaves a pair that fits.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object | None = None
    ) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            CheckpointError: the file cannot be written; the old one is whole.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for left in target.parent.glob(f".{target.name}.*draft"):  # by a save that was killed
                left.unlink(missing_ok=True)
            with draft_of(target) as draft:
                digest = _save_hashed(checkpoint, draft)
                _write_sums(target, [digest, *(_read_sums(target) if target.exists() else [])])
                put_in_place(draft, target)
            _write_sums(target, [digest])
        except OSError as error:
            raise _cannot_write(target, error) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint at `path`, tensors on the CPU if not said otherwise; runs no code out of the file.

        Raises:
            CheckpointError: the file is missing, damaged, or holds more than tensors and plain values.
        """
        target = Path(path)
        self._verify(target)
        try:
            loaded = torch.load(target, map_location=map_location or "cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{target} is not a checkpoint of this program", "tensors and plain values", "start a new run"
            ) from error
        return dict(loaded)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the checkpoint at `path` and its checksum."""
        Path(path).unlink(missing_ok=True)
        _sums_of(Path(path)).unlink(missing_ok=True)

    def _verify(self, target: Path) -> None:
        if not target.is_file():
            raise CheckpointError(f"no checkpoint {target}", "a file", "start a new run, or name another")
        sums = _sums_of(target)
        if not sums.is_file():
            raise CheckpointError(
                f"{target} has no checksum", f"{sums.name} beside it", "copy both files, or start a new run"
            )
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest not in _read_sums(target):
            raise CheckpointError(
                f"{target} is damaged (its SHA-256 is {digest[:12]}...)",
                "the bytes that were written",
                "restore it from a copy, or start a new run",
            )


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt`, each so many optimizer steps and at the end, and `best.ckpt`, the best validation.

    At a step that is validated, both are saved after the validation: a resumed run has its result too. Of two
    validations that are equally good by the metric, that of the lower loss is the better one.

    Args:
        folder: where both lie; it is tried before training starts.
        every_n_steps: optimizer steps between two `last.ckpt`.
        monitor: the validation metric that decides about `best.ckpt`.
        mode: whether a smaller or a larger value of it is better.

    Raises:
        CheckpointError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_n_steps: int,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        self.folder = Path(folder)
        self.best_value: float | None = None
        self.best_step: int | None = None
        self.is_tied: bool | None = None
        self.best_metrics: dict[str, float] = {}
        self.last_metrics: dict[str, float] = {}
        self._every_n_steps = every_n_steps
        self._monitor = monitor
        self._sign = 1.0 if mode == "min" else -1.0
        self._last_step = -1
        self._due = False

    @property
    def last_path(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """The checkpoint of the best validation."""
        return self.folder / "best.ckpt"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Notice an unwritable folder before training starts."""
        if stage == "fit" and trainer.is_global_zero:
            check_writable(self.folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What a run was resumed from need not be saved again."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save `last`, if it is due and no validation comes first."""
        if not ends_optimizer_step(trainer, batch_idx):
            return
        step = trainer.global_step
        self._due |= step % self._every_n_steps == 0 or step == trainer.max_steps or trainer.should_stop
        if self._due and not validation_follows(trainer, batch_idx):
            self.save_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save `best`, if it is the best, and `last`, if it is due or training ends here."""
        if trainer.state.fn is not TrainerFn.FITTING or trainer.sanity_checking:
            return
        self.last_metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        value = self.last_metrics[self._monitor]
        if self._is_better(value):
            self.best_value, self.best_step, self.best_metrics = value, trainer.global_step, self.last_metrics
            trainer.save_checkpoint(self.best_path, weights_only=False)
        if self._due or trainer.should_stop:
            self.save_last(trainer)

    def _is_better(self, value: float) -> bool:
        """Whether the last validation is the best so far; `is_tied` tells whether all were equally good."""
        if not math.isfinite(value) or self.best_value is None:
            return math.isfinite(value)
        is_equal = value == self.best_value
        self.is_tied = is_equal and self.is_tied is not False
        if is_equal:
            return self.last_metrics["val/loss"] < self.best_metrics["val/loss"]
        return self._sign * (value - self.best_value) < 0

    def save_last(self, trainer: L.Trainer) -> None:
        """Save `last` now, if this step is not saved yet; only to be called between two optimizer steps."""
        self._due = False
        if self._last_step != trainer.global_step:
            trainer.save_checkpoint(self.last_path, weights_only=False)
            self._last_step = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """The best and the last validation so far."""
        names = ("best_value", "best_step", "best_metrics", "last_metrics", "is_tied")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best and the last validation so far."""
        for name, value in state_dict.items():
            setattr(self, name, value)


class _HashingFile:
    """A file that hashes what is written to it, and remembers the error that torch would hide."""

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
        torch.save(checkpoint, hashing)  # type: ignore[arg-type] # it needs write and flush only
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


def _cannot_write(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot write {path} ({error.strerror or error})",
        "a folder that can be written, with room for the checkpoint",
        "free some space or choose another folder; what was saved before is whole",
    )
