"""Log the speed and the progress of training at each logging step."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from modules.flops import TrainingFlops, count_tokens
from modules.lit_module import LitModule
from modules.model import Model
from pipeline.training.callbacks.flops import count_training_flops, peak_flops_per_s
from pipeline.training.callbacks.limits import TrainingClock
from pipeline.training.callbacks.steps import ends_optimizer_step, is_logging_step


class Throughput(Callback):
    """Log the progress and the speed of training, at logging steps.

    The metrics are tokens_seen, training_flops, epoch, wall_s, tokens_per_second and mfu. A token is a
    position of `input_ids` or `decoder_input_ids` that is not padding. The time of validations and
    checkpoints counts in wall_s, but not in tokens_per_second.

    Args:
        rows_per_epoch: number of training rows; None leaves out `epoch`, as for a stream.
    """

    def __init__(self, *, rows_per_epoch: int | None = None) -> None:
        self._rows_per_epoch = rows_per_epoch
        self._clock = TrainingClock()
        self._tokens_seen = 0
        self._rows_seen = 0
        self._flops: TrainingFlops | None = None
        self._flops_spent = 0.0
        # Tokens and FLOPs of this process not yet added to the counts above; exact up to 2 ** 53.
        self._fresh = torch.zeros(2, dtype=torch.float64)
        self._sum_over_processes: Callable[[Tensor], Tensor] | None = None
        self._peak_flops_per_s: float | None = None
        self._step_flops = 0.0
        self._interval_tokens_from = 0  # _tokens_seen at the last logging step
        self._interval_steps = 0
        self._interval_s = 0.0  # without the time since _running_since
        self._running_since: float | None = None
        # Of all intervals but the first, which builds kernels.
        self._is_warm = False
        self._paced_steps = 0
        self._paced_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, in all parts of a resumed run."""
        return self._clock.elapsed_s

    @property
    def tokens_seen(self) -> int:
        """Tokens up to the last logging step or checkpoint."""
        return self._tokens_seen

    @property
    def step_s(self) -> float | None:
        """Mean seconds per step since this process started, without validations and checkpoints."""
        return self._paced_s / self._paced_steps if self._paced_steps else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._clock.start()
        self._peak_flops_per_s = peak_flops_per_s(trainer, pl_module.device)
        self._fresh = self._fresh.to(pl_module.device)
        if isinstance(pl_module.model, Model):
            self._flops = TrainingFlops(pl_module.model)
        if trainer.world_size > 1:
            self._sum_over_processes = partial(trainer.strategy.reduce, reduce_op="sum")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Mapping[str, Tensor], batch_idx: int
    ) -> None:
        """Count the FLOPs of a step once, if the peak of the device is known."""
        if self._peak_flops_per_s is not None and not self._step_flops:
            assert isinstance(pl_module, LitModule)
            self._step_flops = count_training_flops(pl_module, batch) * trainer.accumulate_grad_batches
        if self._running_since is None:
            self._running_since = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Mapping[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Count the batch, and log at logging steps; only then does the program wait for the device."""
        n_tokens = count_tokens(batch)
        self._fresh[0] += n_tokens["read"] + n_tokens.get("decoded", 0)
        if self._flops is not None:
            self._fresh[1] += self._flops.of(n_tokens)
        self._rows_seen += len(batch["input_ids"]) * trainer.world_size
        if not ends_optimizer_step(trainer, batch_idx):
            return
        self._interval_steps += 1
        if is_logging_step(trainer):
            values = self._measure()
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop counting time."""
        self._pause()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stop counting time until the next batch."""
        self._pause()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts so far, over all processes."""
        self._count_fresh()
        return {
            "tokens_seen": self._tokens_seen,
            "flops_spent": self._flops_spent,
            "rows_seen": self._rows_seen,
            **self._clock.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the saved counts."""
        self._tokens_seen, self._rows_seen = state_dict["tokens_seen"], state_dict["rows_seen"]
        self._flops_spent = state_dict.get("flops_spent", math.nan)  # missing in older checkpoints
        self._interval_tokens_from = self._tokens_seen
        self._clock.load_state_dict(state_dict)

    def _pause(self) -> None:
        if self._running_since is not None:
            self._interval_s += time.monotonic() - self._running_since
            self._running_since = None

    def _count_fresh(self) -> None:
        fresh = self._fresh if self._sum_over_processes is None else self._sum_over_processes(self._fresh)
        tokens, flops = fresh.tolist()
        self._tokens_seen += int(tokens)
        self._flops_spent += flops
        self._fresh = torch.zeros_like(self._fresh)

    def _measure(self) -> dict[str, float]:
        """Return the metrics of the interval that ends now, and begin the next one."""
        self._count_fresh()
        self._pause()
        seconds = max(self._interval_s, 1e-9)
        if self._is_warm:
            self._paced_steps += self._interval_steps
            self._paced_s += seconds
        self._is_warm = True
        values: dict[str, float] = {
            "tokens_seen": self._tokens_seen,
            "wall_s": self._clock.elapsed_s,
            "tokens_per_second": (self._tokens_seen - self._interval_tokens_from) / seconds,
        }
        if self._flops is not None:
            values["training_flops"] = self._flops_spent
        if self._rows_per_epoch:
            values["epoch"] = self._rows_seen / self._rows_per_epoch
        if self._peak_flops_per_s is not None:
            values["mfu"] = self._step_flops * self._interval_steps / seconds / self._peak_flops_per_s
        self._interval_tokens_from, self._interval_steps, self._interval_s = self._tokens_seen, 0, 0.0
        self._running_since = time.monotonic()
        return values
