"""The states of a run: composed, started, prepared, trained; each is built once, from the previous one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from datamodules.corpus import Corpus
from datamodules.tokenizer import Tokenizer
from modules.model import Model
from pipeline import report
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.config.recorded import with_defaults, without_training
from pipeline.machine.choice import describe_machine, with_chosen
from pipeline.machine.options import TrainerOptions
from pipeline.runs.bundle import Bundle
from pipeline.runs.folders import RunFolder, open_run
from pipeline.runs.tags import pipeline_tag
from pipeline.tracking import Run, RunCard, TrackingOptions, start_run
from pipeline.training.callbacks.trend import LossTrend
from pipeline.training.checkpoint import Checkpoints


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A run that is fully configured but has no folder yet.

    Args:
        config: the complete configuration, in which options may still be `auto`.
        label: the prefix of the default name of the run.
        inputs: the inputs of the run.
        bundle: the bundle that it reads, if any.
        is_report: whether the run only measures and does not train.
    """

    config: Config
    label: str
    inputs: Mapping[str, str]
    bundle: Bundle | None
    is_report: bool = False


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run with its folder and its record in MLflow.

    Args:
        config: the final configuration, in which `auto` options have been resolved.
        options: the trainer options.
        bundle: the bundle that it reads, if any.
        run: the locked folder of the run.
        tracked: the run's record in MLflow.
    """

    config: Config
    options: TrainerOptions
    bundle: Bundle | None
    run: RunFolder
    tracked: Run


@dataclass(frozen=True, kw_only=True)
class Prepared(Started):
    """A started run with everything needed for training; subclasses of the stages add their rows.

    Args:
        options: the options of `Started`, with `max_steps` computed from `max_epochs`.
        corpus: the corpus that the rows were read from.
        tokenizer: the tokenizer of the bundle, or one trained for the run.
        model: the model, trained in place.
        n_rows: the number of rows, or windows of rows, in an epoch.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    model: Model
    n_rows: int


AnyPrepared = TypeVar("AnyPrepared", bound=Prepared)


@dataclass(frozen=True, kw_only=True)
class Trained(Generic[AnyPrepared]):
    """A prepared run after training; its model has the best weights.

    Args:
        prepared: the run before training.
        checkpoints: the checkpoints with the best and the last weights, and their metrics.
        trend: the validation losses of the run.
        pace: a description of its duration and speed.
        elapsed_s: the duration in seconds.
        tokens_seen: the number of tokens read.
        step_s: mean seconds per step, without validations and checkpoints; None if too few were logged.
        peak_bytes: the most memory in use on the first device; None on a CPU, which does not count it.
    """

    prepared: AnyPrepared
    checkpoints: Checkpoints
    trend: LossTrend
    pace: str
    elapsed_s: float
    tokens_seen: int
    step_s: float | None
    peak_bytes: float | None


@contextmanager
def start(composed: Composed) -> Iterator[Started]:
    """Open the run's folder and its record in MLflow, and close both however the run ends.

    Raises:
        RunError: if the folder cannot be written, is in use, or there is nothing to resume.
        TrackingError: if the URI of the store is invalid.
    """
    with open_run(composed.config, label=composed.label, inputs=composed.inputs) as run:
        config = with_chosen(composed.config, run.record.chosen)
        with record(config, run, is_report=composed.is_report) as tracked:
            machine = describe_machine(config, run.record.chosen)
            report.say("Run", f"{report.short(run.path)}{' (resumed)' if run.resumed else ''}, {machine}")
            if composed.bundle is not None:
                tracked.use_bundle(composed.bundle.folder)
            yield Started(
                config=config,
                options=construct(config.trainer, TrainerOptions),
                bundle=composed.bundle,
                run=run,
                tracked=tracked,
            )


def record(config: Config, run: RunFolder, *, is_report: bool) -> Run:
    """Start or resume the run's record in MLflow."""
    card = RunCard(
        stage=config.stage.name,
        name=run.name,
        config=without_training(with_defaults(config)),
        seed=config.seed,
        tags={key: str(value) for key, value in config.choices.items() if value is not None}
        | pipeline_tag(config),
        is_report=is_report,
    )
    tracking = construct(config.tracking, TrackingOptions)
    return start_run(card, options=tracking, run_folder=run.path, project_folder=Path.cwd())
