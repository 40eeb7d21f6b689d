"""Estimate, soon after its start, how long training will take."""

import sys
import time
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from pipeline import report
from pipeline.training.callbacks.limits import TimeBudget
from pipeline.training.callbacks.steps import ends_optimizer_step
from pipeline.words import clock

#: The seconds to measure. The first step compiles kernels and is not measured.
ENOUGH_S = 4.0
#: The cost of a validation batch relative to a training pass: a forward pass is a third of the operations
#: (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", table 1 and section 2.1).
FORWARD_PART = 1 / 3
#: If training takes longer than LONG_S, a setting that takes at most SHORT_S is suggested.
LONG_S, SHORT_S = 600.0, 200.0


class Forecast(Callback):
    """Report how long the rest of training takes and, if that is long, how to train for three minutes.

    Args:
        smaller_sizes: returns name -> fraction of this cost, largest first; empty if the size cannot be
            chosen.
        time_budget: the budget of the run, if it has one, since it may end training before the last step.
    """

    def __init__(
        self, smaller_sizes: Callable[[], Mapping[str, float]], *, time_budget: TimeBudget | None = None
    ) -> None:
        self._smaller_sizes = smaller_sizes
        self._time_budget = time_budget
        self._n_steps = 0
        self._seconds = 0.0
        self._since: tuple[int, float] | None = None
        self._is_warm = False
        self._is_said = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure the first step after a validation, too."""
        if self._since is None and self._is_warm and batch_idx % trainer.accumulate_grad_batches == 0:
            self._since = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the first steps."""
        if self._is_said or not ends_optimizer_step(trainer, batch_idx) or not trainer.is_global_zero:
            return
        step, now = trainer.global_step, time.monotonic()
        if self._since is not None:
            self._n_steps += step - self._since[0]
            self._seconds += now - self._since[1]
        self._since, self._is_warm = (step, now), True
        if self._seconds >= ENOUGH_S:
            self._is_said = True
            if step < trainer.max_steps:
                step_s = self._seconds / self._n_steps
                self._say(step_s * _with_validations(trainer), trainer.max_steps - step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do not measure the validation."""
        self._since = None

    def _say(self, step_s: float, n_steps: int) -> None:
        budget_s = None if self._time_budget is None else max(self._time_budget.left_s, 0.0)
        with tqdm.external_write_mode(file=sys.stderr):  # above the bar
            report.say("Time", describe_forecast(step_s, n_steps, self._smaller_sizes, budget_s=budget_s))


def _with_validations(trainer: L.Trainer) -> float:
    """Return the time that is left relative to that of the steps alone.

    What a fine-tuning predicts in validations is not counted.
    """
    interval, passes_per_step = trainer.val_check_batch, trainer.accumulate_grad_batches
    if not trainer.enable_validation or not isinstance(interval, int):
        return 1.0
    done, whole = trainer.global_step * passes_per_step, trainer.max_steps * passes_per_step
    n_validations = ceil(whole / interval) - (done - 1) // interval  # one may follow right after this step
    return 1 + FORWARD_PART * n_validations * sum(trainer.num_val_batches) / (whole - done)


def describe_forecast(
    step_s: float,
    n_steps: int,
    smaller_sizes: Callable[[], Mapping[str, float]],
    *,
    budget_s: float | None = None,
) -> str:
    """Describe the time left and, if it is long, a setting that takes about three minutes."""
    left_s = step_s * n_steps
    if budget_s is not None and budget_s < left_s:
        return f"about {clock(budget_s)}, the time budget; all {n_steps:,} steps would take {clock(left_s)}"
    text = f"about {clock(left_s)} for {n_steps:,} {'step' if n_steps == 1 else 'steps'}"
    if left_s <= LONG_S:
        return text
    for name, part in smaller_sizes().items():
        if step_s * n_steps * part <= SHORT_S:
            return f"{text}; size={name} would take about {clock(step_s * n_steps * part)}"
    few = max(1, int(180 / step_s))
    return f"{text}; trainer.max_steps={few} would take about {clock(few * step_s)}"
