"""What every stage that trains shares: how its run is tracked, its callbacks, the bundles that come of it."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Callback

from datamodules.corpus import Corpus
from datamodules.tokenizer import Tokenizer
from modules.lit_module import LitModule, Objective
from modules.model import Model
from modules.optim import LearningRates
from modules.schedules import Schedule
from pipeline import processes, report
from pipeline.config.compose import BUNDLE_KEYS, NOTHING, compose_unchecked
from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.config.recorded import config_hash, filled, with_defaults, without_training
from pipeline.errors import RunInterrupted
from pipeline.machine.choice import with_chosen
from pipeline.machine.options import TrainerOptions
from pipeline.runs.bundle import DONE, Bundle, load_bundle, save_bundle
from pipeline.runs.checkpoint_files import AtomicCheckpointIO
from pipeline.runs.folders import NOT_IDENTITY, RunFolder
from pipeline.runs.ties import pipeline_tag
from pipeline.tasks.base import Sample
from pipeline.tracking import Run, RunCard, TrackingOptions, start_run
from pipeline.tracking.logger import TrackingLogger
from pipeline.tracking.provenance import collect_provenance
from pipeline.tracking.redaction import Redactor
from pipeline.training.callbacks.averaging import EMA
from pipeline.training.callbacks.guard import NonFiniteGuard
from pipeline.training.callbacks.limits import EarlyStopping, FinalValidation, TimeBudget
from pipeline.training.callbacks.plateau import Plateau
from pipeline.training.callbacks.preemption import Preemption
from pipeline.training.callbacks.progress import ProgressBar
from pipeline.training.callbacks.samples import Samples
from pipeline.training.callbacks.seeding import StepSeed
from pipeline.training.callbacks.throughput import Throughput
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.trainer import build_trainer

#: The groups that a run's name tells of, the most telling first.
_TOLD = ("data", "experiment", "model", "size", "position", "tokenizer", "optimizer", "schedule")
#: Letters of a corpus in the name of a run: MLflow's list shows some twenty of the whole.
_LONGEST_WORD = 16


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: what is trained, on what, and what is looked at on the way.

    Args:
        model: trained in place.
        objective: what is minimised.
        data: its batches.
        rows_per_epoch: rows of the training set.
        samples: shows what the model does, at each validation.
        show: gets the step and these samples.
        monitor: the validation metric that decides which weights are the best.
        mode: whether a smaller or a larger value of it is better.
        callbacks: what else happens; those that log validation metrics come before what reads them.
    """

    model: Model
    objective: Objective
    data: L.LightningDataModule
    rows_per_epoch: int
    samples: Callable[[], list[Sample]]
    show: Callable[[int, list[Sample]], None]
    monitor: str = "val/loss"
    mode: Literal["min", "max"] = "min"
    callbacks: Sequence[Callback] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True)
class BundleParts:
    """What goes into the bundles of a training, beside the weights and metrics of each."""

    model: Model
    tokenizer: Tokenizer
    model_config: Mapping[str, Any]
    task_config: Mapping[str, Any]
    provenance: Mapping[str, Any]


def label_of(config: Config) -> str:
    """What tells a training from others: its task, and of what it chooses what the task alone does not."""
    usual = compose_unchecked(config.stage.name, [f"task={config.choices.task}"]).choices
    words = [config.choices.task]
    from_nothing = config.init_from in (None, NOTHING)
    for group in _TOLD if from_nothing else [group for group in _TOLD if group not in BUNDLE_KEYS]:
        choice = config.choices.get(group)
        if choice is not None and choice != usual.get(group):
            words.append(_corpus_word(config) if group == "data" else choice)
    return "-".join(words)


def _corpus_word(config: Config) -> str:
    """The corpus's own name, or its first file's."""
    files = config.data.get("train")
    first = str(files[0] if isinstance(files, list | tuple) else files or config.choices.data)
    name = str(config.data.get("name") or Path(first).name.split(".")[0] or config.choices.data)
    return re.sub(r"\W+", "_", name)[:_LONGEST_WORD].strip("_") or str(config.choices.data)


def track(config: Config, run: RunFolder, *, is_report: bool = False) -> Run:
    """Begin to record the run, or go on with its record."""
    card = RunCard(
        stage=config.stage.name,
        name=run.name,
        config=without_training(with_defaults(with_chosen(config, run.record.chosen))),
        seed=config.seed,
        tags={key: str(value) for key, value in config.choices.items() if value is not None}
        | pipeline_tag(config),
        is_report=is_report,
    )
    tracking = construct(config.tracking, TrackingOptions)
    return start_run(card, options=tracking, run_folder=run.path, project_folder=Path.cwd())


