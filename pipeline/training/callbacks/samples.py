"""Show sample outputs of the model at each validation."""

from collections.abc import Callable

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from modules.sharding import gathered
from pipeline.tasks.base import Sample


class Samples(Callback):
    """Generate samples at each validation and pass them on with their step.

    Args:
        make: generates the samples; the model is in eval mode.
        show: called with the step and the samples.
    """

    def __init__(self, make: Callable[[], list[Sample]], show: Callable[[int, list[Sample]], None]) -> None:
        self._make = make
        self._show = show

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Generate and show samples within training, in the first process, with weights of all."""
        if trainer.state.fn is TrainerFn.FITTING:
            with gathered(pl_module):
                if trainer.is_global_zero:
                    self._show(trainer.global_step, self._make())
