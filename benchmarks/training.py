"""Training steps of a configuration, in a plain loop and with the Trainer."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.synthetic import make_rows, make_tokenizer
from datamodules.datamodule import PretrainDataModule
from modules.lit_module import LitModule
from modules.transformer import set_compiled, set_recompute
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.machine.choice import choose_for_machine, with_chosen
from pipeline.machine.compiling import use_own_cache
from pipeline.machine.devices import choose_precision, uses_gpu
from pipeline.machine.options import TrainerOptions
from pipeline.tracking import Run
from pipeline.tracking.logger import TrackingLogger
from pipeline.training.callbacks.guard import NonFiniteGuard
from pipeline.training.callbacks.limits import FinalValidation
from pipeline.training.callbacks.preemption import Preemption
from pipeline.training.callbacks.progress import ProgressBar
from pipeline.training.callbacks.seeding import StepSeed
from pipeline.training.callbacks.steps import ends_optimizer_step
from pipeline.training.callbacks.throughput import Throughput
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.trainer import build_trainer

Batch = Mapping[str, Tensor]


class Measured(NamedTuple):
    """The number and duration of timed training steps."""

    n_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """The speed of the steps."""
        return self.n_tokens / self.seconds


class Training:
    """A configuration of `pretrain`, ready to make training steps on synthetic rows.

    Args:
        overrides: changes to the configuration.
        document_tokens: mean length of the documents that rows are packed from.
        max_steps: number of steps of the whole training, for the schedule.

    Raises:
        UserError: if an override is wrong.
    """

    def __init__(self, overrides: Sequence[str], *, document_tokens: int, max_steps: int) -> None:
        config = compose("pretrain", [*overrides, f"trainer.max_steps={max_steps}"])
        config = with_chosen(config, choose_for_machine(config))
        self.options = construct(config.trainer, TrainerOptions)
        self.precision = choose_precision(self.options)
        self.device = torch.device("cuda" if uses_gpu(self.options) else "cpu")
        self._seed = config.seed
        torch.manual_seed(config.seed)
        tokenizer, task = make_tokenizer(config), construct(config.task)
        model = build_model(to_plain(config.model), tokenizer)
        if self.options.compile is True:
            use_own_cache(Path(config.cache_dir))
            set_compiled(model, True)
        self.module = LitModule(
            model,
            task.objective(tokenizer),
            optimizer=construct(config.optimizer),
            schedule=construct(config.schedule),
            max_steps=max_steps,
        )
        self._schedule = construct(config.schedule)
        self._collate = task.collator(tokenizer, seed=config.seed)
        limit = model.backbone.max_seq_len
        self._rows = make_rows(
            task, tokenizer, max_seq_len=limit, document_tokens=document_tokens,
            packing=config.packing, batch_size=self.options.batch_size, seed=config.seed,
        )  # fmt: skip
        self._n_steps = 0

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def run_plainly(self, n_steps: int) -> Measured:
        """Make steps in a plain loop, continuing from the last call."""
        self.module.to(self.device).train()
        self._wait()
        started = time.perf_counter()
        n_tokens = sum(self._step() for _ in range(n_steps))
        self._wait()
        return Measured(n_tokens, time.perf_counter() - started)

    def run_in_lightning(
        self, n_steps: int, *, n_warmup_steps: int, folder: Path, stream: TextIO
    ) -> Measured:
        """Make steps with the Trainer and a new optimizer; those of the warm-up are not timed.

        The callbacks are those of a run. Validation and checkpoint come after the last step and are not
        timed. Metrics are computed, but not sent.
        """
        n_all = n_warmup_steps + n_steps
        clock = StepClock(n_warmup_steps)
        checkpoints = Checkpoints(folder, every_n_steps=n_all)
        callbacks = [
            clock,
            StepSeed(self._seed),
            NonFiniteGuard(),
            Throughput(rows_per_epoch=len(self._rows)),
            ProgressBar("speed", stream=stream),
            FinalValidation(),
            checkpoints,
            Preemption(checkpoints),
        ]
        options = replace(self.options, max_steps=n_all, val_every_steps=n_all)
        trainer = build_trainer(options, callbacks=callbacks, logger=TrackingLogger(Run()))
        trainer.fit(self.module, self._data())
        return clock.measured

    def run_bare(self, n_steps: int, *, n_warmup_steps: int) -> Measured:
        """Make steps with the Trainer and no other callback: nothing is saved, as weights may be large."""
        set_recompute(self.module.model, self.options.activation_checkpointing)
        n_all = n_warmup_steps + n_steps
        clock = StepClock(n_warmup_steps)
        options = replace(self.options, max_steps=n_all, val_every_steps=n_all)
        trainer = build_trainer(options, callbacks=[clock, NoCheckpoint()])
        trainer.fit(self.module, self._data())
        return clock.measured

    def _data(self) -> PretrainDataModule:
        return PretrainDataModule(
            self._rows,
            self._rows.first(1),
            collate=self._collate,
            validation_collate=self._collate,
            batch_size=self.options.batch_size,
            validation_batch_size=1,
            seed=self._seed,
            num_workers=self.options.num_workers,
        )

    def _step(self) -> int:
        """Update the weights once, and return the number of tokens."""
        factor = self._schedule.factor(self._n_steps, self.module.max_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        n_tokens, n_labels, divisor = 0, 0, 0
        for _ in range(self.options.accumulate):
            batch = next(self._batches)
            n_tokens += count_tokens(batch)
            nats, n_new = self._loss(batch)
            n_labels += n_new
            # The number of labels of the first pass, since that of all passes is only known after the last.
            divisor = divisor or max(n_new, 1)
            self._scaler.scale(nats / divisor / self.options.accumulate).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        factor = self.options.accumulate * divisor / max(n_labels, 1)
        if factor != 1.0:
            torch._foreach_mul_([p.grad for p in self.module.parameters() if p.grad is not None], factor)
        if self.options.gradient_clip is not None:
            clip_grad_norm_(self._trained_parameters(), self.options.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self._n_steps += 1
        return n_tokens

    def _trained_parameters(self) -> list[Tensor]:
        """Return all parameters in the order of the optimizer, in which Lightning sums their norms."""
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the sum of losses in nats, and the number of labels."""
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        # Like Lightning, without a cache of weights in the lower precision.
        with torch.autocast(self.device.type, dtype, enabled=self.precision != "fp32", cache_enabled=False):
            return self.module.objective.loss(self.module.model, moved)

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.module.configure_optimizers()

    @cached_property
    def _scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @cached_property
    def _batches(self) -> Iterator[Batch]:
        return iter(self._data().train_dataloader())

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class NoCheckpoint(Checkpoint):
    """Takes the place of the checkpoints that Lightning saves by default."""


class StepClock(Callback):
    """Times training from the end of step `n_warmup_steps` to the end of the last one.

    Listed first, it reads the clock before the other callbacks have processed the last step; their work for
    the last warm-up step is counted instead.
    """

    def __init__(self, n_warmup_steps: int) -> None:
        self._n_warmup_steps = n_warmup_steps
        self._n_tokens = 0
        self._started = self._ended = 0.0

    @property
    def measured(self) -> Measured:
        """The steps between these two."""
        return Measured(self._n_tokens, self._ended - self._started)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count tokens, and read the clock at the start and at the end."""
        if trainer.global_step > self._n_warmup_steps or self._started:
            self._n_tokens += count_tokens(batch)
        if not ends_optimizer_step(trainer, batch_idx):
            return
        if trainer.global_step in (self._n_warmup_steps, trainer.max_steps):
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize()
            self._started, self._ended = self._started or time.perf_counter(), time.perf_counter()


def count_tokens(batch: Batch) -> int:
    """Return the number of positions of the input that are not padding."""
    segment_ids = batch.get("segment_ids")
    return batch["input_ids"].numel() if segment_ids is None else int(segment_ids.count_nonzero())
