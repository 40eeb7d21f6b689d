"""A training small enough for a test, wired as a real one; run as a program, it can be killed."""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from datamodules.collate import collate_causal
from datamodules.datamodule import PretrainDataModule
from modules.lit_module import LitModule
from pipeline.runs.checkpoint_files import AtomicCheckpointIO
from pipeline.training.callbacks.averaging import EMA
from pipeline.training.callbacks.guard import NonFiniteGuard
from pipeline.training.callbacks.limits import EarlyStopping, FinalValidation, TimeBudget
from pipeline.training.callbacks.passes import Passes
from pipeline.training.callbacks.preemption import Preemption
from pipeline.training.callbacks.seeding import StepSeed
from pipeline.training.callbacks.throughput import Throughput
from pipeline.training.checkpoint import Checkpoints

V, T = 13, 8


class ToyModel(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, width)
        self.layer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(width, V)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.layer(self.embedding(batch["input_ids"])))


class MeanLoss(Metric):
    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("n_tokens", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, nats: Tensor, n_tokens: int) -> None:
        self.nats += nats
        self.n_tokens += n_tokens

    def compute(self) -> Tensor:
        return self.nats / self.n_tokens


class ToyObjective:
    def loss(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        labels = batch["labels"].reshape(-1)
        nats = F.cross_entropy(model(batch).reshape(-1, V), labels, reduction="sum", ignore_index=-100)
        return nats, batch["label_index"].numel()

    def metrics(self) -> MetricCollection:
        return MetricCollection({"loss": MeanLoss()})

    def update(self, metrics: MetricCollection, model: Any, batch: Mapping[str, Tensor]) -> None:
        metrics.update(*self.loss(model, batch))


@dataclass(frozen=True)
class ToyOptimizer:
    lr: float = 0.01

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = [
            {"params": list(model.embedding.parameters()), "lr": 2 * self.lr, "name": "embeddings"},
            {"params": [*model.layer.parameters(), *model.head.parameters()], "name": "matrices"},
        ]
        return torch.optim.AdamW(groups, lr=self.lr)


class ToySchedule:
    def factor(self, step: int, max_steps: int) -> float:
        return 1.0 - 0.9 * step / max_steps


class ToyRows:
    """Seeded rows of T + 1 tokens in one segment; row 1 has padding."""

    def __init__(self, n_rows: int, seed: int) -> None:
        self.ids = np.random.default_rng(seed).integers(1, V, (n_rows, T + 1))
        self.segment_ids = np.ones_like(self.ids)
        self.segment_ids[1, -2:] = 0

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Any, /) -> tuple[Any, Any]:
        return self.ids[indices], self.segment_ids[indices]


