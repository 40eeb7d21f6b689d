"""Stop training at the first value that is not finite, before it is saved."""

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from modules.sharding import whole
from pipeline.errors import RunError
from pipeline.training.callbacks.steps import ends_optimizer_step, is_logging_step


class NonFiniteGuard(Callback):
    """Stop a run whose loss or weights are no longer finite, before they are saved.

    It checks at logging steps, after validations and before each checkpoint is written, but not at each step,
    since a check makes the program wait for the device. Non-finite gradients show up in the weights, except
    those that the loss scaling of fp16 skips on purpose.

    Raises:
        RunError: if a value is not finite; the error names the first bad step.
    """

    def __init__(self) -> None:
        self._losses: list[tuple[int, Tensor]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store the loss; check all stored losses at logging steps."""
        ends = ends_optimizer_step(trainer, batch_idx)
        step = trainer.global_step if ends else trainer.global_step + 1
        self._losses.append((step, outputs["loss"]))
        if ends and is_logging_step(trainer):
            self._check_losses(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the validation loss."""
        if trainer.state.fn is TrainerFn.FITTING and not math.isfinite(trainer.callback_metrics["val/loss"]):
            self._stop(trainer, "validation loss is", trainer.global_step)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the losses since the last check, and the weights."""
        self._check_losses(trainer)
        if not whole(torch.nn.utils.get_total_norm(pl_module.parameters())).isfinite():
            self._stop(trainer, "weights are", trainer.global_step)

    def _check_losses(self, trainer: L.Trainer) -> None:
        if not self._losses:
            return
        finite = torch.stack([loss for _, loss in self._losses]).isfinite().tolist()
        bad = next((step for (step, _), ok in zip(self._losses, finite, strict=True) if not ok), None)
        self._losses.clear()
        if bad is not None:
            self._stop(trainer, "loss is", bad)

    def _stop(self, trainer: L.Trainer, what: str, step: int) -> None:
        precision = " or trainer.precision=bf16" if trainer.precision == "16-mixed" else ""
        raise RunError(
            f"the {what} not finite at step {step}",
            "a finite value",
            "start a new run with a lower learning rate, a longer warm-up or stronger gradient clipping "
            f"(trainer.gradient_clip){precision}; the last good checkpoint is kept",
        )
