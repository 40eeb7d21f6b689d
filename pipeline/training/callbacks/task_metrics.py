"""Log the task's own metrics, such as exact match or BLEU, on held-out rows at each validation."""

from collections.abc import Callable, Mapping

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn


class TaskMetrics(Callback):
    """Logs the metrics that `measure` returns as `val/NAME`, so that they can select the best weights.

    Every process measures the same rows, and gets the same values.

    Args:
        measure: predicts rows with the model, which is in eval mode, and returns metrics by name.
    """

    def __init__(self, measure: Callable[[], Mapping[str, float]]) -> None:
        self._measure = measure

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure within training."""
        if trainer.state.fn is TrainerFn.FITTING:
            values = {f"val/{name}": value for name, value in self._measure().items()}
            pl_module.log_dict(values, sync_dist=True)
