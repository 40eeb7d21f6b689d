"""Show the progress of training on standard error: a bar on a terminal, otherwise a line now and then."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from tqdm import tqdm

from pipeline.training.callbacks.limits import TimeBudget
from pipeline.training.callbacks.steps import ends_optimizer_step
from pipeline.words import clock, count

DRAW_EVERY_S = 0.2
LINE_EVERY_S = 10.0
LINES_PER_RUN = 10
VALIDATION_AFTER_S = 2.0
BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"


class ProgressBar(Callback):
    """Show step, smoothed loss, validation loss, tokens per second and time left.

    On a terminal, it is drawn at most five times a second; elsewhere, a line is written every 10 seconds or
    every tenth of the run. The loss is read only when something is drawn, and on a GPU without waiting for
    it.

    Args:
        description: the text before the bar, such as `pretrain causal_lm`.
        time_budget: the budget of the run, if it has one, since it may end training before the last step.
        stream: the stream to write to; None: standard error.
    """

    def __init__(
        self, description: str, *, time_budget: TimeBudget | None = None, stream: TextIO | None = None
    ) -> None:
        self._description = description
        self._time_budget = time_budget
        self._stream = stream if stream is not None else sys.stderr
        self._on_terminal = self._stream.isatty()
        self._bar: tqdm[Any] | None = None
        self._validation_bar: tqdm[Any] | None = None
        self._loss = LaggingLoss()
        self._latest: Tensor | None = None
        self._val_loss: float | None = None
        self._tokens = 0
        self._first_step = self._step = self._max_steps = 0
        self._started = self._shown_at = self._validation_started = 0.0
        self._validation_s = 0.0
        self._line_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and the bar."""
        self._started = self._shown_at = time.monotonic()
        self._first_step = self._step = self._line_step = trainer.global_step
        self._max_steps = trainer.max_steps
        if self._on_terminal and trainer.is_global_zero:
            self._bar = tqdm(
                total=self._max_steps,
                initial=self._first_step,
                desc=self._description,
                file=self._stream,
                bar_format=BAR,
                dynamic_ncols=True,
                mininterval=0,
            )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Mapping[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Count tokens, and draw when it is time."""
        self._tokens += batch["input_ids"].numel() * trainer.world_size
        if not ends_optimizer_step(trainer, batch_idx) or not trainer.is_global_zero:
            return
        self._step, self._latest = trainer.global_step, outputs["mean_loss"]
        self._max_steps = trainer.max_steps  # a plateau reduces it
        if self._is_time(time.monotonic()):
            self._loss.read(outputs["mean_loss"])
            self._show()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember when the validation started."""
        self._validation_started = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the progress of a long validation."""
        if self._bar is None or time.monotonic() - self._validation_started < VALIDATION_AFTER_S:
            return
        if self._validation_bar is None:
            total = int(sum(trainer.num_val_batches))
            self._validation_bar = tqdm(
                total=total, desc="validation", file=self._stream, leave=False, dynamic_ncols=True
            )
        self._validation_bar.update(batch_idx + 1 - self._validation_bar.n)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the validation loss, and exclude the time from the tokens per second."""
        if self._validation_bar is not None:
            self._validation_bar.close()
            self._validation_bar = None
        if trainer.state.fn is TrainerFn.FITTING and trainer.is_global_zero:
            self._validation_s += time.monotonic() - self._validation_started
            self._val_loss = float(trainer.callback_metrics["val/loss"])
            if self._bar is not None:
                self._show()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the final state."""
        if trainer.is_global_zero and self._latest is not None:
            self._loss.read(self._latest)
            self._loss.finish()
            self._show()
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal clean for the message that follows."""
        self._close()

    def _is_time(self, now: float) -> bool:
        since = now - self._shown_at
        if self._bar is not None:
            return since >= DRAW_EVERY_S
        tenth = (self._step - self._line_step) * LINES_PER_RUN >= self._max_steps
        return since >= LINE_EVERY_S or (tenth and since >= 1.0)

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        self._line_step = self._step
        parts = self._parts()
        if self._bar is not None:
            self._bar.n, self._bar.total = self._step, self._max_steps
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
            self._bar.refresh()
        else:
            done = f"step {self._step}/{self._max_steps} ({self._step / self._max_steps:.0%})"
            print(f"{self._description}: {', '.join([done, *parts])}", file=self._stream, flush=True)

    def _parts(self) -> list[str]:
        parts = []
        if self._loss.value is not None:
            parts.append(f"loss {self._loss.value:.3f}")
        if self._val_loss is not None:
            parts.append(f"val {self._val_loss:.3f}")
        elapsed_s = time.monotonic() - self._started
        if self._tokens:
            parts.append(f"{count(self._tokens / max(elapsed_s - self._validation_s, 1e-9))} tokens/s")
        if self._step > self._first_step:
            left_s = elapsed_s / (self._step - self._first_step) * (self._max_steps - self._step)
            if self._time_budget is not None:
                left_s = min(left_s, max(self._time_budget.left_s, 0.0))
            parts.append(f"{clock(left_s)} left")
        return parts

    def _close(self) -> None:
        for bar in (self._validation_bar, self._bar):
            if bar is not None:
                bar.close()
        self._validation_bar = self._bar = None


class LaggingLoss:
    """A smoothed loss that is read from a GPU without waiting: its value lags by one drawing."""

    def __init__(self, smoothing: float = 0.8) -> None:
        self.value: float | None = None
        self._smoothing = smoothing
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def read(self, loss: Tensor) -> None:
        """Add `loss` to the average: at once if it is on the CPU, otherwise when its copy has arrived."""
        if loss.device.type != "cuda":
            self._add(loss.item())
            return
        if self._pending is not None:
            if not self._pending[1].query():  # type: ignore[no-untyped-call]
                return
            self.finish()
        copy = torch.empty((), dtype=loss.dtype, pin_memory=True)
        copy.copy_(loss, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._pending = (copy, arrived)

    def finish(self) -> None:
        """Wait for the pending copy, and add it."""
        if self._pending is not None:
            copy, arrived = self._pending
            arrived.synchronize()
            self._add(copy.item())
            self._pending = None

    def _add(self, value: float) -> None:
        s = self._smoothing
        self.value = value if self.value is None else s * self.value + (1 - s) * value
