"""The task's own metrics, such as exact match or BLEU: the model answers held-out rows at each validation."""

from collections.abc import Callable, Mapping

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn


class TaskMetrics(Callback):
    """Logs what `measure` gives as `val/NAME`, so that the best weights can be chosen by it.

    Every process measures the same rows, and so has the same numbers.

    Args:
        measure: answers rows with the model, which is in eval mode, and scores the answers.
    """

    def __init__(self, measure: Callable[[], Mapping[str, float]]) -> None:
        self._measure = measure

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure within a training."""
        if trainer.state.fn is TrainerFn.FITTING:
            values = {f"val/{name}": value for name, value in self._measure().items()}
            pl_module.log_dict(values, sync_dist=True)
