"""Freeze parts of the model, always or for the first steps."""

from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback

from modules.freezing import depth_of_parameters, freeze
from modules.model import Model
from pipeline.machine.options import Count


@dataclass(frozen=True, kw_only=True)
class Freezing:
    """Which parts are frozen, and when they are unfrozen.

    Args:
        frozen: what is not trained when training starts: the embedding, or the whole backbone, or nothing.
        unfreeze_every_steps: one layer more is trained after each so many steps, from the top down.
    """

    frozen: Literal["nothing", "embedding", "backbone"] = "nothing"
    unfreeze_every_steps: Count | None = None

    def callbacks(self, model: Model) -> list[Callback]:
        """What does this during training."""
        last = max(depth_of_parameters(model).values())
        depth = {"nothing": 0, "embedding": 1, "backbone": last}[self.frozen]
        return [Unfreezing(depth, self.unfreeze_every_steps)] if depth else []


class Unfreezing(Callback):
    """Train the parameters above a depth, and gradually unfreeze those below it.

    Source: Howard and Ruder 2018, "Universal Language Model Fine-tuning", section 3.3, with steps for epochs.

    Args:
        depth: what lies below it is frozen when training starts; 0 is the embedding, the last is the head.
        unfreeze_every_steps: one depth more is trained after each so many steps; None: never.
    """

    def __init__(self, depth: int, unfreeze_every_steps: int | None = None) -> None:
        self._depth = depth
        self._every = unfreeze_every_steps

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Freeze as a function of the step alone, so that a resumed run continues exactly."""
        thawed = trainer.global_step // self._every if self._every else 0
        freeze(pl_module.model, max(0, self._depth - thawed))  # type: ignore[arg-type]
