"""End a training whose metric no longer improves, after its learning rate has decayed."""

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
    """Makes a run as short as one that decays from here, once so many validations brought nothing better.

    With a schedule that is stable and then decays, the run goes on as if `max_steps` had been given so: much
    is gained in the decay, and stopping without it would lose that. With other schedules it ends at once. The
    decision depends on the validations alone, and is kept in the checkpoints.

    Args:
        monitor: the validation metric.
        mode: whether a smaller or a larger value of it is better.
        patience: validations without a better value.
        schedule: of the learning rate.
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
        """Let a resumed run end at the step that was decided."""
        self._shorten(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count, and decide once."""
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
        """Return the best value so far, its step, and the decision."""
        return {"best": self._best, "n_waited": self._n_waited, "max_steps": self.max_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._best, self._n_waited = state_dict["best"], state_dict["n_waited"]
        self.max_steps = state_dict["max_steps"]
