"""End a run at a signal: the step is finished and saved, and the run can be resumed."""

import os
import signal
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from pipeline.errors import RunInterrupted
from pipeline.signals import Requests, give_back, listen, name_of
from pipeline.stdio import tell_at_once
from pipeline.training.callbacks.steps import any_process, ends_optimizer_step, validation_follows
from pipeline.training.checkpoint import Checkpoints


class Preemption(Checkpoint):
    """Handle Ctrl-C, SIGTERM and SIGHUP: finish the optimizer step (and a running validation), save, stop.

    A second request stops at once. This counts as a checkpoint callback so that Lightning calls it after all
    others, when each has seen the step that is saved; list it after `checkpoints`.

    Args:
        checkpoints: saves `last`.

    Raises:
        RunInterrupted: a signal came.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._requests = Requests()
        self._previous: dict[int, Any] = {}
        self._listening = False
        self._pid = os.getpid()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen from now on: preparing a training can take a while too."""
        if stage == "fit":
            self._requests = Requests()
            self._listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen again, for Lightning has put its own answer to SIGTERM first: exit code 0, and no save."""
        self._listen()
        if any_process(trainer, self._requests.first is not None):
            self._raise(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a finished optimizer step; when it is validated, only after that."""
        if ends_optimizer_step(trainer, batch_idx) and not validation_follows(trainer, batch_idx):
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after a validation within a training."""
        if trainer.state.fn is TrainerFn.FITTING:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Never swallow a signal: one that was received after the last step ends the run too."""
        self._restore()
        if any_process(trainer, self._requests.first is not None):
            self._raise(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Restore the previous signal handlers."""
        self._restore()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the previous signal handlers."""
        self._restore()

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if any_process(trainer, self._requests.first is not None):
            self._checkpoints.save_last(trainer)
            self._raise(trainer)

    def _raise(self, trainer: L.Trainer) -> None:
        number = self._requests.first or signal.SIGTERM  # another process got it
        raise RunInterrupted(
            f"stopped by {name_of(number)} after step {trainer.global_step} of {trainer.max_steps}, "
            "which was saved",
            "run the same command with RESUME=1 to resume from there",
            number,
        )

    def _listen(self) -> None:
        self._listening = True
        self._previous = {**listen(self._answer), **self._previous}  # a second time, it would be Lightning's

    def _restore(self) -> None:
        self._listening = False
        give_back(self._previous)
        if self._requests.first is not None and signal.SIGHUP in self._previous:
            signal.signal(signal.SIGHUP, _do_nothing)  # an echo must not disturb the end of the run

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a worker that was forked for the data: the training process ends it
        is_first = self._requests.first is None
        if not self._requests.is_new(number):
            return
        if not self._listening:
            # After an exception Lightning puts back what it found in `setup`: this.
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
            return
        if not is_first:
            self._restore()
            raise RunInterrupted(
                f"stopped at once by a second {name_of(number)}",
                "run the same command with RESUME=1 to resume from the last checkpoint",
                number,
            )
        tell_at_once(f"\n{name_of(number)}: finishing the step and saving; send it again to stop at once\n")


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN, which programs that are started from here would inherit."""
