"""Time and profile training steps of a stage, as a callback of its real training."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from modules.flops import count_tokens
from pipeline.config.compose import compose
from pipeline.training.callbacks.steps import ends_optimizer_step
from pipeline.training.fit import train

Batch = Mapping[str, Tensor]

N_WARMUP_STEPS = 3

#: Options of the trainer, so that nothing else determines the length of the run, and all is in this process.
SHORT = {
    "max_epochs": "null", "time_budget_s": "null", "patience": "null", "plateau": "null",
    "val_rows": 1, "score_rows": 1, "devices": 1,
}  # fmt: skip

#: The phases of a step, each named for what ends it. The first includes what callbacks do after a step.
PHASES = ("batches and callbacks", "forward", "backward", "clipping and optimizer")

#: Kind of operation -> prefixes of the names of operations; the first match counts.
KINDS = {
    "attention": ("aten::_scaled_dot_product", "aten::_softmax", "aten::bmm"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::baddbmm", "aten::linear"),
    "loss": ("aten::_log_softmax", "aten::nll_loss", "_ChunkedNats", "_ProductNats"),
    "norms": ("_RMSNorm", "aten::native_layer_norm", "aten::_fused_rms_norm", "aten::linalg_vector_norm"),
    "random numbers": ("aten::random_", "aten::bernoulli_", "aten::native_dropout"),
    "copies and casts": ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::cat", "aten::contiguous"),
    "memory": ("aten::empty", "aten::zero", "aten::fill_"),
    "data": ("enumerate(DataLoader)",),
}
REST = "elementwise operations and Python"


def profile_steps(stage: str, overrides: Sequence[str], n_steps: int) -> dict[str, Any]:
    """Train for some steps, and return their time by phase and by kind of operation.

    Raises:
        UserError: if an override is wrong, or the stage cannot train.
    """
    n_all = N_WARMUP_STEPS + 2 * n_steps
    name = f"profile-{os.getpid()}"
    short = {**SHORT, "max_steps": n_all, "val_every_steps": n_all}
    words = [*overrides, *(f"trainer.{key}={value}" for key, value in short.items())]
    config = compose(stage, [*words, "tracking=off", f"name={name}"])
    steps = StepProfile(n_steps)
    ready = import_module(f"pipeline.stages.{stage}.stage").ready
    try:
        with ready(config) as (prepared, training):
            train(prepared, replace(training, callbacks=[steps, *training.callbacks]))
    finally:
        shutil.rmtree(Path(config.runs_dir) / name, ignore_errors=True)
    return {
        "overrides": " ".join(overrides),
        "precision": prepared.options.precision,
        "parameters": sum(parameter.numel() for parameter in prepared.model.parameters()),
        "step_s": round(steps.seconds / n_steps, 4),
        "tokens_per_second": round(steps.n_tokens / steps.seconds),
        "phases": shares(steps.phases),
        "kinds": shares(kinds(steps.profiler)),
    }


class StepProfile(Callback):
    """Times `n_steps` steps after a few others, and then profiles as many.

    Most other callbacks run after it: their work at the end of a step counts as the first phase of the next.
    """

    def __init__(self, n_steps: int) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.phases = dict.fromkeys(PHASES, 0.0)
        self.n_tokens = 0
        self._n_steps = n_steps
        self._since: float | None = None  # the end of the last phase, during the timed steps

    @property
    def seconds(self) -> float:
        """The duration of the timed steps."""
        return sum(self.phases.values())

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """End what happens between two batches."""
        self._end(PHASES[0], pl_module)
        if self._since is not None:
            n_tokens = count_tokens(batch)
            self.n_tokens += int(n_tokens["read"] + n_tokens.get("decoded", 0))

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """End the forward pass."""
        self._end(PHASES[1], pl_module)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the backward pass."""
        self._end(PHASES[2], pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """End the step; after the warm-up start the clock, after the timed steps the profiler."""
        self._end(PHASES[3], pl_module)
        if not ends_optimizer_step(trainer, batch_idx):
            return
        n_steps = trainer.global_step - N_WARMUP_STEPS
        if n_steps == 0:
            self._since = time.perf_counter()
        elif n_steps == self._n_steps:
            self._since = None
            self.profiler.start()
        elif n_steps == 2 * self._n_steps:
            self.profiler.stop()

    def _end(self, phase: str, module: L.LightningModule) -> None:
        if self._since is not None:
            if module.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.phases[phase] += now - self._since
            self._since = now


def kinds(profiler: profile) -> dict[str, float]:
    """Return the time of each kind of operation in microseconds, without nested ones of another kind.

    The loss includes all that is nested in it, such as the products with the head.
    """
    found: Counter[str] = Counter()
    for event in profiler.events() or ():  # type: ignore[no-untyped-call]
        fitting = (kind for kind, names in KINDS.items() if event.name.startswith(names))
        found["loss" if _is_in_loss(event) else next(fitting, REST)] += event.self_cpu_time_total
    return dict(found)


def _is_in_loss(event: Any) -> bool:
    while event is not None and not event.name.startswith(KINDS["loss"]):
        event = event.cpu_parent
    return event is not None


def shares(found: Mapping[str, float]) -> dict[str, float]:
    """Return each time as a fraction of the total, largest first."""
    total = sum(found.values())
    return {name: round(value / total, 3) for name, value in Counter(found).most_common()}
