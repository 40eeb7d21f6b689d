"""Save the checkpoints `last` and `best` during training."""

import math
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from pipeline.runs.checkpoint_files import check_writable
from pipeline.training.background import finish_saves
from pipeline.training.callbacks.steps import ends_optimizer_step, validation_follows


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt`, saved periodically and at the end, and `best.ckpt`, saved at the best validation.

    At a step with a validation, both are saved after it, so that a resumed run has its result too. If two
    validations are equally good by the metric, the one with the lower loss is better.

    Args:
        folder: the folder of both; it is checked before training starts.
        every_n_steps: optimizer steps between two saves of `last.ckpt`.
        monitor: the validation metric that decides about `best.ckpt`.
        mode: whether a smaller or a larger value of it is better.

    Raises:
        CheckpointError: if the folder cannot be written.
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
        """Check that the folder is writable before training starts."""
        if stage == "fit" and trainer.is_global_zero:
            check_writable(self.folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark the checkpoint that the run was resumed from as saved."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save `last` if it is due and no validation follows."""
        if not ends_optimizer_step(trainer, batch_idx):
            return
        step = trainer.global_step
        self._due |= step % self._every_n_steps == 0 or step == trainer.max_steps or trainer.should_stop
        if self._due and not validation_follows(trainer, batch_idx):
            self.save_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save `best` if this validation is the best, and `last` if it is due or training ends here."""
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

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait until the checkpoints are complete."""
        finish_saves(trainer)

    def _is_better(self, value: float) -> bool:
        """Return whether the last validation is the best so far; also update `is_tied` (all were equal)."""
        if not math.isfinite(value) or self.best_value is None:
            return math.isfinite(value)
        is_equal = value == self.best_value
        self.is_tied = is_equal and self.is_tied is not False
        if is_equal:
            return self.last_metrics["val/loss"] < self.best_metrics["val/loss"]
        return self._sign * (value - self.best_value) < 0

    def save_last(self, trainer: L.Trainer) -> None:
        """Save `last` now, unless this step is already saved; call this only between two optimizer steps."""
        self._due = False
        if self._last_step != trainer.global_step:
            trainer.save_checkpoint(self.last_path, weights_only=False)
            self._last_step = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """Return the best and the last validation so far."""
        names = ("best_value", "best_step", "best_metrics", "last_metrics", "is_tied")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best and the last validation so far."""
        for name, value in state_dict.items():
            setattr(self, name, value)
