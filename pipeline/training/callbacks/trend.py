"""Keep the validation losses of a training run."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn


class LossTrend(Callback):
    """Keep the loss of each validation, over all parts of a resumed run.

    Attributes:
        losses: step -> loss in nats, in the order of the steps.
    """

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    @property
    def last_step(self) -> int:
        """The step of the last validation, at which training ended."""
        return max(self.losses)

    @property
    def lowest_step(self) -> int:
        """The step of the lowest loss."""
        return min(self.losses, key=lambda step: self.losses[step])

    @property
    def still_falls(self) -> bool:
        """Whether the last validation has the lowest loss."""
        return len(self.losses) > 1 and self.lowest_step == self.last_step

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the loss of a validation within training."""
        if trainer.state.fn is TrainerFn.FITTING and not trainer.sanity_checking:
            self.losses[trainer.global_step] = float(trainer.callback_metrics["val/loss"])

    def state_dict(self) -> dict[str, Any]:
        """Return the losses so far."""
        return {"losses": dict(self.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the losses so far."""
        self.losses = dict(state_dict["losses"])
