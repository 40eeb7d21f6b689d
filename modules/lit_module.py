"""The LightningModule, which joins a model, an objective, an optimizer and a schedule."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from modules.errors import ArgumentError
from modules.sharding import gather, local, release, whole

Batch = Mapping[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """The interface of a training objective. It has no weights; the model is passed in."""

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, int]:
        """Return the sum of the losses of all labelled tokens of `batch` in nats, and their number."""

    def metrics(self) -> MetricCollection:
        """Return new metrics by plain name; one is called `loss`."""

    def update(self, metrics: MetricCollection, model: Any, batch: Batch) -> None:
        """Add `batch` to `metrics`."""


@runtime_checkable
class OptimizerBuilder(Protocol):
    """The options of an optimizer, which can be built for a model."""

    def build(self, model: nn.Module) -> Optimizer:
        """Return an optimizer for all parameters of `model`; its groups may have a `name`."""


@runtime_checkable
class LearningRateSchedule(Protocol):
    """The learning rate as a pure function of the optimizer step."""

    def factor(self, step: int, max_steps: int) -> float:
        """Return the factor of each group's learning rate at `step`, counted from 0."""


class LitModule(L.LightningModule):
    """Trains `model` for `objective`.

    The loss of a step is the mean over all its labelled tokens, which have the same weight however they are
    distributed over micro batches (accumulation) and devices. `train/loss` is the mean over all tokens since
    it was last logged.

    Args:
        model: a function from a batch to logits.
        objective: the loss and the metrics.
        optimizer: builds the optimizer.
        schedule: the learning rate, relative to that of each parameter group.
        max_steps: the number of optimizer steps of the whole training, for the schedule.

    Raises:
        ArgumentError: the objective has no metric `loss`, or `max_steps` is below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        optimizer: OptimizerBuilder,
        schedule: LearningRateSchedule,
        max_steps: int,
    ) -> None:
        super().__init__()
        if max_steps < 1:
            raise ArgumentError(f"max_steps is {max_steps}", "1 or more", "train for at least one step")
        self.model = model
        self.objective = objective
        self.max_steps = max_steps
        self._optimizer_builder = optimizer
        self._schedule = schedule
        metrics = objective.metrics()
        if "loss" not in metrics:
            names = ", ".join(map(str, metrics))
            raise ArgumentError(
                f"the objective has the metrics {names}", "a metric 'loss'", "add it to metrics()"
            )
        self.val_metrics = metrics.clone(prefix="val/")
        # For each forward pass since train/loss was last logged.
        self._nats: list[Tensor] = []
        self._n_tokens: list[int] = []
        # For each forward pass of the current step; losses are divided before the total is known.
        self._step_tokens: list[int] = []
        self._divisor: float | Tensor = 1.0

    def forward(self, batch: Batch) -> Tensor:
        """Return the model's logits for `batch`."""
        logits: Tensor = self.model(batch)
        return logits

    def configure_optimizers(self) -> Optimizer:
        """Build the optimizer, whose learning rates are set at each step by the stateless schedule."""
        optimizer = self._optimizer_builder.build(self.model)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rates of the optimizer step that this batch belongs to."""
        factor = self._schedule.factor(self.trainer.global_step, self.max_steps)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the share of `batch` in the loss of the step, and its own mean, without synchronizing."""
        nats, n_tokens = self.objective.loss(self.model, batch)
        self._nats.append(nats.detach())
        self._n_tokens.append(n_tokens)
        if not self._step_tokens:
            # One divisor for all passes of a step, of the right magnitude: without it, float16 would
            # overflow.
            self._divisor = self._mean_over_processes(n_tokens)
        self._step_tokens.append(n_tokens)
        return {"loss": nats / self._divisor, "mean_loss": nats.detach() / max(n_tokens, 1)}

    def _mean_over_processes(self, n_tokens: int) -> float | Tensor:
        """Return the mean of `n_tokens` over processes, at least 1; a tensor if there are several."""
        if self.trainer.world_size == 1:
            return float(max(n_tokens, 1))
        total = torch.full((), n_tokens, device=self.device, dtype=torch.float32)
        # Not the strategy's reduce, whose barrier synchronizes with the device.
        torch.distributed.all_reduce(total)
        return (total / self.trainer.world_size).clamp(min=1.0)

    def _weigh_by_tokens(self) -> None:
        """Scale the gradients to those of the mean over all tokens of the step.

        Lightning has divided each pass by the number of passes, and averaged over processes.
        """
        n_passes, n_tokens = len(self._step_tokens), sum(self._step_tokens)
        self._step_tokens.clear()
        if n_passes == 1:
            return  # the divisor was the number of tokens
        factor = n_passes * self._divisor / self._mean_over_processes(n_tokens)
        if isinstance(factor, Tensor) or factor != 1.0:
            torch._foreach_mul_([local(p.grad) for p in self.parameters() if p.grad is not None], factor)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Weight by tokens; at logging steps, log loss, unclipped gradient norm and learning rates."""
        self._weigh_by_tokens()
        step = self.trainer.global_step + 1
        every = self.trainer.log_every_n_steps or 1  # type: ignore[attr-defined]
        if step % every and step != self.trainer.max_steps:
            return
        nats, n_tokens = self._interval_totals().cpu().double().sum(0).tolist()
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        values = {
            "train/loss": nats / max(n_tokens, 1.0),
            "grad_norm": whole(torch.nn.utils.get_total_norm(gradients)).item(),
        }
        for i, group in enumerate(optimizer.param_groups):
            values[f"lr_{group.get('name', i)}"] = float(group["lr"])
        # Log directly, because `self.log` costs time at every later step too.
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=step)
        self._nats.clear()
        self._n_tokens.clear()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Update the weights, and free the gradients: Lightning would keep them in the next forward pass."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def on_validation_epoch_start(self) -> None:
        """Gather sharded weights, since processes may have different numbers of batches."""
        gather(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add `batch` to the validation metrics."""
        self.objective.update(self.val_metrics, self.model, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over the whole validation set."""
        # The values cover all processes already; sync_dist only tells Lightning so.
        self.log_dict(self.val_metrics.compute(), sync_dist=True)
        # Lightning's own x axis is one step behind; a metric named `step` replaces it.
        self.log("step", float(self.trainer.global_step), sync_dist=True)
        self.val_metrics.reset()
        release(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the sums since the last logging, so that a resumed run logs the same values."""
        checkpoint["train_interval"] = self._interval_totals()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums; they cover all processes, so the first process takes all of them."""
        nats, n_tokens = (checkpoint["train_interval"] * (self.global_rank == 0)).to(self.device).T
        self._nats = list(nats)
        self._n_tokens = n_tokens.int().tolist()

    def _interval_totals(self) -> Tensor:
        """Return (nats, tokens) of each forward pass since the last logging, over all processes: (n, 2)."""
        if not self._nats:
            return torch.zeros(0, 2, device=self.device)
        nats = torch.stack(self._nats).float()
        totals = torch.stack(
            (nats, torch.tensor(self._n_tokens, device=self.device, dtype=nats.dtype)), dim=1
        )
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        return totals
