"""Resume a run with another number of forward passes in each step."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

#: Lightning's counters of forward passes.
COUNTED = ("ready", "started", "processed", "completed")


class Passes(Callback):
    """Adjust the number of forward passes in a checkpoint to the current number of passes per step.

    On fewer devices, a step with the same rows takes more passes on each device (`trainer.accumulate`).
    Lightning decides from the total number of passes when a step ends, and when to validate.
    """

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Change the counters before Lightning restores them; checkpoints are only saved between steps."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        n_passes = checkpoint["global_step"] * trainer.accumulate_grad_batches
        missing = n_passes - progress["total"]["processed"]
        for counts in (progress["total"], progress["current"]):
            for name in COUNTED:
                counts[name] += missing
