"""The training of the benchmarks of tracking: the Trainer of a run, tracked like a run."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback

from benchmarks.training import Training
from pipeline.tracking import Run
from pipeline.tracking.logger import TrackingLogger
from pipeline.training.callbacks.guard import NonFiniteGuard
from pipeline.training.callbacks.limits import FinalValidation
from pipeline.training.callbacks.progress import ProgressBar
from pipeline.training.callbacks.seeding import StepSeed
from pipeline.training.callbacks.steps import ends_optimizer_step
from pipeline.training.callbacks.throughput import Throughput
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.trainer import build_trainer


class Steps(NamedTuple):
    """The wall and processor seconds (of all threads) of each optimizer step."""

    wall_s: list[float]
    cpu_s: list[float]


class TimedRun(Run):
    """Forwards metrics to a run while it is `on`, and records the duration of each call."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.on = True
        self.calls_s: list[float] = []

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics at an optimizer step."""
        if not self.on:
            return
        begun = time.perf_counter()
        self._run.log_metrics(values, step)
        self.calls_s.append(time.perf_counter() - begun)


class StepTimes(Callback):
    """Measures the time from the end of each optimizer step to the end of the next.

    Args:
        at: step -> function that is called after it, for example to begin an outage.
    """

    def __init__(self, at: Mapping[int, Any]) -> None:
        self._at = at
        self._wall: list[float] = []
        self._cpu: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read both clocks."""
        if not ends_optimizer_step(trainer, batch_idx):
            return
        self._wall.append(time.perf_counter())
        self._cpu.append(time.process_time())
        if trainer.global_step in self._at:
            self._at[trainer.global_step]()

    @property
    def steps(self) -> Steps:
        """All steps except the first, which has no predecessor."""
        return Steps(_differences(self._wall), _differences(self._cpu))


class TrackedTraining(Training):
    """A training whose steps are tracked like those of `make pretrain`."""

    def run_tracked(self, n_steps: int, run: TimedRun, *, folder: Path, at: Mapping[int, Any]) -> Steps:
        """Make `n_steps` steps with the Trainer and a new optimizer."""
        times = StepTimes(at)
        options = replace(self.options, max_steps=n_steps, val_every_steps=n_steps)
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            callbacks = [
                StepSeed(self._seed),
                NonFiniteGuard(),
                Throughput(rows_per_epoch=len(self._rows)),
                ProgressBar("tracking", stream=nowhere),
                FinalValidation(),
                Checkpoints(folder, every_n_steps=n_steps),
                times,
            ]
            trainer = build_trainer(options, callbacks=callbacks, logger=TrackingLogger(run))
            trainer.fit(self.module, self._data())
        return times.steps


def _differences(clock: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(clock)]
