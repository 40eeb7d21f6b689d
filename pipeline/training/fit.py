"""Train: set up callbacks and the Lightning Trainer, fit, and return the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from modules.lit_module import LitModule, Objective
from modules.optim import LearningRates
from modules.schedules import Schedule
from modules.sharding import without_memory
from modules.transformer import set_compiled, set_recompute
from pipeline import processes, report
from pipeline.config.construct import construct
from pipeline.config.plain import to_plain
from pipeline.config.sizes import smaller_sizes
from pipeline.errors import RunInterrupted
from pipeline.machine.compiling import use_own_cache
from pipeline.machine.out_of_memory import is_out_of_memory, out_of_memory_in_training
from pipeline.tasks.base import Sample
from pipeline.tracking.logger import TrackingLogger
from pipeline.training.callbacks.averaging import EMA
from pipeline.training.callbacks.forecast import Forecast
from pipeline.training.callbacks.guard import NonFiniteGuard
from pipeline.training.callbacks.limits import EarlyStopping, FinalValidation, TimeBudget
from pipeline.training.callbacks.passes import Passes
from pipeline.training.callbacks.plateau import Plateau
from pipeline.training.callbacks.preemption import Preemption
from pipeline.training.callbacks.progress import ProgressBar
from pipeline.training.callbacks.samples import Samples
from pipeline.training.callbacks.seeding import StepSeed
from pipeline.training.callbacks.throughput import Throughput
from pipeline.training.callbacks.trend import LossTrend
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.export import load_weights
from pipeline.training.lost import end_if_others_are_silent, is_lost_connection, lost_process
from pipeline.training.states import AnyPrepared, Prepared, Trained
from pipeline.training.trainer import build_trainer
from pipeline.tuning import return_freed_memory


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a prepared run is trained.

    Args:
        objective: the loss to minimize.
        data: the batches.
        samples: generates sample outputs at each validation.
        show: called with the step and these samples.
        monitor: the validation metric that selects the best weights.
        mode: whether a smaller or a larger value of it is better.
        callbacks: further callbacks; they run first, so that later ones can read the metrics that they log.
    """

    objective: Objective
    data: L.LightningDataModule
    samples: Callable[[], list[Sample]]
    show: Callable[[int, list[Sample]], None]
    monitor: str = "val/loss"
    mode: Literal["min", "max"] = "min"
    callbacks: Sequence[Callback] = field(default_factory=tuple)


def train(prepared: AnyPrepared, training: Training) -> Trained[AnyPrepared]:
    """Train, and load the best weights into the model. Only the first process returns; others exit.

    Raises:
        RunInterrupted: if a signal stopped training, after saving a checkpoint.
    """
    config, options, run = prepared.config, prepared.options, prepared.run
    checkpoints = Checkpoints(
        run.checkpoints,
        every_n_steps=options.checkpoint_interval_steps,
        monitor=training.monitor,
        mode=training.mode,
    )
    throughput, trend = Throughput(rows_per_epoch=prepared.n_rows), LossTrend()
    schedule = construct(config.schedule, Schedule)
    trainer = build_trainer(
        options,
        callbacks=[
            *_callbacks(prepared, training, throughput, schedule),
            trend,
            checkpoints,
            Preemption(checkpoints),
        ],
        logger=TrackingLogger(prepared.tracked),
    )
    set_recompute(prepared.model, options.activation_checkpointing)
    if options.compile is True:
        use_own_cache(Path(config.cache_dir))
        set_compiled(prepared.model, True)
    whole = without_memory(prepared.model) if options.is_sharded else prepared.model
    module = LitModule(
        prepared.model,
        training.objective,
        optimizer=construct(config.optimizer, LearningRates),
        schedule=schedule,
        max_steps=options.n_steps,
    )
    return_freed_memory()
    try:
        with end_if_others_are_silent(partial(_record_failure, prepared)):
            trainer.fit(module, training.data, ckpt_path=run.last_checkpoint if run.resumed else None)
    except RunInterrupted:
        prepared.tracked.end("KILLED")
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory_in_training(
                error,
                options,
                step=trainer.global_step,
                resumes=run.name if run.last_checkpoint.exists() else None,
                has_size=prepared.bundle is None,
            ) from error
        if isinstance(error, RuntimeError) and is_lost_connection(error):
            raise lost_process(trainer, error) from error
        raise
    if not processes.is_first():
        raise SystemExit(0)
    prepared = replace(prepared, model=whole)
    peak_bytes = torch.cuda.max_memory_allocated() if module.on_gpu else None
    load_weights(prepared.model, checkpoints.best_path)
    pace = report.describe_pace(throughput.elapsed_s, throughput.tokens_seen)
    return Trained(
        prepared=prepared,
        checkpoints=checkpoints,
        trend=trend,
        pace=pace,
        elapsed_s=throughput.elapsed_s,
        tokens_seen=throughput.tokens_seen,
        step_s=throughput.step_s,
        peak_bytes=peak_bytes,
    )


def _record_failure(prepared: Prepared) -> None:
    prepared.run.write(status="FAILED")
    prepared.tracked.end("FAILED")


def _callbacks(
    prepared: Prepared, training: Training, throughput: Throughput, schedule: Schedule
) -> list[Callback]:
    """Return the callbacks, in the order in which they are called."""
    config, options = prepared.config, prepared.options
    monitor, mode = training.monitor, training.mode
    budget = TimeBudget(options.time_budget_s) if options.time_budget_s else None
    callbacks: list[Callback] = [StepSeed(config.seed), Passes()]
    callbacks += training.callbacks  # before EMA, which swaps its averaged weights out when a validation ends
    if options.ema_decay is not None:
        callbacks.append(EMA(options.ema_decay))
    sizes = partial(smaller_sizes, to_plain(config.size), prepared.tokenizer.vocab_size)
    forecast = Forecast(sizes if prepared.bundle is None else dict, time_budget=budget)
    bar = ProgressBar(f"{config.stage.name} {config.choices.task}", time_budget=budget)
    callbacks += [NonFiniteGuard(), throughput, forecast, bar, FinalValidation()]
    if budget is not None:
        callbacks.append(budget)
    if options.patience:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=options.patience))
    if options.plateau:
        callbacks.append(Plateau(monitor, mode=mode, patience=options.plateau, schedule=schedule))
    return [*callbacks, Samples(training.samples, training.show)]
