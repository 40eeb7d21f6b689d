"""Freeze parts of the model, permanently or for the first steps."""

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
        frozen: the part that is frozen when training starts.
        unfreeze_every_steps: unfreeze one more layer after this many steps each, from the top down.
    """

    frozen: Literal["nothing", "embedding", "backbone"] = "nothing"
    unfreeze_every_steps: Count | None = None

    def callbacks(self, model: Model) -> list[Callback]:
        """Return the callbacks that freeze and unfreeze the model."""
        last = max(depth_of_parameters(model).values())
        depth = {"nothing": 0, "embedding": 1, "backbone": last}[self.frozen]
        return [Unfreezing(depth, self.unfreeze_every_steps)] if depth else []


class Unfreezing(Callback):
    """Train the parameters above a depth, and gradually unfreeze those below it.

    Source: Howard and Ruder 2018, "Universal Language Model Fine-tuning", section 3.3, with steps for epochs.

    Args:
        depth: parameters below this depth are frozen when training starts; 0 is the embedding, the last is
            the head.
        unfreeze_every_steps: unfreeze one more depth after this many steps each; None: never.
    """

    def __init__(self, depth: int, unfreeze_every_steps: int | None = None) -> None:
        self._depth = depth
        self._every = unfreeze_every_steps

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Freeze parameters as a function of the step alone, so that a resumed run continues exactly."""
        thawed = trainer.global_step // self._every if self._every else 0
        freeze(pl_module.model, max(0, self._depth - thawed))  # type: ignore[arg-type]
