"""End training whose metric no longer improves, after its learning rate has decayed."""

from typing import Any, Literal, Protocol

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from modules.lit_module import LitModule


class Ending(Protocol):
    """A schedule that supports an early end."""

    def end_from(self, step: int) -> int:
        """Return the number of steps of a run whose learning rate starts to decay at `step`."""
        ...


class Plateau(Callback):
    """Starts the decay of the learning rate once `patience` validations in a row brought no better value.

    With a warmup-stable-decay schedule, the run continues as if `max_steps` had been set so that the decay
    starts now: much of the improvement comes from the decay. With other schedules, training ends at once. The
    decision depends only on the validations, and is stored in the checkpoints.

    Args:
        monitor: the validation metric.
        mode: whether a smaller or a larger value of it is better.
        patience: the number of validations without a better value.
        schedule: the schedule of the learning rate.
    """

    def __init__(self, monitor: str, *, mode: Literal["min", "max"], patience: int, schedule: Ending) -> None:
        self.max_steps: int | None = None
        self._monitor = monitor
        self._sign = 1.0 if mode == "max" else -1.0
        self._patience = patience
        self._schedule = schedule
        self._best = float("-inf")
        self._n_waited = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Apply the decision of a resumed run."""
        self._shorten(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count validations without a better value, and decide once."""
        if trainer.state.fn is not TrainerFn.FITTING or trainer.sanity_checking or self.max_steps is not None:
            return
        value = self._sign * float(trainer.callback_metrics[self._monitor])
        self._n_waited = 0 if value > self._best else self._n_waited + 1
        self._best = max(self._best, value)
        if self._n_waited >= self._patience:
            end = max(self._schedule.end_from(trainer.global_step), trainer.global_step)
            self.max_steps = min(end, trainer.max_steps)
            self._shorten(trainer, pl_module)

    def _shorten(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.max_steps is None or not isinstance(pl_module, LitModule):
            return
        trainer.fit_loop.epoch_loop.max_steps = pl_module.max_steps = self.max_steps
        trainer.should_stop |= trainer.global_step >= self.max_steps

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, the validations since then, and the decision."""
        return {"best": self._best, "n_waited": self._n_waited, "max_steps": self.max_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._best, self._n_waited = state_dict["best"], state_dict["n_waited"]
        self.max_steps = state_dict["max_steps"]
