"""The one LightningModule: it joins a model, an objective, an optimizer and a schedule."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from modules.errors import ArgumentError

Batch = Mapping[str, Tensor]


@runtime_checkable
class Objective(Protocol):
    """What a model is trained for. It holds no weights; the model is passed in."""

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, int]:
        """The loss of all labelled tokens of `batch` summed, in nats, and how many they are."""

    def metrics(self) -> MetricCollection:
        """Fresh metrics by plain name; one is called `loss`."""

    def update(self, metrics: MetricCollection, model: Any, batch: Batch) -> None:
        """Add `batch` to `metrics`."""


@runtime_checkable
class OptimizerBuilder(Protocol):
    """Options of an optimizer that can be built for a model."""

    def build(self, model: nn.Module) -> Optimizer:
        """An optimizer over all parameters of `model`; its groups may carry a `name`."""


@runtime_checkable
class LearningRateSchedule(Protocol):
    """The learning rate as a pure function of the optimizer step."""

    def factor(self, step: int, max_steps: int) -> float:
        """What each group's own learning rate is multiplied with at `step`, counted from 0."""


class LitModule(L.LightningModule):
    """Trains `model` for `objective`.

    The loss of a step is the mean over all its labelled tokens: each weighs the same, however they are spread
    over forward passes (accumulation) and devices. What is logged as `train/loss` is the mean over all tokens
    since it was logged last.

    Args:
        model: gets a batch, gives logits.
        objective: the loss and the metrics.
        optimizer: builds the optimizer.
        schedule: the learning rate, relative to that of each parameter group.
        max_steps: optimizer steps of the whole training, for the schedule.
        compile: compile the parts of the model with `torch.compile`.

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
        compile: bool = False,  # noqa: A002 - the key that a user types
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
            raise ArgumentError(f"the objective measures {names}", "a 'loss' too", "add it to metrics()")
        self.val_metrics = metrics.clone(prefix="val/")
        # Of each forward pass since train/loss was logged last.
        self._nats: list[Tensor] = []
        self._n_tokens: list[int] = []
        # Of each forward pass of the present step, and what each is divided by before the whole is known.
        self._step_tokens: list[int] = []
        self._divisor: float | Tensor = 1.0
        if compile:
            # Objectives may call the parts of a model without calling the model itself.
            for part in list(model.children()) or [model]:
                part.compile()

    def forward(self, batch: Batch) -> Tensor:
        """The model's logits for `batch`."""
        logits: Tensor = self.model(batch)
        return logits

    def configure_optimizers(self) -> Optimizer:
        """The optimizer; its learning rates are set step by step from the schedule, which has no state."""
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
        """The part of `batch` in the loss of the step, and its own mean; nothing waits for the device."""
        nats, n_tokens = self.objective.loss(self.model, batch)
        self._nats.append(nats.detach())
        self._n_tokens.append(n_tokens)
        if not self._step_tokens:
            # One divisor for all passes of a step, of the right size: float16 would overflow without.
            self._divisor = self._mean_over_processes(n_tokens)
        self._step_tokens.append(n_tokens)
        return {"loss": nats / self._divisor, "mean_loss": nats.detach() / max(n_tokens, 1)}

    def _mean_over_processes(self, n_tokens: int) -> float | Tensor:
        """The mean of the processes' `n_tokens`, at least 1; of several, on the device."""
        if self.trainer.world_size == 1:
            return float(max(n_tokens, 1))
        total = torch.full((), n_tokens, device=self.device, dtype=torch.float32)
        # Not the strategy's reduce: it has a barrier, which waits for the device.
        torch.distributed.all_reduce(total)
        return (total / self.trainer.world_size).clamp(min=1.0)

    def _weigh_by_tokens(self) -> None:
        """Scale the gradients to those of the mean over all tokens of the step.

        Lightning has divided each pass by the number of passes, and taken the mean over processes.
        """
        n_passes, n_tokens = len(self._step_tokens), sum(self._step_tokens)
        self._step_tokens.clear()
        if n_passes == 1:
            return  # the divisor was the number of tokens
        factor = n_passes * self._divisor / self._mean_over_processes(n_tokens)
        if isinstance(factor, Tensor) or factor != 1.0:
            torch._foreach_mul_([p.grad for p in self.parameters() if p.grad is not None], factor)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Weigh by tokens; at logging steps, log loss, gradient norm (before clipping) and learning rates."""
        self._weigh_by_tokens()
        step = self.trainer.global_step + 1
        every = self.trainer.log_every_n_steps or 1  # type: ignore[attr-defined]
        if step % every and step != self.trainer.max_steps:
            return
        nats, n_tokens = self._interval_totals().cpu().double().sum(0).tolist()
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        values = {
            "train/loss": nats / max(n_tokens, 1.0),
            "grad_norm": torch.nn.utils.get_total_norm(gradients).item(),
        }
        for i, group in enumerate(optimizer.param_groups):
            values[f"lr_{group.get('name', i)}"] = float(group["lr"])
        # Straight to the loggers: what is given to `self.log` costs time at every later step too.
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=step)
        self._nats.clear()
        self._n_tokens.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add `batch` to the validation metrics."""
        self.objective.update(self.val_metrics, self.model, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over the whole validation set."""
        # The values are over all processes already; sync_dist only tells Lightning so.
        self.log_dict(self.val_metrics.compute(), sync_dist=True)
        # Lightning's own x axis is one step behind; a value named `step` replaces it.
        self.log("step", float(self.trainer.global_step), sync_dist=True)
        self.val_metrics.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was summed since the last logging, so that a resumed run logs the same numbers."""
        checkpoint["train_interval"] = self._interval_totals()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the sums again; they are over all processes, so the first one takes them all."""
        nats, n_tokens = (checkpoint["train_interval"] * (self.global_rank == 0)).to(self.device).T
        self._nats = list(nats)
        self._n_tokens = n_tokens.int().tolist()

    def _interval_totals(self) -> Tensor:
        """(nats, tokens) of each forward pass since the last logging, over all processes: (n, 2)."""
        if not self._nats:
            return torch.zeros(0, 2, device=self.device)
        nats = torch.stack(self._nats).float()
        totals = torch.stack(
            (nats, torch.tensor(self._n_tokens, device=self.device, dtype=nats.dtype)), dim=1
        )
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        return totals
