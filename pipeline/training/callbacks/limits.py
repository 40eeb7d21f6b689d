"""End training at or before its last step, always with a validation."""

import time
from typing import Any

import lightning as L
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback

from pipeline.runs.changes import ends_before
from pipeline.training.callbacks.steps import any_process, ends_optimizer_step


class TrainingClock:
    """A clock that counts seconds of training over all parts of a resumed run."""

    def __init__(self) -> None:
        self._before_s = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Continue counting from now."""
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds so far."""
        return self._before_s + (time.monotonic() - self._started if self._started is not None else 0.0)

    def state_dict(self) -> dict[str, float]:
        """Return the seconds so far."""
        return {"elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Continue from the saved seconds."""
        self._before_s = state_dict["elapsed_s"]
        self._started = None


class FinalValidation(Callback):
    """Validates after the last step too, wherever the validation interval falls."""

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Reject a last step that the run has already passed.

        Raises:
            RunError: if the run is already past its last step.
        """
        if checkpoint["global_step"] > trainer.max_steps:
            raise ends_before(checkpoint["global_step"], trainer.max_steps)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell the trainer to stop at the last step, which makes it validate first."""
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True


class EarlyStopping(callbacks.EarlyStopping):
    """Early stopping; a stopped run stays stopped when it is resumed, unless its patience is larger."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train no further step if the run had already been stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count, but not the patience, which may have been changed."""
        super().load_state_dict({**state_dict, "patience": self.patience})


class TimeBudget(Callback):
    """End training, with a validation, when its time is used up; schedule and `max_steps` are unchanged.

    Args:
        budget_s: seconds of training, including validations and checkpoints, over all parts of a resumed run.
    """

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._clock = TrainingClock()

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return self.budget_s - self._clock.elapsed_s

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; a run that is resumed without time left trains no further step."""
        if any_process(trainer, self.left_s <= 0):
            trainer.should_stop = True
        self._clock.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after the optimizer step in which the budget ran out."""
        if ends_optimizer_step(trainer, batch_idx) and any_process(trainer, self.left_s <= 0):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds used."""
        return self._clock.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting from the seconds used."""
        self._clock.load_state_dict(state_dict)