def train(
    config: Config, options: TrainerOptions, training: Training, run: RunFolder, tracked: Run
) -> tuple[Checkpoints, str]:
    """Fit; gives the checkpoints, and how long it took in words. Of several processes the first one goes on.

    Raises:
        RunInterrupted: a signal stopped it, after a checkpoint.
    """
    checkpoints = Checkpoints(
        run.checkpoints,
        every_n_steps=options.checkpoint_interval_steps,
        monitor=training.monitor,
        mode=training.mode,
    )
    throughput = Throughput(rows_per_epoch=training.rows_per_epoch)
    schedule = construct(config.schedule, Schedule)
    trainer = build_trainer(
        options,
        callbacks=_callbacks(config, options, training, checkpoints, throughput, schedule),
        logger=TrackingLogger(tracked),
    )
    module = LitModule(
        training.model,
        training.objective,
        optimizer=construct(config.optimizer, LearningRates),
        schedule=schedule,
        max_steps=options.n_steps,
        compile=options.compile,
    )
    try:
        trainer.fit(module, training.data, ckpt_path=run.last_checkpoint if run.resumed else None)
    except RunInterrupted:
        tracked.end("KILLED")
        raise
    if not processes.is_first():
        raise SystemExit(0)
    return checkpoints, report.describe_pace(throughput.elapsed_s, throughput.tokens_seen)


def _callbacks(
    config: Config,
    options: TrainerOptions,
    training: Training,
    checkpoints: Checkpoints,
    throughput: Throughput,
    schedule: Schedule,
) -> list[Callback]:
    budget = TimeBudget(options.time_budget_s) if options.time_budget_s else None
    return [
        StepSeed(config.seed),
        *training.callbacks,  # before EMA, which takes its averaged weights away when a validation ends
        *([EMA(options.ema_decay)] if options.ema_decay is not None else []),
        NonFiniteGuard(),
        throughput,
        ProgressBar(f"{config.stage.name} {config.choices.task}", time_budget=budget),
        FinalValidation(),
        *([budget] if budget else []),
        *(
            [EarlyStopping(training.monitor, mode=training.mode, patience=options.patience)]
            if options.patience
            else []
        ),
        *(
            [Plateau(training.monitor, mode=training.mode, patience=options.plateau, schedule=schedule)]
            if options.plateau
            else []
        ),
        Samples(training.samples, training.show),
        checkpoints,
        Preemption(checkpoints),
    ]


def corpus_record(corpus: Corpus) -> dict[str, Any]:
    """What a bundle tells of the corpus that it was made from."""
    record = {"name": corpus.name, "fingerprint": corpus.fingerprint, "sources": corpus.sources}
    return {**record, "repeated": corpus.repeated} if corpus.repeated else record


def load_weights(model: Model, checkpoint: Path) -> int:
    """Put the weights of a checkpoint into `model`; gives the step that they are of."""
    state = AtomicCheckpointIO().load_checkpoint(checkpoint)
    prefix = "model."
    weights = {
        key.removeprefix(prefix): value
        for key, value in state["state_dict"].items()
        if key.startswith(prefix)
    }
    model.load_state_dict(weights)
    return int(state["global_step"])


def export(
    config: Config,
    run: RunFolder,
    tracked: Run,
    checkpoints: Checkpoints,
    parts: BundleParts,
    *,
    best_metrics: Mapping[str, float] | None = None,
) -> Bundle:
    """Write the bundles `last` and `best` from their checkpoints, record them, and read the best one back.

    `best_metrics` were measured on the best weights after training. Bundles go to MLflow and to other people:
    no secret of the configuration goes with them.
    """
    redactor = Redactor(os.environ)
    both = (
        ("last", checkpoints.last_path, checkpoints.last_metrics),
        ("best", checkpoints.best_path, {**checkpoints.best_metrics, **(best_metrics or {})}),
    )
    for name, file, metrics in both:
        step = load_weights(parts.model, file)
        save_bundle(
            run.bundles / name,
            model=parts.model,
            tokenizer=parts.tokenizer,
            model_config=redactor.value("", filled(parts.model_config, "model")),
            task_config=_without_secrets(filled(parts.task_config, "task"), config, redactor),
            config=redactor.value("", with_defaults(config)),
            provenance=redactor.value(
                "", {**parts.provenance, **_origin(config, run, tracked), "step": step}
            ),
            metrics=metrics,
        )
        tracked.log_bundle(run.bundles / name, name=name, step=step, metrics=metrics)
    run.keep(run.bundles / "best" / DONE)
    return load_bundle(run.bundles / "best")


def _without_secrets(task: Mapping[str, Any], config: Config, redactor: Redactor) -> dict[str, Any]:
    """The task's node; only what was configured is redacted.

    What the task has learnt of the rows, such as its labels, is data: a label that looks like a secret is
    still the label that the model gives.
    """
    asked = to_plain(config.task)
    return {
        key: redactor.value(key, value) if value == asked.get(key) else value for key, value in task.items()
    }


def _origin(config: Config, run: RunFolder, tracked: Run) -> dict[str, Any]:
    """Which run made a bundle, and of what: enough to make it again."""
    return {
        "run": run.name,
        "run_id": tracked.run_id,
        "stage": config.stage.name,
        "seed": config.seed,
        "config": config_hash(config, without=NOT_IDENTITY),
        "init_from": config.init_from,
        "code": dict(tracked.provenance) or _code(config.seed),
    }


def _code(seed: int) -> dict[str, str]:
    """Code, versions, machine and command, also where nothing is tracked."""
    return collect_provenance(Path.cwd(), argv=sys.argv, seed=seed, redactor=Redactor(os.environ))
