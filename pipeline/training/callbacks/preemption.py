"""End a run at a signal: finish and save the step, so that the run can be resumed."""

import os
import signal
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from pipeline import processes
from pipeline.errors import RunInterrupted
from pipeline.signals import Requests, give_back, listen, name_of
from pipeline.stdio import tell_at_once
from pipeline.training.background import finish_saves, has_failed_save
from pipeline.training.callbacks.steps import any_process, ends_optimizer_step, validation_follows
from pipeline.training.checkpoint import Checkpoints


class Preemption(Checkpoint):
    """Handle signals: finish the optimizer step (and a running validation), save, stop.

    A second signal stops at once. This is a checkpoint callback so that Lightning calls it after all others,
    when each has seen the step that is saved; list it after `checkpoints`.

    Args:
        checkpoints: the callback that saves `last`.

    Raises:
        RunInterrupted: if a signal arrived.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._requests = Requests()
        self._previous: dict[int, Any] = {}
        self._listening = False
        self._pid = os.getpid()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Install the handler before training starts, since setup can take a while too."""
        if stage == "fit":
            self._requests = Requests()
            self._listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the handler again, since Lightning's own handler of SIGTERM exits without saving."""
        self._listen()
        if any_process(trainer, self._requests.first is not None):
            self._raise(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a finished optimizer step, or after the validation that follows it."""
        if ends_optimizer_step(trainer, batch_idx) and not validation_follows(trainer, batch_idx):
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after a validation within training."""
        if trainer.state.fn is TrainerFn.FITTING:
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run also for a signal that arrived after the last step."""
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
        """Also stop if a save in the background has failed: `finish_saves` then raises its error."""
        if any_process(trainer, self._requests.first is not None or has_failed_save(trainer)):
            finish_saves(trainer)
            self._checkpoints.save_last(trainer)
            finish_saves(trainer)
            self._raise(trainer)

    def _raise(self, trainer: L.Trainer) -> None:
        number = self._requests.first or signal.SIGTERM  # another process received it
        raise RunInterrupted(
            f"stopped by {name_of(number)} after step {trainer.global_step} of {trainer.max_steps}, "
            "which was saved",
            f"run the same command with {processes.word_to_resume()} to resume from there",
            number,
        )

    def _listen(self) -> None:
        self._listening = True
        # The second call returns Lightning's handlers, which are not the ones to restore.
        self._previous = {**listen(self._handle), **self._previous}

    def _restore(self) -> None:
        self._listening = False
        give_back(self._previous)
        if self._requests.first is not None and signal.SIGHUP in self._previous:
            signal.signal(signal.SIGHUP, _do_nothing)  # an echo must not disturb the end of the run

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return  # a forked data loader worker, which the training process ends
        is_first = self._requests.first is None
        if not self._requests.is_new(number):
            return
        if not self._listening:
            # After an exception, Lightning restores the handler that it found in `setup`: this one.
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
            return
        if not is_first:
            self._restore()
            raise RunInterrupted(
                f"stopped at once by a second {name_of(number)}",
                f"run the same command with {processes.word_to_resume()} to resume from the last checkpoint",
                number,
            )
        tell_at_once(f"\n{name_of(number)}: finishing the step and saving; send it again to stop at once\n")


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Ignore a signal; unlike SIG_IGN, this is not inherited by child processes."""