class Recorder(Logger):
    """Keeps what is logged: (step, name, value)."""

    name = version = "recorder"

    def __init__(self) -> None:
        self.points: list[tuple[int, str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.points += [(step, name, value) for name, value in metrics.items()]

    def log_hyperparams(self, params: Any) -> None:
        pass

    def of(self, name: str) -> dict[int, float]:
        return {step: value for step, key, value in self.points if key == name}


class BatchOrder(Callback):
    """Records the tokens of every training batch, and the loss of each."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(hash(batch["input_ids"].numpy().tobytes()))
        self.losses.append(outputs["loss"].item())


class StopAfter(Callback):
    """Interrupts a training as a crash would, after the batch in which this step ended."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= self.step:
            raise CrashError


class CrashError(Exception):
    """The crash that StopAfter plays."""


@dataclass(frozen=True, kw_only=True)
class ToyTraining:
    """Options of a toy training; `fit` runs it."""

    folder: Path
    max_steps: int = 12
    n_rows: int = 20
    batch_size: int = 4
    accumulate: int = 1
    num_workers: int = 0
    ema_decay: float | None = 0.8
    patience: int | None = None
    time_budget_s: float | None = None
    save_every_steps: int = 1
    val_every_steps: int = 5
    log_every_steps: int = 3
    devices: int = 1
    seed: int = 5
    clip: float | None = 1.0
    monitor: str = "val/loss"
    uneven: bool = False  # most rows have few labels; and no dropout
    objective: Any = field(default_factory=ToyObjective)
    extra: tuple[Callback, ...] = ()

    def with_(self, **changes: Any) -> "ToyTraining":
        return replace(self, **changes)

    def callbacks(self) -> list[Callback]:
        checkpoints = Checkpoints(self.folder, every_n_steps=self.save_every_steps, monitor=self.monitor)
        optional = [
            self.ema_decay and EMA(self.ema_decay),
            self.patience and EarlyStopping("val/loss", patience=self.patience, check_finite=False),
            self.time_budget_s and TimeBudget(self.time_budget_s),
        ]
        return [
            StepSeed(self.seed),
            Passes(),
            *[callback for callback in optional if callback],
            Throughput(rows_per_epoch=self.n_rows),
            NonFiniteGuard(),
            FinalValidation(),
            *self.extra,
            checkpoints,
            Preemption(checkpoints),
        ]

    def trainer(self, logger: Logger | None = None) -> L.Trainer:
        return L.Trainer(
            accelerator="cpu",
            devices=self.devices,
            strategy="auto" if self.devices == 1 else "ddp",
            max_steps=self.max_steps,
            max_epochs=-1,
            val_check_interval=self.val_every_steps * self.accumulate,
            check_val_every_n_epoch=None,
            accumulate_grad_batches=self.accumulate,
            gradient_clip_val=self.clip,
            callbacks=self.callbacks(),
            plugins=[AtomicCheckpointIO()],
            logger=logger or False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=self.log_every_steps,
            default_root_dir=self.folder,
        )

    def module(self) -> LitModule:
        torch.manual_seed(self.seed)
        model = ToyModel()
        if self.uneven:
            model.layer[2].p = 0.0
        return LitModule(
            model,
            self.objective,
            optimizer=ToyOptimizer(),
            schedule=ToySchedule(),
            max_steps=self.max_steps,
        )

    def data(self) -> PretrainDataModule:
        rows = ToyRows(self.n_rows, seed=1)
        if self.uneven:
            rows.segment_ids[::3, 2:] = 0
            rows.segment_ids[1::3, 4:] = 0
        return PretrainDataModule(
            rows,
            ToyRows(6, seed=2),
            collate=collate_causal,
            validation_collate=collate_causal,
            batch_size=self.batch_size,
            validation_batch_size=4,
            seed=self.seed,
            num_workers=self.num_workers,
        )

    def fit(self, *, resume: bool = False, logger: Logger | None = None) -> L.Trainer:
        """Train; from `last.ckpt`, if there is one and `resume` is set."""
        trainer = self.trainer(logger)
        last = self.folder / "last.ckpt"
        start = str(last) if resume and last.exists() else None
        trainer.fit(self.module(), datamodule=self.data(), ckpt_path=start)
        return trainer


def checkpoint(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return AtomicCheckpointIO().load_checkpoint(folder / name)


#: Parts of a checkpoint that hold the time of day or the folder.
_CLOCKS = {"elapsed_s", "pytorch-lightning_version"}


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ, bit for bit; clocks and Lightning's counters of loops are left out."""
    if isinstance(a, Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return [f"{path}: keys {a.keys() ^ b.keys()}"]
        keys = [key for key in a if key not in _CLOCKS and key != "loops"]
        return [line for key in keys for line in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{path}: length"]
        pairs = zip(a, b, strict=True)
        return [line for i, (x, y) in enumerate(pairs) for line in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a!r} != {b!r}"]


def main() -> None:
    """Train in this process until it is killed; exits with the code of the interruption."""
    from pipeline.training.callbacks.preemption import RunInterrupted

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    numbers = ("max-steps", "save-every-steps", "batch-size", "accumulate", "num-workers", "devices")
    for name in (*numbers, "val-every-steps"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--uneven", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--tell", action="store_true", help="print each step")
    parser.add_argument("--crash-after", type=int)
    given = {key: value for key, value in vars(parser.parse_args()).items() if value is not None}
    resume, tell, crash = given.pop("resume"), given.pop("tell"), given.pop("crash_after", None)
    extra: list[Callback] = [Teller()] if tell else []
    if crash is not None:
        extra.append(StopAfter(crash))
    try:
        ToyTraining(**given, extra=tuple(extra)).fit(resume=resume)
    except RunInterrupted as interruption:
        print(interruption, file=sys.stderr, flush=True)
        sys.exit(interruption.exit_code)


class Teller(Callback):
    """Prints each finished step, for a test that waits for one."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        os.write(1, f"step {trainer.global_step}\n".encode())


if __name__ == "__main__":
    main()
